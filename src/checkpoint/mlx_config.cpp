#include "checkpoint/mlx_config.h"

#include <string>
#include <utility>
#include <vector>

namespace decant {
namespace {

using Additions = std::vector<std::pair<std::string, Json>>;

void add_theta(Additions& out, const char* key, const Json& rotation) {
  if (rotation.is_object() && rotation.contains("rope_theta"))
    out.emplace_back(key, rotation["rope_theta"]);
}

Additions additions_to(const Json& config) {
  Additions out;
  if (const auto found = config.find("rope_parameters");
      found != config.end() && found->is_object()) {
    const Json& rotation = *found;
    if (rotation.contains("full_attention"))
      add_theta(out, "rope_theta", rotation["full_attention"]);
    if (rotation.contains("sliding_attention"))
      add_theta(out, "rope_local_base_freq", rotation["sliding_attention"]);
    add_theta(out, "rope_theta", rotation);
    if (rotation.value("rope_type", Json("default")) != "default") {
      Json scaling = rotation;
      scaling.erase("rope_theta");
      out.emplace_back("rope_scaling", std::move(scaling));
    }
  }
  if (const auto experts = config.find("num_local_experts"); experts != config.end())
    out.emplace_back("num_experts", *experts);
  return out;
}

// Collected first: an object that grows moves what it holds.
void spell(Json& config) {
  for (auto& [key, value] : additions_to(config))
    if (!config.contains(key) || config[key].is_null()) config[key] = std::move(value);
}

}  // namespace

Json with_mlx_spellings(Json config) {
  if (!config.is_object()) return config;
  spell(config);
  if (const auto text = config.find("text_config"); text != config.end() && text->is_object())
    spell(*text);
  return config;
}

}  // namespace decant
