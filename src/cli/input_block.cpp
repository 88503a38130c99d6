#include "cli/input_block.h"

#include <utility>

namespace decant::cli {
namespace {

constexpr std::string_view kQuotes = "\"\"\"";

std::string_view without_trailing_blanks(std::string_view text) {
  return text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
}

}  // namespace

std::optional<std::string> InputBlock::add(std::string_view entry) {
  if (!open_) {
    abandon();
    entered_ = entry;
    if (!entry.starts_with(kQuotes)) return std::string(entry);
    open_ = true;
    entry.remove_prefix(kQuotes.size());
    if (without_trailing_blanks(entry).empty()) return std::nullopt;
    if (entry.starts_with('\n')) entry.remove_prefix(1);
  } else {
    entered_ += '\n';
    entered_ += entry;
  }
  const std::string_view line = without_trailing_blanks(entry);
  const bool closes = line.ends_with(kQuotes);
  if (closes) {
    entry = line.substr(0, line.size() - kQuotes.size());
    // Quotes on a line of their own add no line.
    if (entry.ends_with('\n')) entry.remove_suffix(1);
  }
  if (!closes || !entry.empty()) {
    if (has_text_) text_ += '\n';
    text_ += entry;
    has_text_ = true;
  }
  if (!closes) return std::nullopt;
  open_ = false;
  return std::exchange(text_, {});
}

void InputBlock::abandon() {
  open_ = has_text_ = false;
  entered_.clear();
  text_.clear();
}

}  // namespace decant::cli
