#pragma once

#include <span>
#include <string_view>

#include "decant/decant.h"

namespace decant {

/// Sets a field of the options by its name (`top_p`; `top-p` is the same) from text, as a flag or a
/// command gives it. logit_bias takes ID=VALUE pairs and stop_tokens ids, both separated by commas
/// and added to what is there; `default` takes a setting back. Errors: UsageError
/// `NAME: expected X, got "TEXT"`; the options are then as before.
void set_sampling_option(GenerateOptions& options, std::string_view name, std::string_view text);

/// The names it takes.
std::span<const std::string_view> sampling_option_names();

}  // namespace decant
