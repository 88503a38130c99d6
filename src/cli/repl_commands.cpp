#include <utility>

#include "base/errors.h"
#include "base/units.h"
#include "cli/console.h"
#include "cli/conversation_file.h"
#include "cli/repl.h"
#include "cli/word_wrapper.h"

namespace decant::cli {
namespace {

std::string text_of(const Json& message) {
  const Json content = message.value("content", Json());
  if (!content.is_array()) return content.is_string() ? content.get<std::string>() : content.dump();
  std::string out;
  for (const Json& part : content) {
    const std::string type = part.value("type", "");
    if (!out.empty()) out += " ";
    out += type == "text" ? part.value("text", "")
                          : fmt::format("[{} {}]", type, part.value("path", ""));
  }
  return out;
}

}  // namespace

bool Repl::command(const std::string& entry) {
  try {
    const CommandCall call = parse_command(entry);
    switch (call.id) {
      case CommandId::kHelp:
        note(help_text(call.argument));
        break;
      case CommandId::kClear:
        conversation_.clear();
        attached_ = Json::array();
        told_nearly_full_ = false;
        note("forgotten");
        break;
      case CommandId::kSet:
        set(call.argument);
        break;
      case CommandId::kShow:
        show(call.argument);
        break;
      case CommandId::kLoad:
        load(call.argument);
        break;
      case CommandId::kSave:
        save(call.argument);
        break;
      case CommandId::kSystem:
        set_system(call.argument);
        break;
      case CommandId::kStats:
        settings_.stats =
            call.argument.empty() ? !settings_.stats : parse_switch("stats", call.argument);
        note(settings_.stats ? "figures after each answer" : "no figures");
        break;
      case CommandId::kImage:
        attach("image", call.argument);
        break;
      case CommandId::kAudio:
        attach("audio", call.argument);
        break;
      case CommandId::kVideo:
        attach("video", call.argument);
        break;
      case CommandId::kRetry:
        retry();
        break;
      case CommandId::kBye:
        return false;
    }
  } catch (const Error& error) {
    note(std::string("decant: error: ") + error.what());
  }
  return true;
}

void Repl::set(const std::string& argument) {
  const size_t blank = argument.find_first_of(" \t");
  const std::string name = argument.substr(0, blank);
  const std::string value(
      blank == std::string::npos ? "" : trimmed(std::string_view(argument).substr(blank)));
  if (name.empty()) {
    note(shown("parameters"));
    return;
  }
  ChatSettings changed = settings_;
  set_setting(changed, name, value.empty() ? "default" : value);  // checks the name
  if (value.empty()) {
    note(fmt::format("{} {}", name, setting_text(settings_, name)));
    return;
  }
  const ThinkingPlan plan = plan_thinking(changed.thinking, support_);
  settings_ = std::move(changed);
  note(fmt::format("{} {}", name, setting_text(settings_, name)));
  if (name == "thinking" && !plan.note.empty()) note("note: " + plan.note);
}

std::string Repl::shown(std::string_view topic) const {
  if (topic == "model") {
    const MemoryFigures memory = model_.memory();
    return fmt::format("model       {} ({}) on {}, weights {}", names_.model, model_.model_type(),
                       model_.device(), format_bytes(static_cast<uint64_t>(memory.weights)));
  }
  if (topic == "template") {
    const std::string thinking = !support_.variable.empty() ? "thinking by " + support_.variable
                                 : support_.format          ? "thinking without a switch"
                                                            : "no thinking";
    return fmt::format("template    {} ({})", names_.chat_template, thinking);
  }
  if (topic == "system") {
    const std::string system = conversation_.system();
    return "system      " + (system.empty() ? "none" : harmless(system));
  }
  if (topic == "parameters") {
    std::string out = "parameters";
    for (const SettingInfo& info : settings())
      out += fmt::format("\n  {:<20}{:<12}{}", info.name, setting_text(settings_, info.name),
                         info.meaning);
    return out;
  }
  if (topic == "size") {
    const int64_t room = model_.memory().ctx_size;
    if (conversation_.messages().empty())
      return fmt::format("size        no messages, context of {} tokens", room);
    const size_t tokens =
        rendered(plan_thinking(settings_.thinking, support_), conversation_).tokens.size();
    return fmt::format("size        {} messages, {} of {} tokens of the context",
                       conversation_.messages().size(), tokens, room);
  }
  if (topic == "messages") {
    std::string out = "messages";
    for (const Json& message : conversation_.messages())
      out +=
          fmt::format("\n{}: {}", message["role"].get<std::string>(), harmless(text_of(message)));
    return out;
  }
  if (topic == "thinking") {
    const std::string reasoning = conversation_.last_reasoning();
    return reasoning.empty() ? "the last answer came without reasoning" : harmless(reasoning);
  }
  const std::vector<const char*>& topics = show_topics();
  std::string near = nearest(topic, {topics.begin(), topics.end()});
  if (!near.empty()) near = fmt::format(": did you mean {}?", near);
  throw RequestError("[show] expected {}, got {}{}", fmt::join(topics, ", "), quote(topic), near);
}

void Repl::show(const std::string& topic) const {
  if (!topic.empty()) {
    note(shown(topic));
    return;
  }
  for (const char* each : {"model", "template", "system", "size", "parameters"}) {
    try {
      note(shown(each));
    } catch (const Error& error) {  // of the template, about this conversation
      note(fmt::format("{:<12}{}", each, error.what()));
    }
  }
}

void Repl::load(const std::string& file) {
  const std::filesystem::path path = user_path(file);
  SavedConversation saved = load_conversation(path);
  ChatSettings changed = with_parameters(settings_, saved.parameters, path.string());
  Conversation loaded = Conversation::from_messages(std::move(saved.messages));
  const ThinkingPlan plan = plan_thinking(changed.thinking, support_);
  // What the template refuses is known before anything is given up.
  const size_t tokens = loaded.messages().empty() ? 0 : rendered(plan, loaded).tokens.size();
  conversation_ = std::move(loaded);
  settings_ = std::move(changed);
  told_nearly_full_ = false;
  note(fmt::format("{} messages from {}, {} of {} tokens of the context",
                   conversation_.messages().size(), path.string(), tokens,
                   model_.memory().ctx_size));
}

void Repl::save(const std::string& file) {
  const std::filesystem::path path = user_path(file);
  SavedConversation saved;
  saved.model = names_.model;
  saved.messages = conversation_.messages();
  saved.parameters = parameters_json(settings_);
  const bool replaced = save_conversation(path, saved);
  note(fmt::format("{} messages to {}{}", saved.messages.size(), path.string(),
                   replaced ? ", in the place of an older conversation" : ""));
}

void Repl::set_system(const std::string& text) {
  if (text.empty()) {
    note(shown("system"));
    return;
  }
  std::string message = text;
  if (text.size() >= 2 && text.starts_with('"') && text.ends_with('"'))
    message = text.substr(1, text.size() - 2);
  conversation_.set_system(message);
  note(message.empty() ? "no system message" : "system message set");
}

void Repl::attach(std::string_view type, const std::string& file) {
  if (file.empty()) {
    if (attached_.empty()) note("nothing is attached to the next message");
    for (const Json& part : attached_)
      note(fmt::format("{} {}", part["type"].get<std::string>(),
                       harmless(part["path"].get<std::string>())));
    return;
  }
  const std::string path = user_path(file).string();
  attached_.push_back(media_part(type, path));
  try {
    // What the model or its processor refuses is known before the message is written.
    Conversation tried = conversation_;
    tried.add_user("?", attached_);
    const size_t tokens =
        rendered(plan_thinking(settings_.thinking, support_), tried).tokens.size();
    note(fmt::format("{} {} goes with the next message, {} tokens then", type, path, tokens));
  } catch (const Error&) {
    attached_.erase(attached_.size() - 1);
    throw;
  }
}

void Repl::retry() {
  const bool waiting =
      conversation_.size() > 0 && conversation_.messages().back()["role"] == "user";
  const std::optional<Json> before = conversation_.take_answer();
  if (!before && !waiting) throw RequestError("[retry] expected an answer to make anew, got none");
  if (!answer() && before) conversation_.put_back(*before);
}

}  // namespace decant::cli
