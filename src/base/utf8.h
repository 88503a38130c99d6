#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace decant {

/// Length in bytes of the well-formed UTF-8 sequence at the start of `text`; 0 if it is ill-formed
/// or cut short.
size_t utf8_sequence_length(std::string_view text);

/// Offset of the first ill-formed byte, or npos if all of `text` is UTF-8.
size_t utf8_first_error(std::string_view text);

/// Number of bytes at the end of `text` that begin a sequence still waiting for its continuation (0
/// to 3).
size_t utf8_incomplete_tail(std::string_view text);

/// `text` with every maximal ill-formed part replaced by U+FFFD, as Unicode recommends and Rust's
/// lossy decoding does.
std::string utf8_lossy(std::string_view text);

/// Appends the UTF-8 form of `code_point` (a scalar value).
void append_utf8(std::string& out, uint32_t code_point);

}  // namespace decant
