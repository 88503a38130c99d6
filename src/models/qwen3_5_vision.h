#pragma once

#include <memory>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "models/tower.h"

namespace decant {

/// The vision tower of Qwen3.5: a transformer over patches of 16 x 16 x 2 frames in merge-block
/// order, frames apart, and a merger of 2 x 2 patches; null where the file has none. `root` is the
/// checkpoint's. Source  transformers, Qwen3_5VisionModel; qwen3_5.md section 4. Errors:
/// ConfigError.
std::unique_ptr<Tower> qwen3_5_vision(const ConfigReader& top, int64_t hidden,
                                      const WeightScope& root);

}  // namespace decant
