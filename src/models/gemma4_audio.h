#pragma once

#include <memory>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "models/tower.h"

namespace decant {

/// The audio tower of Gemma 4 E2B and E4B: mel frames through two convolutions, a conformer whose
/// projections keep stored bounds, and the projection to the text model's `hidden`; a row for every
/// four valid frames. Null where the file has none. `root` is the checkpoint's.
/// Source  transformers, Gemma4AudioModel; gemma4.md section 6. Errors: ConfigError.
std::unique_ptr<Tower> gemma4_audio(const ConfigReader& top, int64_t hidden,
                                    const WeightScope& root);

}  // namespace decant
