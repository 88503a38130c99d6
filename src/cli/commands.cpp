#include "cli/commands.h"

#include <algorithm>
#include <cctype>

#include "base/errors.h"
#include "base/nearest.h"

namespace decant::cli {
namespace {

const CommandInfo* find_command(std::string_view name) {
  for (const CommandInfo& command : commands()) {
    if (name == command.name) return &command;
    for (const char* alias : command.aliases)
      if (name == alias) return &command;
  }
  return nullptr;
}

const CommandInfo& require_command(std::string_view name) {
  if (const CommandInfo* command = find_command(name)) return *command;
  std::vector<std::string> names;
  for (const CommandInfo& command : commands()) {
    names.emplace_back(command.name);
    names.insert(names.end(), command.aliases.begin(), command.aliases.end());
  }
  const std::string near = nearest(name, names);
  throw RequestError("[command] expected a command, got {}{} (/help lists them)", quote(name),
                     near.empty() ? "" : fmt::format(": did you mean {}?", near));
}

std::string_view first_word(std::string_view text) {
  return text.substr(0, text.find_first_of(" \t\r\n"));
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

const std::vector<CommandInfo>& commands() {
  using Id = CommandId;
  using Kind = ArgumentKind;
  static const std::vector<CommandInfo> table = {
      {Id::kHelp,
       "/help",
       {"/?"},
       "[COMMAND]",
       Kind::kCommand,
       "This list, or more on a command",
       ""},
      {Id::kClear,
       "/clear",
       {},
       "",
       Kind::kNone,
       "Forget the conversation, keep the system message",
       ""},
      {Id::kSet,
       "/set",
       {},
       "[NAME [VALUE]]",
       Kind::kSetting,
       "Set how answers are made, or show it",
       "/set lists all settings; /set NAME shows one; /set NAME default gives it back to the "
       "model"},
      {Id::kShow,
       "/show",
       {},
       "[TOPIC]",
       Kind::kTopic,
       "Model, template, settings, size",
       "Topics: model, template, system, parameters, size, messages, thinking (that of the last "
       "answer)"},
      {Id::kLoad,
       "/load",
       {},
       "FILE",
       Kind::kPath,
       "Go on with a saved conversation",
       "The conversation and its parameters take the place of the present ones; nothing changes if "
       "the file has an error"},
      {Id::kSave,
       "/save",
       {},
       "FILE",
       Kind::kPath,
       "Save the conversation as JSON",
       "Messages as the chat API of OpenAI has them, and the parameters that were set. A file that "
       "is no saved conversation is not replaced"},
      {Id::kSystem,
       "/system",
       {},
       "[TEXT]",
       Kind::kText,
       "Set the system message, or show it",
       "It counts from the next answer on; /system \"\" takes it away"},
      {Id::kImage,
       "/image",
       {},
       "[FILE]",
       Kind::kPath,
       "Put a picture before the next message",
       "JPEG, PNG or WebP. Several may be attached; without FILE it lists them; /clear drops them"},
      {Id::kAudio,
       "/audio",
       {},
       "[FILE]",
       Kind::kPath,
       "Put a sound before the next message",
       "WAV, FLAC, MP3, Ogg or AIFF"},
      {Id::kVideo, "/video", {}, "[FILE]", Kind::kPath, "Put a video before the next message", ""},
      {Id::kStats, "/stats", {}, "[on|off]", Kind::kSwitch, "Figures after each answer", ""},
      {Id::kRetry,
       "/retry",
       {},
       "",
       Kind::kNone,
       "Answer the last message anew",
       "With other random numbers, unless a seed is set"},
      {Id::kBye, "/bye", {"/exit", "/quit"}, "", Kind::kNone, "Leave (also Ctrl-D)", ""},
  };
  return table;
}

const std::vector<const char*>& show_topics() {
  static const std::vector<const char*> topics = {"model", "template", "system",  "parameters",
                                                  "size",  "messages", "thinking"};
  return topics;
}

bool is_command(std::string_view entry) {
  if (!entry.starts_with('/')) return false;
  // A pasted text may begin with a path.
  return entry.find('\n') == std::string_view::npos || find_command(first_word(entry)) != nullptr;
}

CommandCall parse_command(std::string_view entry) {
  entry = trimmed(entry);
  const std::string_view name = first_word(entry);
  const CommandInfo& command = require_command(name);
  CommandCall out{command.id, std::string(trimmed(entry.substr(name.size())))};
  if (command.kind == ArgumentKind::kNone && !out.argument.empty())
    throw RequestError("[command] {}: expected nothing after it, got {}", command.name,
                       quote(out.argument));
  if (command.kind == ArgumentKind::kPath && *command.argument != '[' && out.argument.empty())
    throw RequestError("[command] {}: expected a file, got nothing", command.name);
  return out;
}

std::string help_text(std::string_view topic) {
  if (!topic.empty()) {
    const std::string name = (topic.starts_with('/') ? "" : "/") + std::string(topic);
    const CommandInfo& command = require_command(name);
    std::string out = fmt::format("{} {}\n  {}", command.name, command.argument, command.summary);
    if (*command.details != '\0') out += fmt::format("\n  {}", command.details);
    for (const char* alias : command.aliases) out += fmt::format("\n  Also: {}", alias);
    return out;
  }
  std::string out;
  for (const CommandInfo& command : commands())
    out += fmt::format("  {:<24}{}\n", fmt::format("{} {}", command.name, command.argument),
                       command.summary);
  out +=
      "  \"\"\"                     Begin and end a message of several lines\n"
      "Ctrl-C stops an answer; at the prompt it clears the line, and again leaves. Ctrl-D leaves.\n"
      "Tab completes commands and files; Alt-Enter begins a new line; pasted lines stay together.";
  return out;
}

bool parse_switch(std::string_view what, std::string_view text) {
  for (const char* word : {"on", "yes", "true", "1"})
    if (text == word) return true;
  for (const char* word : {"off", "no", "false", "0"})
    if (text == word) return false;
  throw RequestError("[set] {}: expected on or off, got {}", what, quote(text));
}

std::string nearest(std::string_view text, const std::vector<std::string>& candidates) {
  const std::vector<std::string> found = decant::nearest(text, candidates, 1);
  return found.empty() ? std::string() : found.front();
}

}  // namespace decant::cli
