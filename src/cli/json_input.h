#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace decant::cli {

/// The text of an input file, or of stdin for "-". Errors: RequestError.
std::string read_input(const std::string& path);

/// The JSON value of an input file ("-": stdin). Errors: RequestError naming the file and, where
/// text in it is not Unicode, the element of the list and the offset (in characters) within it.
Json read_json_input(const std::string& path);

/// The same for a text. `name` stands for the file in messages.
Json parse_json_input(std::string_view text, const std::string& name);

/// A JSON value of the command line. Errors: UsageError naming the flag.
Json parse_flag_json(std::string_view text, std::string_view flag);

/// Lists of token ids from JSON. Errors: RequestError naming the place of what is no id (a whole
/// number from 0 to 2^31 - 1).
std::vector<int32_t> token_ids(const Json& list, const std::string& where);

}  // namespace decant::cli
