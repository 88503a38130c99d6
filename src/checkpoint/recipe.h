#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/format.h"

namespace decant {

using Json = nlohmann::ordered_json;

/// A format for the modules a pattern names (`*` stands for any characters, `?` for one); without
/// a format they stay in floating point.
struct RecipeRule {
  std::string pattern;
  std::optional<Format> format;
};

/// True if all of `text` fits `pattern`.
bool matches_pattern(std::string_view pattern, std::string_view text);

/// How a checkpoint is quantised: rules in order, of which the first that fits a module path
/// decides, and a format for all other modules.
struct Recipe {
  std::string name;
  Format format = Format::affine(4, 64);
  std::vector<RecipeRule> rules;

  /// "4bit", "6bit-g32", "mxfp4", "mxfp8", "nvfp4": one format; "mixed-2-6", "mixed-3-4",
  /// "mixed-3-6", "mixed-4-6" (and mlx-vlm's 3-5, 3-8, 4-8): the higher width for value and down
  /// projections of the first and last eighth of `layers`, of every third layer between, and for
  /// the LM head; "nvfp4-experts": all but the experts in eight bits; "glm-demolition": experts of
  /// three bits, in those layers four, indexers of eight, embedding and head of six, all else of
  /// four, routers as they are. mlx-lm's underscores are taken too. Errors: UsageError naming the
  /// recipes there are.
  static Recipe named(std::string_view name, int64_t layers = 0);
  /// True for names whose recipe depends on the number of layers.
  static bool goes_by_layer(std::string_view name);
  /// `{"name", "bits", "group_size", "mode", "rules": [{"pattern", "bits", "group_size", "mode"} or
  /// {"pattern", "keep": true}]}`. Errors: ConfigError.
  static Recipe from_json(const Json& json, std::string_view where);
  Json to_json() const;

  /// The first rule that fits `path`, or null.
  const RecipeRule* rule_for(std::string_view path) const;
};

}  // namespace decant
