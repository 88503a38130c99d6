#include "cli/repl.h"

#include <signal.h>

#include <cstdio>
#include <utility>

#include "base/errors.h"
#include "cli/answer_view.h"
#include "cli/console.h"
#include "cli/sampling_flags.h"
#include "cli/signals.h"

namespace decant::cli {

Repl::Repl(LanguageModel& model, ModelNames names, ReasoningSupport support, ChatSettings settings,
           const std::string& system, Json attached)
    : model_(model),
      names_(std::move(names)),
      support_(std::move(support)),
      settings_(std::move(settings)),
      conversation_(system),
      attached_(std::move(attached)),
      history_(history_path()) {}

// On the watcher's thread. What it takes is forgotten by the loop.
bool Repl::on_signal(int signal) {
  const std::lock_guard lock(mutex_);
  if (turn_ != nullptr) {
    turn_->cancel();
    if (signal == SIGINT) return true;
  }
  signal_ = signal;
  reader_->wake();
  return true;
}

int Repl::take_signal() {
  const std::lock_guard lock(mutex_);
  return std::exchange(signal_, 0);
}

void Repl::tell_history_problem() {
  if (told_history_problem_ || !history_.problem()) return;
  told_history_problem_ = true;
  note("note: " + *history_.problem());
}

void Repl::remember(std::string_view text) {
  reader_->remember(text);
  history_.append(text);
  tell_history_problem();
}

void Repl::run() {
  reader_ = make_line_reader();
  const SignalHandler handler([this](int signal) { return on_signal(signal); });
  for (const std::string& entry : history_.load()) reader_->remember(entry);
  tell_history_problem();
  note("/help lists the commands; Ctrl-D leaves");
  bool interrupted = false;  // by the entry before this one
  while (!leaving_) {
    const Entry entry = reader_->read(block_.open() ? "... " : ">>> ");
    Entry::Kind kind = entry.kind;
    if (kind == Entry::Kind::kSignal) {
      const int signal = take_signal();
      forget_signal();
      if (signal == SIGTERM) throw Interrupted{signal};
      if (signal == 0) continue;  // dealt with by the answer it stopped
      std::fputs("\n", stderr);
      kind = Entry::Kind::kInterrupt;
    }
    if (kind == Entry::Kind::kEnd) {
      std::fputs("\n", stderr);
      if (block_.open()) note("note: the message begun with \"\"\" was not sent");
      return;
    }
    if (kind == Entry::Kind::kInterrupt) {
      const bool cleared = !entry.text.empty() || block_.open();
      block_.abandon();
      if (interrupted && !cleared) throw Interrupted{SIGINT};
      interrupted = true;
      if (!cleared) note("Ctrl-C again leaves");
      continue;
    }
    interrupted = false;
    if (!entry.problem.empty()) {
      if (!entry.text.empty()) reader_->remember(entry.text);
      note("decant: error: " + entry.problem + " (not sent; the Up key brings it back)");
      continue;
    }
    enter(entry.text);
  }
}

void Repl::enter(const std::string& entry) {
  const bool fresh = !block_.open();
  if (fresh && trimmed(entry).empty()) return;
  if (fresh && is_command(entry)) {
    remember(entry);
    leaving_ = !command(entry);
    return;
  }
  const std::optional<std::string> message = block_.add(entry);
  if (!message) return;
  remember(block_.entered());
  if (trimmed(*message).empty()) return;
  conversation_.add_user(*message, attached_);
  if (answer())
    attached_ = Json::array();
  else
    conversation_.drop_last();
}

Prompt Repl::rendered(const ThinkingPlan& plan, const Conversation& conversation) const {
  ChatInput input;
  input.messages_json = conversation.messages().dump();
  input.variables = plan.variables;
  input.parse_special = settings_.parse_special;
  return model_.chat_prompt(input);
}

void Repl::check_room(size_t tokens) const {
  const auto room = static_cast<size_t>(model_.memory().ctx_size);
  if (tokens >= room)
    throw RequestError(
        "[context] the conversation: expected at most {} tokens (context of {}, one of them for "
        "the "
        "answer), got {}. Nothing was sent or forgotten: /clear begins anew, --ctx-size gives more "
        "room",
        room - 1, room, tokens);
}

TurnResult Repl::run_turn(Prompt prompt, const ThinkingPlan& plan) {
  AnswerView view({settings_.show_thinking, false, settings_.wrap});
  TurnOptions options;
  options.generate = settings_.generate;
  options.reasoning_budget = plan.budget;
  options.on_text = [&](const TurnText& text) { return view.add(text); };
  ChatTurn turn(model_, support_);
  struct Guard {
    Repl& repl;
    Guard(Repl& owner, ChatTurn& running) : repl(owner) {
      const std::lock_guard lock(repl.mutex_);
      repl.turn_ = &running;
    }
    ~Guard() {
      const std::lock_guard lock(repl.mutex_);
      repl.turn_ = nullptr;
    }
  };
  TurnResult result;
  {
    const Guard guard(*this, turn);
    result = turn.run(std::move(prompt), options);
  }
  view.finish(result);
  forget_signal();
  return result;
}

bool Repl::answer() {
  bool added = false;
  try {
    const ThinkingPlan plan = plan_thinking(settings_.thinking, support_);
    Prompt prompt = rendered(plan, conversation_);
    check_room(prompt.tokens.size());
    const TurnResult result = run_turn(std::move(prompt), plan);
    throw_if_failed(result.completion);
    conversation_.add_answer(result.answer, result.reasoning);
    added = true;
    say_how_it_ended(result);
    for (const TokenLogprob& token : result.completion.logprobs) note(logprob_line(model_, token));
    if (settings_.stats) note(figures_line(result.completion, model_.figures().peak_process_bytes));
  } catch (const Error& error) {
    // One answer has failed, for example because the context is full; the talk can go on.
    note(std::string("decant: error: ") + error.what());
  }
  return added;
}

void Repl::say_how_it_ended(const TurnResult& result) {
  const Completion& completion = result.completion;
  const int64_t room = model_.memory().ctx_size;
  const int64_t used =
      completion.figures.prompt_tokens + static_cast<int64_t>(completion.tokens.size());
  if (completion.finish == Finish::kCancelled) {
    note("(stopped)");
  } else if (completion.finish == Finish::kLength && used >= room) {
    note(fmt::format(
        "note: the answer ends where the context of {} tokens does: /clear begins anew, "
        "--ctx-size gives more room",
        room));
  } else if (completion.finish == Finish::kLength) {
    note(fmt::format("(ended at max-tokens {})", settings_.generate.max_tokens));
  } else if (used * 10 >= room * 9 && !told_nearly_full_) {
    told_nearly_full_ = true;
    note(fmt::format("note: {} of the {} tokens of the context are in use", used, room));
  }
  if (result.inside_reasoning && result.answer.empty())
    note("note: it ended before the answer began: all of it is reasoning (/show thinking)");
}

}  // namespace decant::cli
