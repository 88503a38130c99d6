#pragma once

#include "models/model.h"
#include "ops/altup.h"

namespace decant {

/// Gemma 3n with its streams mixed in this form; the family takes the stacked one.
std::unique_ptr<Model> make_gemma3n(const Json& config, const std::string& where,
                                    const WeightScope& weights, AltupForm form);

}  // namespace decant
