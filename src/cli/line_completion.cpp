#include "cli/line_completion.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "base/utf8.h"
#include "cli/chat_settings.h"
#include "cli/commands.h"
#include "cli/conversation_file.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMostFiles = 10000;  // looked at in one folder

void keep_matching(std::vector<std::string>& candidates, std::string_view begun) {
  std::erase_if(candidates, [&](const std::string& text) { return !text.starts_with(begun); });
  std::sort(candidates.begin(), candidates.end());
}

std::vector<std::string> command_names(bool with_slash) {
  std::vector<std::string> out;
  for (const CommandInfo& command : commands())
    out.emplace_back(command.name + (with_slash ? 0 : 1));
  return out;
}

std::vector<std::string> paths(std::string_view begun) {
  std::vector<std::string> out;
  const size_t slash = begun.rfind('/');
  const std::string folder(begun.substr(0, slash == std::string_view::npos ? 0 : slash + 1));
  std::error_code error;
  fs::directory_iterator files(folder.empty() ? fs::path(".") : user_path(folder), error);
  for (size_t seen = 0; !error && files != fs::directory_iterator() && seen < kMostFiles; ++seen) {
    const std::string name = files->path().filename().string();
    const bool hidden = name.starts_with('.') && !begun.substr(folder.size()).starts_with('.');
    std::error_code ignored;
    // Names that cannot stand in the line, or would drive the terminal, must be typed.
    const bool plain = utf8_first_error(name) == std::string_view::npos &&
                       std::none_of(name.begin(), name.end(), [](char c) {
                         return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
                       });
    if (!hidden && plain) out.push_back(folder + name + (files->is_directory(ignored) ? "/" : ""));
    files.increment(error);
  }
  return out;
}

std::vector<std::string> setting_values(std::string_view name) {
  if (name == "thinking") return {"default", "off", "on"};
  for (const SettingInfo& info : settings())
    if (info.name == name)
      return info.is_switch ? std::vector<std::string>{"off", "on"}
                            : std::vector<std::string>{"default"};
  return {};
}

std::string common_beginning(const std::vector<std::string>& candidates) {
  if (candidates.empty()) return {};
  std::string out = candidates.front();
  for (const std::string& text : candidates) {
    const auto split = std::mismatch(out.begin(), out.end(), text.begin(), text.end());
    out.erase(split.first, out.end());
  }
  out.resize(out.size() - utf8_incomplete_tail(out));
  return out;
}

}  // namespace

Completions complete_line(std::string_view before) {
  Completions out;
  if (!before.starts_with('/') || before.find('\n') != std::string_view::npos) return out;
  const size_t blank = before.find(' ');
  if (blank == std::string_view::npos) {
    out.candidates = command_names(true);
  } else {
    const std::string_view name = before.substr(0, blank);
    out.begin = before.find_first_not_of(' ', blank);
    if (out.begin == std::string_view::npos) out.begin = before.size();
    std::string_view argument = before.substr(out.begin);
    for (const CommandInfo& command : commands()) {
      if (name != command.name) continue;
      switch (command.kind) {
        case ArgumentKind::kPath:
          out.candidates = paths(argument);
          break;
        case ArgumentKind::kCommand:
          out.candidates = command_names(argument.starts_with('/'));
          break;
        case ArgumentKind::kTopic:
          out.candidates.assign(show_topics().begin(), show_topics().end());
          break;
        case ArgumentKind::kSwitch:
          out.candidates = {"off", "on"};
          break;
        case ArgumentKind::kSetting: {
          const size_t end = argument.find(' ');
          if (end == std::string_view::npos) {
            for (const SettingInfo& info : settings()) out.candidates.push_back(info.name);
          } else {
            out.candidates = setting_values(argument.substr(0, end));
            out.begin += std::min(argument.find_first_not_of(' ', end), argument.size());
          }
          break;
        }
        case ArgumentKind::kNone:
        case ArgumentKind::kText:
          break;
      }
    }
  }
  keep_matching(out.candidates, before.substr(out.begin));
  out.common = common_beginning(out.candidates);
  out.final = out.candidates.size() == 1 && !out.common.ends_with('/');
  return out;
}

}  // namespace decant::cli
