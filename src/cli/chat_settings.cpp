#include "cli/chat_settings.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/errors.h"
#include "cli/commands.h"
#include "cli/sampling_setting.h"

namespace decant::cli {
namespace {

constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();
constexpr size_t kMostStops = 16;

std::optional<int64_t> whole(std::string_view text, int64_t low) {
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < low ||
      value > kMostTokens)
    return std::nullopt;
  return value;
}

std::string with_dashes(std::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), '_', '-');
  return out;
}

std::string with_underscores(std::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

bool* switch_of(ChatSettings& chat, std::string_view name) {
  if (name == "show-thinking") return &chat.show_thinking;
  if (name == "stats") return &chat.stats;
  if (name == "wrap") return &chat.wrap;
  return nullptr;
}

// A text, or a JSON string where it must hold what a line cannot.
std::string stop_text(std::string_view value) {
  if (!value.starts_with('"')) return std::string(value);
  try {
    const Json json = parse_json(value, "stop");
    if (json.is_string()) return json.get<std::string>();
  } catch (const ConfigError&) {
  }
  throw RequestError("[set] stop: expected a text or a JSON string, got {}", quote(value));
}

void check_stop(std::string_view text) {
  if (text.empty() || text.size() > 1024)
    throw RequestError("[set] stop: expected 1 to 1024 bytes, got {}", text.size());
}

void reset(ChatSettings& chat, const std::string& name) {
  const ChatSettings fresh;
  if (name == "max-tokens") chat.generate.max_tokens = 0;
  if (name == "stop") chat.generate.stop.clear();
  if (name == "thinking") chat.thinking = fresh.thinking;
  if (bool* flag = switch_of(chat, name))
    *flag = *switch_of(const_cast<ChatSettings&>(fresh), name);
  reset_sampling(chat.generate, name);
}

// The text a setting takes for a JSON value of a saved conversation.
std::string value_text(const Json& value) {
  if (value.is_object() || value.is_array()) {  // logit_bias, stop_tokens
    std::string out;
    for (const auto& [key, item] : value.items())
      out += fmt::format("{}{}{}", out.empty() ? "" : ",",
                         value.is_object() ? key + "=" : std::string(), value_text(item));
    return out;
  }
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  throw RequestError("expected a number or a text, got {}", describe(value));
}

void set_parameter(ChatSettings& chat, const std::string& name, const Json& value) {
  if (name == "stop") {
    if (!value.is_array() || value.size() > kMostStops)
      throw RequestError("expected a list of at most {} texts, got {}", kMostStops,
                         describe(value));
    for (const Json& item : value) {
      if (!item.is_string()) throw RequestError("expected texts, got {}", describe(item));
      check_stop(item.get_ref<const std::string&>());
      chat.generate.stop.push_back(item.get<std::string>());
    }
    return;
  }
  const bool known =
      name == with_underscores(name) && switch_of(chat, with_dashes(name)) == nullptr;
  if (!known) throw RequestError("expected the name of a parameter, got {}", quote(name));
  set_setting(chat, name, value_text(value));
}

}  // namespace

Thinking parse_thinking(std::string_view text) {
  if (text == "default") return {};
  if (text == "off") return {Thinking::Mode::kOff, 0};
  if (text == "on") return {Thinking::Mode::kOn, 0};
  if (const auto budget = whole(text, 0)) return {Thinking::Mode::kBudget, *budget};
  throw RequestError("[set] thinking: expected off, on or a number of tokens, got {}", quote(text));
}

std::string thinking_text(const Thinking& thinking) {
  switch (thinking.mode) {
    case Thinking::Mode::kModel:
      return "default";
    case Thinking::Mode::kOff:
      return "off";
    case Thinking::Mode::kOn:
      return "on";
    case Thinking::Mode::kBudget:
      break;
  }
  return fmt::format("{}", thinking.budget);
}

ThinkingPlan plan_thinking(const Thinking& thinking, const ReasoningSupport& support) {
  ThinkingPlan out;
  const bool wanted =
      thinking.mode == Thinking::Mode::kOn || thinking.mode == Thinking::Mode::kBudget;
  if (thinking.mode == Thinking::Mode::kBudget) {
    if (!support.format)
      throw RequestError(
          "[thinking] a budget of {} tokens: expected a model that writes its reasoning as a "
          "block, "
          "got one whose chat template and vocabulary know none",
          thinking.budget);
    out.budget = thinking.budget;
  }
  if (thinking.mode == Thinking::Mode::kModel) return out;
  if (!support.variable.empty()) {
    out.variables.emplace_back(support.variable, wanted ? "true" : "false");
  } else if (thinking.mode == Thinking::Mode::kOff && support.format) {
    out.budget = 0;  // a template without a switch: its block is ended where it begins
  } else if (!support.format) {
    out.note = fmt::format("thinking {} has no effect: the chat template has no switch for it",
                           thinking_text(thinking));
  }
  return out;
}

