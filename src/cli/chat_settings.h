#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "decant/decant.h"
#include "session/reasoning.h"

namespace decant::cli {

/// What is asked of a model that reasons before it answers.
struct Thinking {
  enum class Mode : uint8_t { kModel, kOff, kOn, kBudget };
  Mode mode = Mode::kModel;
  int64_t budget = 0;  // tokens, kBudget only
};
/// "default", "off", "on" or a number of tokens. Errors: RequestError.
Thinking parse_thinking(std::string_view text);
std::string thinking_text(const Thinking& thinking);

/// How a model is asked to do it.
struct ThinkingPlan {
  std::vector<std::pair<std::string, std::string>> variables;  // of the template: name, JSON value
  int64_t budget = -1;                                         // tokens; -1: none
  std::string note;  // why the wish has no effect; empty: it has
};
/// Errors: RequestError where the model cannot do it and that matters: a budget without a block
/// that it could end.
ThinkingPlan plan_thinking(const Thinking& thinking, const ReasoningSupport& support);

/// What a conversation can set.
struct ChatSettings {
  GenerateOptions generate;
  Thinking thinking;
  bool show_thinking = false;
  bool stats = false;
  bool wrap = true;
  bool parse_special = false;  // special tokens spelled in messages count
};

struct SettingInfo {
  std::string name;
  std::string meaning;
  bool is_switch = false;
};
/// All settings, in the order of the help.
const std::vector<SettingInfo>& settings();

/// Sets one; the value "default" gives it back to the model. Errors: RequestError naming the
/// setting, or the nearest name.
void set_setting(ChatSettings& chat, std::string_view name, std::string_view value);
/// Its value for the user: "default" where it is the model's.
std::string setting_text(const ChatSettings& chat, std::string_view name);

/// What has been set of how answers are made, as the chat API of OpenAI names it: max_tokens,
/// top_p.
Json parameters_json(const ChatSettings& chat);
/// The settings with these parameters, and no others, in force. Errors: RequestError `[load] WHERE:
/// parameters.top_p: ...` with all problems.
ChatSettings with_parameters(const ChatSettings& chat, const Json& parameters,
                             const std::string& where);

}  // namespace decant::cli
