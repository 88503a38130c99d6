#pragma once

#include <string>

#include "cli/command_tree.h"

namespace decant::cli {

/// The manual page of a verb, or of the program where `verb` is empty, in roff with the man macros.
/// Errors: UsageError for an unknown verb.
std::string man_page(const ProgramInfo& program, const std::string& verb);

}  // namespace decant::cli
