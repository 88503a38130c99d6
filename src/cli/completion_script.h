#pragma once

#include <string>
#include <string_view>

#include "cli/command_tree.h"

namespace decant::cli {

/// A script that completes the program's verbs, flags, choices, files and models, the last by
/// asking `decant list --names`. `shell` is bash, zsh or fish.
std::string completion_script(const ProgramInfo& program, std::string_view shell);

}  // namespace decant::cli
