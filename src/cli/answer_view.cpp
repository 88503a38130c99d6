#include "cli/answer_view.h"

#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "cli/console.h"

namespace decant::cli {
namespace {

constexpr auto kRefresh = std::chrono::milliseconds(100);

std::string dim(std::string_view text) {
  return stderr_takes_colour() ? fmt::format("\033[2m{}\033[0m", text) : std::string(text);
}

}  // namespace

ThinkingView::ThinkingView(const Options& options)
    : options_(options),
      wrapper_([wrap = options.wrap] { return wrap ? terminal_columns() : 0; }) {}

void ThinkingView::write(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void ThinkingView::add(std::string_view text, int64_t tokens) {
  const bool first = !begun_;
  begun_ = true;
  tokens_ = tokens;
  if (options_.show) {
    if (first) write(dim("thinking:") + "\n");
    const std::string shown = stderr_is_terminal() ? wrapper_.push(text) : std::string(text);
    if (!shown.empty()) write(dim(shown));
    return;
  }
  if (!stderr_is_terminal()) return;
  if (!stderr_takes_escapes()) {
    if (first) write("thinking ...\n");
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (!first && now - shown_at_ < kRefresh) return;
  shown_at_ = now;
  write("\r\033[K" + dim(fmt::format("thinking ... {} tokens", tokens)));
}

void ThinkingView::finish(int64_t tokens) {
  if (!begun_ || ended_) return;
  ended_ = true;
  if (options_.show) {
    const std::string rest = stderr_is_terminal() ? wrapper_.finish() : "";
    write((rest.empty() ? "" : dim(rest)) + "\n\n");
  } else if (stderr_takes_escapes()) {
    write("\r\033[K");
    if (!options_.quiet) write(dim(fmt::format("thought: {} tokens", tokens)) + "\n");
  }
}

bool AnswerView::add(const TurnText& text) {
  if (!text.reasoning.empty()) thinking_.add(text.reasoning, text.reasoning_tokens);
  if (text.answer.empty()) return true;
  thinking_.finish(text.reasoning_tokens);
  return printer_.add(text.answer);
}

void AnswerView::finish(const TurnResult& result) {
  thinking_.finish(result.reasoning_tokens);
  printer_.finish();
}

}  // namespace decant::cli
