#pragma once

#include <string_view>

#include "tokenizer/scratch.h"

namespace decant::tokenizer {

/// Fills scratch.matches with every match of `pattern` in `text` and the parts between them, in
/// order and without gaps.
void find_all(const Regex& pattern, std::string_view text, Scratch& scratch);

}  // namespace decant::tokenizer
