#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "decant/decant.h"
#include "session/reasoning.h"

namespace decant {

struct TurnText {
  std::string_view reasoning;
  std::string_view answer;
  int64_t reasoning_tokens = 0;  // so far
};

struct TurnOptions {
  GenerateOptions generate;       // its callbacks are not used
  int64_t reasoning_budget = -1;  // tokens until a block is ended; -1: none
  /// Called on the engine's thread with each new piece of text; false cancels.
  std::function<bool(const TurnText&)> on_text = {};
};

struct TurnResult {
  Completion completion;  // of the whole turn: its text holds the markers, its figures all tokens
  std::string reasoning;
  std::string answer;
  int64_t reasoning_tokens = 0;
  bool budget_spent = false;      // the block was ended by the budget
  bool inside_reasoning = false;  // the turn ended before the block did
};

/// One answer of a chat, its reasoning kept apart and within its budget. A block that reaches the
/// budget is ended by writing the marker in the model's place and generating from there.
class ChatTurn {
 public:
  ChatTurn(LanguageModel& model, ReasoningSupport support);
  /// Runs to the end; a failure while running is in the completion. Errors: those of
  /// LanguageModel::generate.
  TurnResult run(Prompt prompt, const TurnOptions& options);
  /// Ends the answer early, from any thread.
  void cancel();

 private:
  struct Running;
  const Completion& generate(Running& running, Prompt prompt);
  std::vector<int32_t> closing_tokens() const;

  LanguageModel& model_;
  const ReasoningSupport support_;
  std::mutex mutex_;
  bool cancelled_ = false;
  std::shared_ptr<Generation> generation_;
};

}  // namespace decant
