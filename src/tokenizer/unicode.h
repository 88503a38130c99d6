#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace decant::tokenizer {

/// A code point and how many bytes it took.
struct CodePoint {
  uint32_t value;
  size_t length;
};

/// The code point at the start of `text`, which must be non-empty, valid UTF-8.
CodePoint decode_code_point(std::string_view text);
/// The code point that ends at the end of `text`, which must be non-empty, valid UTF-8.
CodePoint decode_last_code_point(std::string_view text);

/// Unicode White_Space.
bool is_whitespace(uint32_t code_point);
/// The sets below are those of the official library, whose parts follow different versions of
/// Unicode; they do not depend on the utf8proc of the system (scripts/goldens/unicode_tables.py).

/// What `\w` means in the Rust regex crate: alphabetic, mark, decimal number, connector or joiner.
bool is_word(uint32_t code_point);
/// General categories Nd, Nl, No.
bool is_numeric(uint32_t code_point);
/// ASCII punctuation or a general category P*.
bool is_punctuation(uint32_t code_point);
/// General categories Mn, Mc, Me.
bool is_mark(uint32_t code_point);
/// General category Mn.
bool is_nonspacing_mark(uint32_t code_point);
/// NUL, U+FFFD and the general categories Cc, Cf, Cs, Co but for tab, newline and return.
bool is_dropped_by_bert(uint32_t code_point);
/// Assigned after the version of Unicode that the normal forms follow: it never changes and
/// nothing moves or composes across it.
bool is_inert(uint32_t code_point);
/// Appends the lower-case form of one code point, without context (as Rust's char::to_lowercase).
void append_lowercase(std::string& out, uint32_t code_point);

/// `text` (valid UTF-8) as a pattern should see it: code points of another category than an older
/// PCRE2 has for them are replaced by ones of the right category and of equal length. Returns
/// `text` itself where nothing changes, else `buffer`.
std::string_view pattern_subject(std::string_view text, std::string& buffer);

/// Text as UTF-8 of the GPT-2 byte alphabet: one printable code point below U+0144 per byte.
std::string_view byte_alphabet(unsigned char byte);
/// The byte a code point of the GPT-2 alphabet stands for, or -1.
int byte_of_alphabet(uint32_t code_point);

}  // namespace decant::tokenizer
