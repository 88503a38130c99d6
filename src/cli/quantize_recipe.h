#pragma once

#include <filesystem>
#include <string>

#include "checkpoint/recipe.h"

namespace decant::cli {

/// A recipe by its name, for a checkpoint: the mixed ones go by layer, so they need to know how
/// many it has. Errors: UsageError naming the recipes; ConfigError for a config without layers.
Recipe recipe_for(const std::filesystem::path& source, const std::string& name);

}  // namespace decant::cli
