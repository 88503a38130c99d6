#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace decant::cli {

enum class CommandId : uint8_t {
  kHelp,
  kClear,
  kSet,
  kShow,
  kLoad,
  kSave,
  kSystem,
  kImage,
  kAudio,
  kVideo,
  kStats,
  kRetry,
  kBye,
};

/// What an argument of a command is, for completion.
enum class ArgumentKind : uint8_t { kNone, kText, kPath, kSetting, kTopic, kCommand, kSwitch };

struct CommandInfo {
  CommandId id;
  const char* name;  // "/help"
  std::vector<const char*> aliases;
  const char* argument;  // for the help: "[NAME [VALUE]]"
  ArgumentKind kind;
  const char* summary;
  const char* details;  // for /help COMMAND; may be empty
};

/// All commands, in the order of the help.
const std::vector<CommandInfo>& commands();
/// What /show tells about.
const std::vector<const char*>& show_topics();

struct CommandCall {
  CommandId id = CommandId::kHelp;
  std::string argument;  // the rest of the line without the blanks around it
};

/// Whether an entry is a command: it begins with '/', and is one line or names a command.
bool is_command(std::string_view entry);
/// Errors: RequestError naming the nearest command.
CommandCall parse_command(std::string_view entry);

/// The text of /help, or of /help COMMAND. Errors: RequestError for an unknown command.
std::string help_text(std::string_view command);

/// "on" or "off" (also yes, no, true, false, 1, 0). Errors: RequestError naming `what`.
bool parse_switch(std::string_view what, std::string_view text);

/// The candidate with the smallest edit distance to `text`, if it is near enough to be what was
/// meant; else empty.
std::string nearest(std::string_view text, const std::vector<std::string>& candidates);

/// Without the blanks at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace decant::cli
