#include "layers/layer_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace decant::layers {

std::vector<int> read_windows(const ConfigReader& config, int64_t num_layers, int window) {
  constexpr std::string_view kFull = "full_attention", kSliding = "sliding_attention";
  std::vector<int> out;
  for (const std::string& type : config.strings("layer_types", num_layers)) {
    if (type != kFull && type != kSliding)
      config.fail("layer_types", fmt::format("\"{}\" or \"{}\"", kFull, kSliding));
    out.push_back(type == kFull ? 0 : window);
  }
  return out;
}

std::vector<int> kv_sources(const ConfigReader& config, const std::vector<int>& windows,
                            int64_t shared) {
  const auto count = static_cast<int>(windows.size()), owning = count - static_cast<int>(shared);
  std::vector<int> out;
  for (int i = 0; i < count; ++i) {
    int source = std::min(i, owning - 1);
    while (source >= 0 && windows[static_cast<size_t>(source)] != windows[static_cast<size_t>(i)])
      --source;
    if (source < 0)
      config.fail("num_kv_shared_layers",
                  fmt::format("a layer of the kind of layer {} among the {} that own keys and "
                              "values",
                              i, owning));
    out.push_back(source);
  }
  return out;
}

}  // namespace decant::layers
