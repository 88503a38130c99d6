#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace decant::jinja {

// Text as Python's str sees it. All strings are well-formed UTF-8.

/// Offset behind the code point that starts at `at`.
size_t next_code_point(std::string_view text, size_t at);
/// Offset of the code point that ends at `at`, at > 0.
size_t previous_code_point(std::string_view text, size_t at);
uint32_t code_point_at(std::string_view text, size_t at);
size_t count_code_points(std::string_view text);
/// Byte offset of the code point with this index, or the size of the text.
size_t offset_of(std::string_view text, size_t index);

/// str.isspace, also what strip, split and the `\s` of regular expressions take as white space.
bool is_space(uint32_t c);
bool is_alpha(uint32_t c);
bool is_decimal(uint32_t c);
bool is_digit(uint32_t c);
bool is_numeric(uint32_t c);
bool is_lower(uint32_t c);
bool is_upper(uint32_t c);
bool is_title(uint32_t c);
bool is_printable(uint32_t c);
/// True for the characters str.splitlines ends a line at.
bool is_line_break(uint32_t c);
/// Letters, digits, marks and connectors: what jinja2 takes as part of a name.
bool is_name_part(uint32_t c);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
/// str.title: letters after a letter in lower case, others in title case.
std::string to_title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);

/// text.find(wanted, from) in linear time, whatever the texts are.
size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);

/// Offsets of the text between white space at both ends.
struct Span {
  size_t from;
  size_t to;
};
Span strip_space(std::string_view text, bool left, bool right);
/// The same with the code points of `set` in place of white space.
Span strip_set(std::string_view text, std::string_view set, bool left, bool right);

}  // namespace decant::jinja
