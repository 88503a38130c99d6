#pragma once

#include <string_view>

#include "chat/jinja_ast.h"
#include "chat/jinja_eval.h"

namespace decant::jinja {

/// The filters over lists and dicts (jinja_filters_sequence.cpp); null if there is none of the
/// name.
FilterFunction find_sequence_filter(std::string_view name);

/// The wordwrap filter (jinja_wordwrap.cpp), after Python's textwrap.
Value word_wrap(Interp& interp, const Value& value, const Args& args);

}  // namespace decant::jinja
