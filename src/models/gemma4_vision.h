#pragma once

#include <memory>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "models/tower.h"

namespace decant {

/// Gemma 4's vision tower: a transformer over patches of 16 x 16, pooled 3 x 3, and the projection
/// to the text model's `hidden`; null where the file has none. Inputs are patches with values in
/// [0, 1] and their columns and rows; filling (-1, -1) is left out. `root` is the checkpoint's.
/// Source  transformers, Gemma4VisionModel; gemma4.md section 4. Errors: ConfigError.
std::unique_ptr<Tower> gemma4_vision(const ConfigReader& top, int64_t hidden,
                                     const WeightScope& root);

/// The 12B's, which has no encoder: cells of 48 x 48 pixels through three layer norms, a linear and
/// a table of positions. Source  transformers, Gemma4UnifiedVisionEmbedder; gemma4.md section 5.
std::unique_ptr<Tower> gemma4_unified_vision(const ConfigReader& top, int64_t hidden,
                                             const WeightScope& root);

/// And its audio: frames of raw samples, normed and projected.
std::unique_ptr<Tower> gemma4_unified_audio(const ConfigReader& top, int64_t hidden,
                                            const WeightScope& root);

}  // namespace decant
