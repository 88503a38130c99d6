#include "session/reasoning.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/errors.h"
#include "base/json.h"

namespace decant {
namespace {

constexpr std::string_view kBlank = " \t\r\n";
constexpr size_t kTailTokens = 32;  // of a prompt: more than a marker and its line breaks take

/// A format, and what a vocabulary that was made for it has as single tokens.
struct KnownFormat {
  std::string_view open, close, forced_close;
  std::string_view open_token, close_token;
  ReasoningFormat format() const {
    return {std::string(open), std::string(close), std::string(forced_close)};
  }
};
constexpr std::array kFormats = {
    KnownFormat{"<think>", "</think>", "\n</think>\n\n", "<think>", "</think>"},
    KnownFormat{"<|channel>thought\n", "<channel|>", "\n<channel|>", "<|channel>", "<channel|>"},
};

/// Without the blanks at its end.
std::string_view stripped(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kBlank) + 1);
}

using Variables = std::vector<std::pair<std::string, std::string>>;

// Nothing where the template refuses.
std::optional<std::string> render(const LanguageModel& model, const Json& messages,
                                  Variables variables, bool generation_prompt = true) {
  ChatInput input;
  input.messages_json = messages.dump();
  input.variables = std::move(variables);
  input.add_generation_prompt = generation_prompt;
  try {
    return model.detokenize(model.chat_tokens(input));
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool one_token(const LanguageModel& model, std::string_view text) {
  const auto around = static_cast<int64_t>(model.tokenize("").size());  // BOS and the like
  return static_cast<int64_t>(model.tokenize(text).size()) == around + 1;
}

/// Length of the longest end of `text` that begins `marker`, short of all of it.
size_t begun(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n)
    if (text.substr(text.size() - n) == marker.substr(0, n)) return n;
  return 0;
}

}  // namespace

std::span<const std::string_view> reasoning_tokens() {
  static constexpr auto kTokens = [] {
    std::array<std::string_view, 2 * kFormats.size()> out;
    for (size_t i = 0; i < kFormats.size(); ++i) {
      out[2 * i] = kFormats[i].open_token;
      out[2 * i + 1] = kFormats[i].close_token;
    }
    return out;
  }();
  return kTokens;
}

ReasoningSupport probe_reasoning(const LanguageModel& model) {
  ReasoningSupport out;
  if (!model.has_chat_template()) return out;
  const Json user = {{"role", "user"}, {"content", "Hi"}};
  const Json question = Json::array({user});
  std::vector<std::optional<std::string>> seen = {render(model, question, {})};
  for (const char* name : {"enable_thinking", "thinking"}) {
    const auto on = render(model, question, {{name, "true"}});
    const auto off = render(model, question, {{name, "false"}});
    if (!on || !off || *on == *off) continue;
    out.variable = name;
    seen.insert(seen.end(), {on, off});
    break;
  }
  const Json answer = {{"role", "assistant"}, {"content", "Hello"}, {"reasoning_content", "Greet"}};
  seen.push_back(render(model, Json::array({user, answer}), {}, false));

  const auto written = [&](const KnownFormat& known) {
    return std::any_of(seen.begin(), seen.end(), [&](const auto& text) {
      return text && (text->find(known.open) != std::string::npos ||
                      text->find(known.close) != std::string::npos);
    });
  };
  const auto in_vocabulary = [&](const KnownFormat& known) {
    return one_token(model, known.open_token) && one_token(model, known.close_token);
  };
  auto found = std::find_if(kFormats.begin(), kFormats.end(), written);
  if (found == kFormats.end())
    found = std::find_if(kFormats.begin(), kFormats.end(), in_vocabulary);
  if (found != kFormats.end()) out.format = found->format();
  return out;
}

bool starts_inside(const LanguageModel& model, const ReasoningFormat& format,
                   const std::vector<int32_t>& prompt) {
  const auto count = static_cast<int64_t>(std::min(prompt.size(), kTailTokens));
  const std::string tail = model.detokenize({prompt.end() - count, prompt.end()});
  return stripped(tail).ends_with(stripped(format.open));
}

ReasoningFilter::ReasoningFilter(std::optional<ReasoningFormat> format, bool inside)
    : state_(!format  ? State::kAnswer
             : inside ? State::kOpened
                      : State::kStart) {
  if (format) format_ = std::move(*format);
}

ReasoningFilter::Text ReasoningFilter::push(std::string_view text) {
  held_ += text;
  Text out;
  while (advance(out)) {
  }
  return out;
}

// One transition; false when more text is needed.
bool ReasoningFilter::advance(Text& out) {
  const size_t first = held_.find_first_not_of(kBlank);
  switch (state_) {
    case State::kStart:
    case State::kOpened: {
      if (first == std::string::npos) return false;
      const std::string_view rest = std::string_view(held_).substr(first);
      const bool opens = rest.starts_with(format_.open);
      if (!opens && std::string_view(format_.open).starts_with(rest)) return false;
      if (opens || state_ == State::kOpened) {
        // Some models repeat the marker that the template has already written.
        held_.erase(0, first + (opens ? format_.open.size() : 0));
        state_ = opens ? State::kOpened : State::kInside;
      } else {
        state_ = State::kAnswer;
      }
      return true;
    }
    case State::kInside: {
      const size_t close = held_.find(format_.close);
      if (close != std::string::npos) {
        const size_t last = std::string_view(held_).substr(0, close).find_last_not_of(kBlank);
        if (last != std::string::npos) out.reasoning += held_.substr(0, last + 1);
        held_.erase(0, close + format_.close.size());
        state_ = State::kClosed;
        return true;
      }
      // Blanks before the marker are part of it.
      std::string_view ready = held_;
      ready.remove_suffix(begun(ready, format_.close));
      ready = ready.substr(0, ready.find_last_not_of(kBlank) + 1);
      out.reasoning += ready;
      held_.erase(0, ready.size());
      return false;
    }
    case State::kClosed:
      if (first == std::string::npos) return false;
      held_.erase(0, first);
      state_ = State::kAnswer;
      return true;
    case State::kAnswer:
      out.answer += std::exchange(held_, {});
      return false;
  }
  return false;
}

ReasoningFilter::Text ReasoningFilter::finish() {
  std::string rest = std::exchange(held_, {});
  Text out;
  if (state_ == State::kOpened || state_ == State::kInside) {
    const size_t last = rest.find_last_not_of(kBlank);
    if (last != std::string::npos) out.reasoning = rest.substr(0, last + 1);
  } else if (state_ != State::kClosed) {
    out.answer = std::move(rest);
  }
  return out;
}

void ReasoningFilter::force_close() {
  held_.clear();
  state_ = State::kClosed;
}

}  // namespace decant
