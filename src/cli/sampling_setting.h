#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "decant/decant.h"

namespace decant::cli {

struct SamplingName {
  const char* name;  // as the flag without its dashes: "top-k"
  const char* meaning;
};

/// The parameters of sampling that a conversation can set.
const std::vector<SamplingName>& sampling_names();

/// Sets one from its text. False for an unknown name. Errors: RequestError naming the parameter and
/// its range.
bool set_sampling(GenerateOptions& options, std::string_view name, std::string_view value);

/// Its value as set; nothing where it is the model's.
std::optional<Json> sampling_value(const GenerateOptions& options, std::string_view name);

/// Gives one back to the model.
void reset_sampling(GenerateOptions& options, std::string_view name);

}  // namespace decant::cli
