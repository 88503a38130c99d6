#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace decant {

/// Looks for stop strings in a stream of text. Text that may be the beginning of one is held back;
/// what has been given out never belongs to a stop string. The one whose end comes first wins (the
/// longest of those that end together), so the cuts between pieces do not matter.
class StopMatcher {
 public:
  /// Errors: RequestError for more than 16 strings, an empty one or one above 1 KiB.
  explicit StopMatcher(std::vector<std::string> stops);

  /// Takes the next text and returns what is safe to show. Nothing more comes after a match.
  std::string push(std::string_view text);
  /// The text held back, at the end of a stream without a match.
  std::string finish();
  bool matched() const { return !match_.empty(); }
  const std::string& match() const { return match_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string match_;
};

}  // namespace decant
