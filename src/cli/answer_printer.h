#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cli/word_wrapper.h"
#include "decant/decant.h"

namespace decant::cli {

/// Streams an answer to stdout so that it ends with exactly one newline, however many the model
/// wrote; at a terminal wrapped at its width. add() is called on the engine's thread, finish() once
/// it is done.
class AnswerPrinter {
 public:
  /// Into a pipe or a file the text goes as it is, whatever `wrap` says.
  explicit AnswerPrinter(bool wrap = true);
  /// False when stdout takes no more: the answer need not be computed any further.
  bool add(std::string_view text);
  /// Ends the answer. Errors: those of print(), also what went wrong in add().
  void finish();
  /// True once there is a visible character.
  bool begun() const { return begun_; }

 private:
  bool write(std::string_view text);

  bool terminal_;
  WordWrapper wrapper_;
  std::string held_;  // newlines that may turn out to be the last ones
  bool begun_ = false;
  int error_ = 0;  // errno of the first failed write
};

/// "prompt 12 tokens, first token after 0.08 s, ...": what an answer took.
std::string figures_line(const Completion& completion, int64_t peak_bytes);

/// Throws the error of an answer that failed, with its exit code.
void throw_if_failed(const Completion& completion);

}  // namespace decant::cli
