#include "sampling/token_history.h"

namespace decant {

TokenCount& TokenHistory::entry(int32_t token) {
  const auto [at, added] = index_.try_emplace(token, counts_.size());
  if (added) counts_.push_back({.id = token});
  return counts_[at->second];
}

void TokenHistory::add_prompt(std::span<const int32_t> tokens) {
  for (int32_t token : tokens) entry(token).in_prompt = true;
}

void TokenHistory::add_generated(int32_t token) { ++entry(token).generated; }

}  // namespace decant
