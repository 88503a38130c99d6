#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "cli/answer_printer.h"
#include "cli/word_wrapper.h"
#include "session/chat_turn.h"

namespace decant::cli {

/// Reasoning as the user sees it, on stderr: folded to one line that counts its tokens, or shown.
/// Folded at something that is no terminal it is not there at all.
class ThinkingView {
 public:
  struct Options {
    bool show = false;
    bool quiet = false;  // folded: no line remains
    bool wrap = true;
  };
  explicit ThinkingView(const Options& options);
  ~ThinkingView() { finish(tokens_); }
  ThinkingView(const ThinkingView&) = delete;
  ThinkingView& operator=(const ThinkingView&) = delete;
  void add(std::string_view text, int64_t tokens);
  /// The reasoning has ended, after this many tokens.
  void finish(int64_t tokens);

 private:
  void write(std::string_view text);

  Options options_;
  WordWrapper wrapper_;
  bool begun_ = false;
  bool ended_ = false;
  int64_t tokens_ = 0;
  std::chrono::steady_clock::time_point shown_at_;
};

/// An answer and its reasoning on their streams. add() is called on the engine's thread.
class AnswerView {
 public:
  explicit AnswerView(const ThinkingView::Options& options)
      : printer_(options.wrap), thinking_(options) {}
  /// False when stdout takes no more.
  bool add(const TurnText& text);
  /// Ends the answer. Errors: those of AnswerPrinter::finish.
  void finish(const TurnResult& result);

 private:
  AnswerPrinter printer_;
  ThinkingView thinking_;
};

}  // namespace decant::cli
