#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "decant/decant.h"

namespace decant {

/// How a family of models writes down its reasoning before an answer: `<think>`, or the channel of
/// Gemma 4, whose opening marker ends in the line break after the channel's name.
struct ReasoningFormat {
  std::string open;
  std::string close;
  std::string forced_close;  // what ends a block in the model's place, with its line breaks
};

/// What a model's chat template and vocabulary say about reasoning.
struct ReasoningSupport {
  std::optional<ReasoningFormat> format;  // absent: answers are answers from the first character
  std::string variable;  // the template's switch (enable_thinking, thinking); empty: it has none
};

/// Tokens that begin or end a block in one of the known formats. Some vocabularies call them
/// special; the text of an answer holds them all the same, or nobody could tell the block apart.
std::span<const std::string_view> reasoning_tokens();

/// Asks the template, by rendering small conversations with the switch on and off, and the
/// vocabulary. A model without a template has no support.
ReasoningSupport probe_reasoning(const LanguageModel& model);

/// True when an answer to `prompt` begins inside a block, because the template has opened one.
bool starts_inside(const LanguageModel& model, const ReasoningFormat& format,
                   const std::vector<int32_t>& prompt);

/// Divides the stream of an answer into reasoning and the answer proper. Markers, and the blanks
/// around them, belong to neither. A block is one only at the start: an answer may speak of
/// markers. The cuts between pieces do not matter.
class ReasoningFilter {
 public:
  struct Text {
    std::string reasoning;
    std::string answer;
  };
  /// Without a format everything is the answer.
  ReasoningFilter(std::optional<ReasoningFormat> format, bool inside);

  /// What has become certain with this text.
  Text push(std::string_view text);
  /// What was held back, at the end of the stream.
  Text finish();
  /// Ends a block from outside: what comes next is the answer.
  void force_close();
  bool inside() const { return state_ == State::kOpened || state_ == State::kInside; }

 private:
  enum class State { kStart, kOpened, kInside, kClosed, kAnswer };
  bool advance(Text& out);

  ReasoningFormat format_;
  State state_;
  std::string held_;
};

}  // namespace decant
