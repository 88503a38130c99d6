#pragma once

#include <cstddef>
#include <string_view>

namespace decant::cli {

/// Bytes of the grapheme cluster (what a reader sees as one character) at the start of `text`,
/// which is UTF-8; an ill-formed byte stands for itself. 0 for an empty text.
size_t grapheme_length(std::string_view text);

/// Terminal columns of one cluster: 0, 1 or 2; more for a syllable of a script whose vowel signs
/// take columns of their own.
int grapheme_width(std::string_view cluster);

/// Terminal columns of a text without line breaks.
int text_width(std::string_view text);

/// Whether a line may be broken before and after this cluster without a blank, as in Chinese.
bool breaks_around(std::string_view cluster);
/// Closing punctuation and small kana: never first on a line.
bool never_begins_line(std::string_view cluster);
/// Opening brackets: never last on a line.
bool never_ends_line(std::string_view cluster);

}  // namespace decant::cli
