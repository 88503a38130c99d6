#pragma once

#include <memory>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "models/model.h"

namespace decant {

/// The tower of Gemma 3n for pictures, or null where config or checkpoint have none. `top` is the
/// whole config, `hidden` the width of the text model, `root` the checkpoint's root. Fills what
/// `media` says about pictures.
/// Errors: ConfigError; missing weights are noted in the scope's load.
std::unique_ptr<Tower> make_gemma3n_vision(const ConfigReader& top, int64_t hidden,
                                           const WeightScope& root, MediaSpec& media);

}  // namespace decant
