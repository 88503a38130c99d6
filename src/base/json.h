#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace decant {

/// Insertion-ordered JSON: templates and written configs depend on key order.
using Json = nlohmann::ordered_json;

/// Limits a parse enforces before anything is built from the text.
struct JsonLimits {
  int depth = 128;
  bool allow_comments = false;
};

/// Parses strict JSON: UTF-8, no duplicate keys, nesting up to limits.depth, no trailing bytes.
/// Errors: ConfigError `[json] SOURCE:LINE: what` (source is a path or a name of the input).
Json parse_json(std::string_view text, std::string_view source, const JsonLimits& limits = {});

/// Reads and parses a file; errors name the file and the line.
Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits = {});

/// Short name of a value's type for messages: "object", "string", "number 3.5", ...
std::string describe(const Json& value);

}  // namespace decant
