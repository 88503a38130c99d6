#include "checkpoint/recipe.h"

#include <algorithm>
#include <charconv>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/quantization.h"

namespace decant {
namespace {

constexpr int64_t kMaxRules = 65536;

// The number at the start of `text`, which it is taken off; -1 if there is none.
int take_number(std::string_view& text) {
  int value = -1;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || value < 0) return -1;
  text.remove_prefix(static_cast<size_t>(parsed.ptr - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

std::optional<Format> uniform(std::string_view name) {
  if (const auto micro = micro_format(name)) return micro;
  const int bits = take_number(name);
  int group = 64;
  if (bits < 0 || !take(name, "bit")) return std::nullopt;
  if (take(name, "-g")) group = take_number(name);
  if (!name.empty() || !affine_supported(bits, group)) return std::nullopt;
  return Format::affine(bits, group);
}

// Layers to which mixed recipes give more bits: the first and the last eighth, and every third
// between them.
bool is_sensitive(int64_t layer, int64_t layers) {
  const int64_t eighth = layers / 8;
  return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

Recipe mixed(std::string_view name, int low, int high, int64_t layers) {
  Recipe out;
  out.name = name;
  const Format more = Format::affine(high, 64);
  out.format = Format::affine(low, 64);
  for (int64_t i = 0; i < layers; ++i) {
    if (!is_sensitive(i, layers)) continue;
    for (const char* projection : {"v_proj", "v_a_proj", "v_b_proj", "down_proj"})
      out.rules.push_back({fmt::format("*layers.{}.*{}*", i, projection), more});
  }
  out.rules.push_back({"*lm_head*", more});
  out.rules.push_back({"*", out.format});  // in such a recipe routers get the low width too
  return out;
}

constexpr std::string_view kStacks[] = {"*.switch_mlp.*", "*.switch_glu.*"};

// Experts in nvfp4; everything that every token passes, in eight bits.
Recipe nvfp4_experts() {
  Recipe out{"nvfp4-experts", Format::affine(8, 64), {}};
  for (std::string_view stack : kStacks) out.rules.push_back({std::string(stack), Format::nvfp4()});
  return out;
}

// Experts in three bits, in sensitive layers four; attention, shared experts and dense layers four;
// indexers eight, embedding and head six. Routers stay as they are.
Recipe glm_demolition(int64_t layers) {
  Recipe out{"glm-demolition", Format::affine(4, 64), {}};
  out.rules.push_back({"*.mlp.gate", std::nullopt});
  out.rules.push_back({"*.indexer.*", Format::affine(8, 64)});
  out.rules.push_back({"*embed_tokens", Format::affine(6, 64)});
  out.rules.push_back({"*lm_head", Format::affine(6, 64)});
  for (int64_t i = 0; i < layers; ++i)
    if (is_sensitive(i, layers))
      for (std::string_view stack : kStacks)
        out.rules.push_back({fmt::format("*layers.{}.{}", i, stack), Format::affine(4, 64)});
  for (std::string_view stack : kStacks)
    out.rules.push_back({std::string(stack), Format::affine(3, 64)});
  return out;
}

void write_format(Json& out, const Format& format) {
  out["group_size"] = format.group;
  out["bits"] = format.bits;
  out["mode"] = mode_name(format);
}

}  // namespace

bool matches_pattern(std::string_view pattern, std::string_view text) {
  // Only the last star needs to be tried again: linear in practice, quadratic at worst.
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;
  size_t resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool Recipe::goes_by_layer(std::string_view name) {
  return name.starts_with("mixed") || name.starts_with("glm");
}

Recipe Recipe::named(std::string_view given, int64_t layers) {
  std::string name(given);  // mlx-lm writes underscores
  std::replace(name.begin(), name.end(), '_', '-');
  if (const auto format = uniform(name)) return {name, *format, {}};
  if (name == "nvfp4-experts") return nvfp4_experts();
  if (name == "glm-demolition") return glm_demolition(layers);
  for (const auto& [low, high] : {std::pair{2, 6}, {3, 4}, {3, 5}, {3, 6}, {3, 8}, {4, 6}, {4, 8}})
    if (name == fmt::format("mixed-{}-{}", low, high)) return mixed(name, low, high, layers);
  throw UsageError(
      "[recipe] expected Nbit or Nbit-gG (N in 1 2 3 4 5 6 8, G in 32 64 128), mxfp4, mxfp8, "
      "nvfp4, "
      "mixed-2-6, mixed-3-4, mixed-3-5, mixed-3-6, mixed-3-8, mixed-4-6, mixed-4-8, nvfp4-experts, "
      "glm-demolition or a JSON file, got {}",
      quote(given));
}

Recipe Recipe::from_json(const Json& json, std::string_view where) {
  const ConfigReader reader(json, std::string(where));
  Recipe out;
  out.name = reader.value_or("name", "custom");
  out.format = read_format(reader);
  if (!reader.has("rules")) return out;
  const Json& rules = json["rules"];
  if (!rules.is_array() || static_cast<int64_t>(rules.size()) > kMaxRules)
    reader.fail("rules", fmt::format("a list of at most {}", kMaxRules));
  for (size_t i = 0; i < rules.size(); ++i) {
    const ConfigReader rule(rules[i], fmt::format("{}: rules[{}]", where, i));
    const auto pattern = rule.require<std::string>("pattern");
    const bool keep = rule.value_or("keep", false);
    if (keep && (rule.has("bits") || rule.has("group_size") || rule.has("mode")))
      rule.fail("keep", "false beside bits, group_size or mode");
    out.rules.push_back({pattern, keep ? std::nullopt : std::optional(read_format(rule))});
  }
  return out;
}

Json Recipe::to_json() const {
  Json out = Json::object();
  out["name"] = name;
  write_format(out, format);
  out["rules"] = Json::array();
  for (const RecipeRule& rule : rules) {
    Json entry = Json::object();
    entry["pattern"] = rule.pattern;
    if (rule.format) {
      write_format(entry, *rule.format);
    } else {
      entry["keep"] = true;
    }
    out["rules"].push_back(std::move(entry));
  }
  return out;
}

const RecipeRule* Recipe::rule_for(std::string_view path) const {
  for (const RecipeRule& rule : rules)
    if (matches_pattern(rule.pattern, path)) return &rule;
  return nullptr;
}

}  // namespace decant
