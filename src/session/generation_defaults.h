#pragma once

#include <filesystem>

#include "decant/decant.h"
#include "engine/request.h"

namespace decant {

/// How a model's generation_config.json wants tokens chosen. As in transformers do_sample alone
/// makes it greedy or not (a file that names only a temperature means sampling), repetition_penalty
/// holds for both, and the filters wait for a caller who asks for a temperature. Presence and
/// frequency penalties are no fields of that file: they are named in the log. `suppress_tokens`
/// become biases that ban them, of ids below `vocab`. Greedy without the file. Errors: ConfigError
/// naming the field.
SamplingParams read_generation_defaults(const std::filesystem::path& folder, int64_t vocab);

/// True for a token that the defaults ban.
bool is_suppressed(const SamplingParams& defaults, int32_t token);

/// The defaults with what the options say in their place; tokens that the defaults ban stay banned,
/// whatever bias the options give them. The seed is a random one where absent.
SamplingParams apply_options(const SamplingParams& defaults, const GenerateOptions& options);

}  // namespace decant
