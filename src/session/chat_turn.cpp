#include "session/chat_turn.h"

#include <algorithm>
#include <utility>

namespace decant {

struct ChatTurn::Running {
  const TurnOptions& options;
  ReasoningFilter filter;
  TurnResult result;
  bool was_inside = false;
  bool out_of_budget = false;

  bool show(const ReasoningFilter::Text& text) {
    result.reasoning += text.reasoning;
    result.answer += text.answer;
    if (!options.on_text || (text.reasoning.empty() && text.answer.empty())) return true;
    return options.on_text({text.reasoning, text.answer, result.reasoning_tokens});
  }
  bool budget_reached() const {
    return filter.inside() && options.reasoning_budget >= 0 &&
           result.reasoning_tokens >= options.reasoning_budget;
  }
  // After the text of the token: the tokens of the markers are neither.
  bool token() {
    if (was_inside && filter.inside()) ++result.reasoning_tokens;
    was_inside = filter.inside();
    out_of_budget = budget_reached();
    return !out_of_budget;
  }
};

ChatTurn::ChatTurn(LanguageModel& model, ReasoningSupport support)
    : model_(model), support_(std::move(support)) {}

void ChatTurn::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (generation_) generation_->cancel();
}

const Completion& ChatTurn::generate(Running& running, Prompt prompt) {
  GenerateOptions options = running.options.generate;
  if (options.max_tokens > 0)
    options.max_tokens -= static_cast<int64_t>(running.result.completion.tokens.size());
  options.on_text = [&](std::string_view text) { return running.show(running.filter.push(text)); };
  options.on_token = [&](int32_t) { return running.token(); };
  options.on_finish = {};
  std::shared_ptr<Generation> generation = model_.continue_prompt(std::move(prompt), options);
  {
    const std::lock_guard lock(mutex_);
    generation_ = generation;
    if (cancelled_) generation->cancel();
  }
  return generation->wait();
}

std::vector<int32_t> ChatTurn::closing_tokens() const {
  // Without what a tokenizer puts before every text.
  const std::vector<int32_t> before = model_.tokenize("");
  std::vector<int32_t> out = model_.tokenize(support_.format->forced_close);
  const auto split = std::mismatch(before.begin(), before.end(), out.begin(), out.end());
  out.erase(out.begin(), split.second);
  return out;
}

TurnResult ChatTurn::run(Prompt prompt, const TurnOptions& options) {
  const bool inside = support_.format && starts_inside(model_, *support_.format, prompt.tokens);
  Running running{options, ReasoningFilter(support_.format, inside), {}, inside, false};
  TurnResult& result = running.result;
  const auto prompt_tokens = static_cast<int64_t>(prompt.tokens.size());

  running.out_of_budget = running.budget_reached();
  bool begun = false;
  if (!running.out_of_budget) {
    result.completion = generate(running, prompt);
    begun = true;
  }
  if (running.out_of_budget) {
    result.budget_spent = true;
    Completion& first = result.completion;
    const std::vector<int32_t> closing = closing_tokens();
    prompt.tokens.insert(prompt.tokens.end(), first.tokens.begin(), first.tokens.end());
    prompt.tokens.insert(prompt.tokens.end(), closing.begin(), closing.end());
    const int64_t limit = options.generate.max_tokens;
    const bool room = static_cast<int64_t>(prompt.tokens.size()) < model_.memory().ctx_size &&
                      (limit == 0 || static_cast<int64_t>(first.tokens.size()) < limit);
    if (!room && begun) {
      first.finish = Finish::kLength;
    } else {
      running.filter.force_close();
      running.out_of_budget = false;
      running.was_inside = false;
      Completion second = generate(running, std::move(prompt));
      second.text = first.text + support_.format->forced_close + second.text;
      second.tokens.insert(second.tokens.begin(), first.tokens.begin(), first.tokens.end());
      second.logprobs.insert(second.logprobs.begin(), first.logprobs.begin(), first.logprobs.end());
      Figures& figures = second.figures;
      const Figures& before = first.figures;
      if (begun) {
        second.seed = first.seed;
        const int64_t intervals = std::max<int64_t>(before.completion_tokens - 1, 0) +
                                  std::max<int64_t>(figures.completion_tokens - 1, 0);
        figures.completion_tokens += before.completion_tokens;
        figures.queue_seconds = before.queue_seconds;
        figures.ttft_seconds = before.ttft_seconds;
        figures.prefill_seconds = before.prefill_seconds;
        figures.prefill_tokens_per_second = before.prefill_tokens_per_second;
        figures.decode_seconds += before.decode_seconds;
        figures.decode_tokens_per_second =
            figures.decode_seconds > 0 ? static_cast<double>(intervals) / figures.decode_seconds
                                       : 0;
      }
      figures.prompt_tokens = prompt_tokens;
      result.completion = std::move(second);
    }
  }
  result.inside_reasoning = running.filter.inside();
  running.show(running.filter.finish());
  const std::lock_guard lock(mutex_);
  generation_.reset();
  return std::move(result);
}

}  // namespace decant
