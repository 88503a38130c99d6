#include "cli/json_input.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "base/errors.h"
#include "base/file.h"
#include "base/utf8.h"
#include "cli/console.h"

namespace decant::cli {
namespace {

constexpr uint64_t kMaxInputBytes = uint64_t{4} << 30;

// Where a string of the document stops being Unicode text.
struct BadText {
  int64_t index;   // element of the outermost list
  int64_t offset;  // characters before it in its string
  std::string what;
};

std::optional<uint32_t> escape_at(std::string_view text, size_t at) {
  if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return std::nullopt;
  uint32_t value = 0;
  for (size_t i = at + 2; i < at + 6; ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + static_cast<uint32_t>(digit);
  }
  return value;
}

// JSON parsers report such text by line only, which is little help in a batch of thousands.
std::optional<BadText> find_bad_text(std::string_view text) {
  int64_t index = 0;
  int64_t depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c == ',' && depth == 1) ++index;
    if (c != '"') continue;
    int64_t offset = 0;
    for (++i; i < text.size() && text[i] != '"'; ++offset) {
      if (text[i] == '\\') {
        const auto unit = escape_at(text, i);
        if (!unit) {
          i += 2;
          continue;
        }
        if (*unit < 0xD800 || *unit > 0xDFFF) {
          i += 6;
          continue;
        }
        const auto low = escape_at(text, i + 6);
        if (*unit > 0xDBFF || !low || *low < 0xDC00 || *low > 0xDFFF)
          return BadText{index, offset, fmt::format("the lone surrogate {}", text.substr(i, 6))};
        i += 12;
        continue;
      }
      const size_t length = utf8_sequence_length(text.substr(i));
      if (length == 0)
        return BadText{index, offset,
                       fmt::format("the byte 0x{:02x}, which is not UTF-8",
                                   static_cast<unsigned char>(text[i]))};
      i += length;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string read_input(const std::string& path) {
  if (path == "-") return read_stdin(kMaxInputBytes);
  try {
    return read_text_file(path, kMaxInputBytes);
  } catch (const RuntimeError& error) {
    throw RequestError("{}", error.what());
  }
}

Json parse_json_input(std::string_view text, const std::string& name) {
  try {
    return parse_json(text, name);
  } catch (const ConfigError& error) {
    if (const auto bad = find_bad_text(text))
      throw RequestError("[json] {}: element {}: expected Unicode text, got {} at offset {}", name,
                         bad->index, bad->what, bad->offset);
    throw RequestError("{}", error.what());
  }
}

Json read_json_input(const std::string& path) {
  return parse_json_input(read_input(path), path == "-" ? "stdin" : path);
}

Json parse_flag_json(std::string_view text, std::string_view flag) {
  try {
    return parse_json(text, flag);
  } catch (const ConfigError& error) {
    throw UsageError("[usage] {}: expected JSON, got {}: {}", flag, quote(text), error.what());
  }
}

std::vector<int32_t> token_ids(const Json& list, const std::string& where) {
  if (!list.is_array())
    throw RequestError("[tokens] {}: expected a list of token ids, got {}", where, describe(list));
  std::vector<int32_t> out;
  out.reserve(list.size());
  for (const Json& item : list) {
    const bool whole = item.is_number_integer() &&
                       (item.is_number_unsigned() || item.get<int64_t>() >= 0) &&
                       item.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    if (!whole)
      throw RequestError("[tokens] {}[{}]: expected a token id, got {}", where, out.size(),
                         describe(item));
    out.push_back(item.get<int32_t>());
  }
  return out;
}

}  // namespace decant::cli
