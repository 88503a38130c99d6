#include "cli/folded_texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

namespace decant::cli {
namespace {

constexpr size_t kShownBytes = 1000;
constexpr std::ptrdiff_t kShownLines = 10;

}  // namespace

std::string FoldedTexts::shown(const std::string& text) {
  const std::ptrdiff_t lines = 1 + std::count(text.begin(), text.end(), '\n');
  if (text.size() <= kShownBytes && lines <= kShownLines) return text;
  for (const auto& [sign, folded] : folded_)
    if (folded == text) return sign;
  folded_.emplace_back(
      fmt::format("[text {}: {} lines, {} bytes]", folded_.size() + 1, lines, text.size()), text);
  return folded_.back().first;
}

std::string FoldedTexts::expanded(std::string line) const {
  std::string out;
  while (true) {
    size_t at = std::string::npos;
    const std::pair<std::string, std::string>* found = nullptr;
    if (line.find("[text ") != std::string::npos)
      for (const auto& entry : folded_)
        if (const size_t here = line.find(entry.first); here < at) {
          at = here;
          found = &entry;
        }
    if (found == nullptr) return out + line;
    out += line.substr(0, at) + found->second;
    line.erase(0, at + found->first.size());
  }
}

}  // namespace decant::cli
