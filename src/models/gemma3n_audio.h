#pragma once

#include <memory>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "models/model.h"

namespace decant {

/// Gemma 3n's audio tower: mel frames through two convolutions with a norm over all of the sound so
/// far, a conformer, and the projection into the text model's `hidden`; every sound takes the same
/// number of rows. Or rows of its own ids. Null where the file has none; else `media` learns its
/// ids. `root` is the checkpoint's, `vocab_size` the text model's.
/// Source  transformers, Gemma3nAudioEncoder and Gemma3nModel; gemma3n.md section 5.
/// Errors: ConfigError.
std::unique_ptr<Tower> make_gemma3n_audio(const ConfigReader& top, int64_t hidden,
                                          int64_t vocab_size, const WeightScope& root,
                                          MediaSpec& media);

}  // namespace decant
