#include "cli/conversation_file.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <system_error>

#include "base/errors.h"
#include "base/file.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kFormat = "decant-conversation";
constexpr int kVersion = 1;
constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
constexpr std::string_view kFields[] = {"format", "version", "model", "messages", "parameters"};
constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool"};
constexpr std::string_view kMessageFields[] = {
    "role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id"};

template <typename Table>
bool listed(const Table& table, std::string_view name) {
  return std::find(std::begin(table), std::end(table), name) != std::end(table);
}

class Checker {
 public:
  Problems problems;

  void wrong(const std::string& where, std::string_view expected, const Json& got) {
    problems.add(fmt::format("{}: expected {}, got {}", where, expected, describe(got)));
  }

  void messages(const Json& list) {
    if (!list.is_array()) {
      wrong("messages", "a list of messages", list);
      return;
    }
    for (size_t i = 0; i < list.size(); ++i) message(fmt::format("messages[{}]", i), list[i], i);
  }

 private:
  static bool is_media(const Json& part) {
    if (!part.is_object() || part.size() != 2 || !part.value("path", Json()).is_string())
      return false;
    const Json type = part.value("type", Json());
    return type == "image" || type == "audio" || type == "video";
  }
  void message(const std::string& where, const Json& message, size_t index) {
    if (!message.is_object()) {
      wrong(where, "an object", message);
      return;
    }
    for (const auto& [name, value] : message.items())
      if (!listed(kMessageFields, name))
        problems.add(
            fmt::format("{}.{}: expected role, content, name, reasoning_content, "
                        "tool_calls or tool_call_id, got another field",
                        where, name));
    const Json role = message.value("role", Json());
    if (!role.is_string() || !listed(kRoles, role.get_ref<const std::string&>()))
      wrong(where + ".role", "system, developer, user, assistant or tool", role);
    else if (role == "system" && index > 0)
      problems.add(fmt::format("{}.role: expected the system message first, got it later", where));
    content(where, message);
    for (const char* name : {"name", "reasoning_content", "tool_call_id"})
      if (message.contains(name) && !message[name].is_string())
        wrong(fmt::format("{}.{}", where, name), "a text", message[name]);
    if (message.contains("tool_calls") && !message["tool_calls"].is_array())
      wrong(where + ".tool_calls", "a list", message["tool_calls"]);
  }

  void content(const std::string& where, const Json& message) {
    const Json content = message.value("content", Json());
    if (content.is_string()) return;
    if (content.is_null() && message.contains("tool_calls")) return;
    if (!content.is_array()) {
      wrong(where + ".content", "a text or a list of parts", content);
      return;
    }
    for (size_t i = 0; i < content.size(); ++i) {
      const std::string part = fmt::format("{}.content[{}]", where, i);
      if (is_media(content[i])) continue;
      if (!content[i].is_object() || content[i].value("type", Json()) != "text" ||
          !content[i].value("text", Json()).is_string() || content[i].size() != 2)
        problems.add(fmt::format(
            "{}: expected {{\"type\": \"text\", \"text\": ...}} or {{\"type\": "
            "\"image\", \"path\": ...}}, got {}",
            part, quote(content[i].dump(-1, ' ', false, Json::error_handler_t::replace))));
    }
  }
};

}  // namespace

std::string conversation_text(const SavedConversation& saved) {
  Json out = {{"format", kFormat}, {"version", kVersion}};
  if (!saved.model.empty()) out["model"] = saved.model;
  out["messages"] = saved.messages;
  out["parameters"] = saved.parameters;
  return out.dump(2) + "\n";
}

SavedConversation parse_conversation(std::string_view text, const std::string& name) {
  Json json;
  try {
    json = parse_json(text, name);
  } catch (const ConfigError& error) {
    throw RequestError("{}", error.what());
  }
  Checker checker;
  SavedConversation out;
  if (json.is_array()) {
    checker.messages(json);
    out.messages = json;
  } else if (!json.is_object()) {
    checker.wrong("it", "an object or a list of messages", json);
  } else {
    for (const auto& [field, value] : json.items())
      if (!listed(kFields, field))
        checker.problems.add(fmt::format(
            "{}: expected format, version, model, messages or parameters, got another field",
            field));
    if (json.contains("format") && json["format"] != kFormat)
      checker.wrong("format", quote(kFormat), json["format"]);
    if (json.contains("version") && json["version"] != kVersion)
      checker.wrong("version", fmt::format("{}", kVersion), json["version"]);
    if (json.contains("model")) {
      if (json["model"].is_string())
        out.model = json["model"].get<std::string>();
      else
        checker.wrong("model", "a text", json["model"]);
    }
    out.messages = json.value("messages", Json());
    checker.messages(out.messages);
    out.parameters = json.value("parameters", Json::object());
    if (!out.parameters.is_object()) checker.wrong("parameters", "an object", out.parameters);
  }
  if (!checker.problems.empty())
    throw RequestError("{}", checker.problems.text("[load] " + name + ":"));
  return out;
}

SavedConversation load_conversation(const fs::path& path) {
  std::string text;
  try {
    text = read_text_file(path, kMaxBytes);
  } catch (const RuntimeError& error) {
    throw RequestError("{}", error.what());
  }
  return parse_conversation(text, path.string());
}

bool save_conversation(const fs::path& path, const SavedConversation& saved) {
  std::error_code error;
  // A link stays one: what it points to is written.
  fs::path target = fs::weakly_canonical(path, error);
  if (error) target = path;
  const bool exists = fs::exists(target, error);
  if (exists) {
    if (!fs::is_regular_file(target, error))
      throw RequestError("[save] {}: expected a file, got something else of that name",
                         path.string());
    try {
      load_conversation(target);
    } catch (const RequestError&) {
      throw RequestError(
          "[save] {}: expected a new name or a saved conversation, got another file: it stays",
          path.string());
    }
  }
  AtomicFile file(target, 0600);
  file.write(conversation_text(saved));
  file.commit();
  return exists;
}

fs::path user_path(std::string_view text) {
  const char* home = std::getenv("HOME");
  if (home != nullptr && (text == "~" || text.starts_with("~/")))
    return fs::path(home) / text.substr(std::min<size_t>(2, text.size()));
  return text;
}

}  // namespace decant::cli
