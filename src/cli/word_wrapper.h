#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace decant::cli {

/// Lays a stream of UTF-8 out for a terminal: a word that would cross the right edge begins the
/// next line, and no character of several code points is cut. What is in a code fence, and a word
/// longer than a line, is left to the terminal. Control characters become visible signs, so that a
/// model cannot drive the terminal. The cuts between pieces do not matter.
class WordWrapper {
 public:
  /// `columns` is asked at every word, so a resize counts at once; 0 is no wrapping.
  explicit WordWrapper(std::function<int()> columns);

  /// The text that has its place; a word waits until it is complete.
  std::string push(std::string_view text);
  /// The rest.
  std::string finish();

 private:
  void take(std::string_view cluster);
  void end_line();
  void flush_word();
  void note_fence();
  std::string placed(std::string_view cluster) const;

  std::function<int()> columns_;
  std::string out_;
  std::string tail_;    // the last cluster, which the next code point may extend
  std::string blanks_;  // before the word
  int blanks_width_ = 0;
  std::string word_;
  int word_width_ = 0;
  bool word_open_ = false;   // ends in an opening bracket: the next cluster belongs to it
  bool word_wide_ = false;   // may be broken after its last cluster
  bool word_fits_ = true;    // false: it is longer than a line and goes straight through
  bool line_begins_ = true;  // nothing but blanks on the line so far
  int column_ = 0;
  char fence_ = 0;  // the sign of the fence the text is in
  size_t fence_length_ = 0;
};

/// A text of unknown origin as it may be shown at a terminal.
std::string harmless(std::string_view text);

}  // namespace decant::cli