const std::vector<SettingInfo>& settings() {
  static const std::vector<SettingInfo> all = [] {
    std::vector<SettingInfo> out;
    for (const SamplingName& sampling : sampling_names())
      out.push_back({sampling.name, sampling.meaning});
    out.push_back({"max-tokens", "Longest answer"});
    out.push_back({"stop", "End the answer before this text"});
    out.push_back({"thinking", "off, on, or a number of tokens after which it is ended"});
    out.push_back({"show-thinking", "Show the reasoning (else it is folded)", true});
    out.push_back({"stats", "Figures after each answer", true});
    out.push_back({"wrap", "Wrap words at the width of the terminal", true});
    return out;
  }();
  return all;
}

void set_setting(ChatSettings& chat, std::string_view name, std::string_view value) {
  const std::string dashed = with_dashes(name);
  const auto known = std::find_if(settings().begin(), settings().end(),
                                  [&](const SettingInfo& info) { return info.name == dashed; });
  if (known == settings().end()) {
    std::vector<std::string> names;
    for (const SettingInfo& info : settings()) names.push_back(info.name);
    const std::string near = nearest(dashed, names);
    throw RequestError("[set] expected a setting, got {}{} (/set lists them)", quote(name),
                       near.empty() ? "" : fmt::format(": did you mean {}?", near));
  }
  if (value == "default") {
    reset(chat, dashed);
  } else if (bool* flag = switch_of(chat, dashed)) {
    *flag = parse_switch(dashed, value);
  } else if (dashed == "max-tokens") {
    const auto count = whole(value, 1);
    if (!count)
      throw RequestError("[set] max-tokens: expected a whole number from 1 to {}, got {}",
                         kMostTokens, quote(value));
    chat.generate.max_tokens = *count;
  } else if (dashed == "stop") {
    const std::string text = stop_text(value);
    check_stop(text);
    chat.generate.stop = {text};
  } else if (dashed == "thinking") {
    chat.thinking = parse_thinking(value);
  } else {
    const bool known_sampling = set_sampling(chat.generate, dashed, value);
    DECANT_ASSERT(known_sampling, "a setting of the table is known");
  }
}

std::string setting_text(const ChatSettings& chat, std::string_view name) {
  if (const bool* flag = switch_of(const_cast<ChatSettings&>(chat), name))
    return *flag ? "on" : "off";
  if (name == "thinking") return thinking_text(chat.thinking);
  if (name == "max-tokens" && chat.generate.max_tokens > 0)
    return fmt::format("{}", chat.generate.max_tokens);
  if (name == "stop" && !chat.generate.stop.empty()) return Json(chat.generate.stop).dump();
  if (const auto value = sampling_value(chat.generate, name)) return value->dump();
  return "default";
}

Json parameters_json(const ChatSettings& chat) {
  Json out = Json::object();
  for (const SamplingName& sampling : sampling_names())
    if (const auto value = sampling_value(chat.generate, sampling.name))
      out[with_underscores(sampling.name)] = *value;
  if (chat.generate.max_tokens > 0) out["max_tokens"] = chat.generate.max_tokens;
  if (!chat.generate.stop.empty()) out["stop"] = chat.generate.stop;
  if (chat.thinking.mode == Thinking::Mode::kBudget)
    out["thinking"] = chat.thinking.budget;
  else if (chat.thinking.mode != Thinking::Mode::kModel)
    out["thinking"] = thinking_text(chat.thinking);
  return out;
}

ChatSettings with_parameters(const ChatSettings& chat, const Json& parameters,
                             const std::string& where) {
  ChatSettings out = chat;
  const ChatSettings fresh;
  out.generate = fresh.generate;
  out.thinking = fresh.thinking;
  Problems problems;
  for (const auto& [name, value] : parameters.items()) {
    try {
      set_parameter(out, name, value);
    } catch (const RequestError& error) {
      std::string_view what = error.what();
      if (what.starts_with("[set] ")) what.remove_prefix(6);
      problems.add(fmt::format("parameters.{}: {}", name, what));
    }
  }
  if (!problems.empty()) throw RequestError("{}", problems.text("[load] " + where + ":"));
  return out;
}

}  // namespace decant::cli
