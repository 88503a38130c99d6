#include "checkpoint/weight_load.h"

namespace decant {

Renames Renames::text_model() {
  Renames out;
  out.layouts = {
      {},
      {{"model.", "model.language_model."}},
      {{"model.", "language_model.model."}, {"lm_head.", "language_model.lm_head."}},
      {{"model.", "language_model."}},
  };
  return out;
}

std::string Renames::apply(const Layout& layout, std::string_view path) {
  // A module's path has no dot at its end, yet a rule for "vision_tower." must fit "vision_tower".
  const std::string dotted = std::string(path) + ".";
  for (const Rule& rule : layout) {
    if (!dotted.starts_with(rule.asked)) continue;
    std::string out = rule.stored + dotted.substr(rule.asked.size());
    out.pop_back();
    return out;
  }
  return std::string(path);
}

int64_t WeightSet::bytes() const {
  int64_t total = 0;
  for (const Weight& weight : storage_) total += weight.bytes();
  return total;
}

const Weight* WeightSet::find(std::string_view name) const {
  for (const Weight& weight : storage_)
    if (weight.name == name) return &weight;
  return nullptr;
}

}  // namespace decant
