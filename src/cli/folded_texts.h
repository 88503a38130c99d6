#pragma once

#include <string>
#include <utility>
#include <vector>

namespace decant::cli {

/// Texts too long for the line of a prompt: a sign stands for each in the line, and the text takes
/// its place when the line is entered. What a user makes of a sign by editing is plain text.
class FoldedTexts {
 public:
  /// The text as a line shows it: itself if short, else its sign.
  std::string shown(const std::string& text);
  /// The line with the texts in the place of their signs.
  std::string expanded(std::string line) const;

 private:
  std::vector<std::pair<std::string, std::string>> folded_;  // sign, text
};

}  // namespace decant::cli
