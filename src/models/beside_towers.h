#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/weight_load.h"

namespace decant {

/// Names of a text model that is stored alone or inside a multimodal one. `parts` are the modules
/// of the latter beside the text model: their names do not take the text model's prefix.
inline Renames renames_beside(std::span<const char* const> parts) {
  Renames out;
  for (const std::string_view prefix :
       {"model.", "model.language_model.", "language_model.model."}) {
    Renames::Layout& layout = out.layouts.emplace_back();
    // Converters that put the text model's name first leave the parts without a prefix.
    const bool bare = prefix == "language_model.model.";
    for (const char* part : parts) {
      const std::string name = std::string(part) + ".";
      layout.push_back({"model." + name, bare ? name : "model." + name});
    }
    layout.push_back({"model.", std::string(prefix)});
    if (bare) layout.push_back({"lm_head.", "language_model.lm_head."});
  }
  return out;
}

/// The tensors of these parts, in either spelling, are known and not used.
inline void ignore_parts(const WeightScope& root, std::span<const char* const> parts) {
  for (const char* part : parts)
    for (const char* prefix : {"", "model."}) root.ignore(std::string(prefix) + part);
}

/// The module `name` of a checkpoint, at the top or below "model.", if it has the parameter
/// `probe`.
inline std::optional<WeightScope> find_part(const WeightScope& root, std::string_view name,
                                            std::string_view probe) {
  for (const WeightScope& scope : {root / "model" / name, root / name})
    if (scope.has(probe)) return scope;
  return std::nullopt;
}

}  // namespace decant
