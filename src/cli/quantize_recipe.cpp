#include "cli/quantize_recipe.h"

#include "base/errors.h"
#include "base/json.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

int64_t layer_count(const fs::path& source) {
  const Json config = read_json_file(source / "config.json");
  for (const Json* at :
       {&config, config.contains("text_config") ? &config["text_config"] : nullptr})
    if (at != nullptr && at->is_object() && at->contains("num_hidden_layers") &&
        (*at)["num_hidden_layers"].is_number_unsigned()) {
      const auto layers = (*at)["num_hidden_layers"].get<uint64_t>();
      if (layers <= 4096) return static_cast<int64_t>(layers);
    }
  throw ConfigError("[config] {}: num_hidden_layers: expected a number of layers up to 4096",
                    (source / "config.json").string());
}

}  // namespace

Recipe recipe_for(const fs::path& source, const std::string& name) {
  return Recipe::named(name, Recipe::goes_by_layer(name) ? layer_count(source) : 0);
}

}  // namespace decant::cli
