#pragma once

#include <vector>

#include "checkpoint/config_reader.h"

namespace decant::layers {

/// The window of each layer by `layer_types`, 0 where it says "full_attention" and `window` where
/// it says "sliding_attention". Errors: ConfigError for other types or another number of them.
std::vector<int> read_windows(const ConfigReader& config, int64_t num_layers, int window);

/// Whose keys and values each layer reads: its own, or for the last `shared` layers those of the
/// last layer before them that has the same window. Errors: ConfigError naming
/// num_kv_shared_layers where there is none.
std::vector<int> kv_sources(const ConfigReader& config, const std::vector<int>& windows,
                            int64_t shared);

}  // namespace decant::layers
