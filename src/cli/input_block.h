#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace decant::cli {

/// Joins what is entered between `"""` and `"""` to one message; anything else is one at once.
class InputBlock {
 public:
  /// Takes an entry of the prompt, which may itself have several lines. The message, once complete.
  std::optional<std::string> add(std::string_view entry);
  /// True inside a block.
  bool open() const { return open_; }
  /// Everything entered for the message so far, quotes included.
  const std::string& entered() const { return entered_; }
  void abandon();

 private:
  bool open_ = false;
  std::string entered_;
  std::string text_;
  bool has_text_ = false;
};

}  // namespace decant::cli
