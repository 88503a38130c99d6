#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "cli/chat_settings.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/history_file.h"
#include "cli/input_block.h"
#include "cli/line_reader.h"
#include "decant/decant.h"
#include "session/chat_turn.h"
#include "session/reasoning.h"

namespace decant::cli {

/// What the user calls the model and its template.
struct ModelNames {
  std::string model;
  std::string chat_template;
};

/// A talk at the terminal. Ctrl-C ends an answer; at the prompt it clears the line and, when there
/// is nothing to clear for the second time, ends the program, as Ctrl-D does.
class Repl {
 public:
  Repl(LanguageModel& model, ModelNames names, ReasoningSupport support, ChatSettings settings,
       const std::string& system, Json attached = Json::array());
  /// Returns when the user leaves. Errors: Interrupted, BrokenPipe.
  void run();

 private:
  // The signal watcher's side.
  bool on_signal(int signal);
  int take_signal();

  void enter(const std::string& entry);
  void remember(std::string_view text);
  void tell_history_problem();
  /// Answers the conversation, which ends in a user's message. False: nothing was added to it.
  bool answer();
  TurnResult run_turn(Prompt prompt, const ThinkingPlan& plan);
  void say_how_it_ended(const TurnResult& result);
  Prompt rendered(const ThinkingPlan& plan, const Conversation& conversation) const;
  void check_room(size_t tokens) const;

  // repl_commands.cpp. False: leave.
  bool command(const std::string& entry);
  void set(const std::string& argument);
  void show(const std::string& topic) const;
  std::string shown(std::string_view topic) const;
  void load(const std::string& file);
  void save(const std::string& file);
  void set_system(const std::string& text);
  void attach(std::string_view type, const std::string& file);
  void retry();

  LanguageModel& model_;
  const ModelNames names_;
  const ReasoningSupport support_;
  ChatSettings settings_;
  Conversation conversation_;
  Json attached_;  // content parts for the next message
  HistoryFile history_;
  bool told_history_problem_ = false;
  bool told_nearly_full_ = false;
  std::unique_ptr<LineReader> reader_;
  InputBlock block_;
  bool leaving_ = false;

  std::mutex mutex_;
  ChatTurn* turn_ = nullptr;  // the answer in the making
  int signal_ = 0;            // what came and has not been dealt with
};

}  // namespace decant::cli
