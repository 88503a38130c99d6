#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace decant::cli {

struct Completions {
  size_t begin = 0;                     // where in the line the word begins that they replace
  std::vector<std::string> candidates;  // sorted
  std::string common;                   // what all begin with
  bool final = false;                   // a single one, to be followed by a blank
};

/// How a line of the prompt may go on at its end: commands, their settings, topics and files.
Completions complete_line(std::string_view before);

}  // namespace decant::cli
