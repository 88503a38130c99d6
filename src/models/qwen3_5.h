#pragma once

#include "models/model.h"
#include "models/qwen3_5_config.h"

namespace decant {

/// A member of the hybrid family; the others are this one with another kind.
Family qwen3_5_family_of(std::vector<std::string> model_types, Qwen35Kind kind);

}  // namespace decant
