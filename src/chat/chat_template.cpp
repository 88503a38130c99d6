#include "chat/chat_template.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "base/errors.h"
#include "base/file.h"

namespace decant {
namespace {

constexpr std::string_view kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                            "pad_token", "cls_token", "mask_token"};
constexpr std::string_view kRoles[] = {"system",        "developer",   "user",     "assistant",
                                       "tool",          "function",    "ipython",  "model",
                                       "environment",   "documents",   "chatbot",  "context",
                                       "tool_response", "observation", "tool_call"};
constexpr std::string_view kReserved[] = {"messages", "tools", "add_generation_prompt"};
constexpr uint64_t kMaxTemplateBytes = 4u << 20;

template <typename Table>
bool listed(const Table& table, std::string_view name) {
  return std::find(std::begin(table), std::end(table), name) != std::end(table);
}

void check_part(Problems& problems, const std::string& where, const Json& part) {
  if (part.is_string()) return;
  if (!part.is_object()) {
    problems.add(fmt::format("{}: expected an object or a string, got {}", where, describe(part)));
    return;
  }
  const auto type = part.find("type");
  if (type == part.end()) {
    problems.add(fmt::format("{}.type: expected a string, got nothing", where));
  } else if (!type->is_string()) {
    problems.add(fmt::format("{}.type: expected a string, got {}", where, describe(*type)));
  } else if (*type == "text") {
    const auto text = part.find("text");
    if (text == part.end())
      problems.add(fmt::format("{}.text: expected a string, got nothing", where));
    else if (!text->is_string())
      problems.add(fmt::format("{}.text: expected a string, got {}", where, describe(*text)));
  }
}

void check_message(Problems& problems, const std::string& where, const Json& message) {
  if (!message.is_object()) {
    problems.add(fmt::format("{}: expected an object, got {}", where, describe(message)));
    return;
  }
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string() ||
      !listed(kRoles, role->get_ref<const std::string&>()))
    problems.add(fmt::format("{}.role: expected system, developer, user, assistant or tool, got {}",
                             where, role == message.end() ? "nothing" : describe(*role)));
  const auto content = message.find("content");
  if (content == message.end() || content->is_null() || content->is_string()) {
    // A message of tool calls may come without content.
  } else if (content->is_array()) {
    for (size_t i = 0; i < content->size(); ++i)
      check_part(problems, fmt::format("{}.content[{}]", where, i), (*content)[i]);
  } else {
    problems.add(fmt::format("{}.content: expected a string, null or a list of parts, got {}",
                             where, describe(*content)));
  }
  const auto calls = message.find("tool_calls");
  if (calls != message.end() && !calls->is_null() && !calls->is_array())
    problems.add(fmt::format("{}.tool_calls: expected a list, got {}", where, describe(*calls)));
}

}  // namespace

void check_messages(const Json& messages) {
  Problems problems;
  if (!messages.is_array()) {
    problems.add(fmt::format("messages: expected a list of objects, got {}", describe(messages)));
  } else {
    for (size_t i = 0; i < messages.size(); ++i)
      check_message(problems, fmt::format("messages[{}]", i), messages[i]);
  }
  if (problems.empty()) return;
  std::string text = problems.text("[messages]");
  // One problem stays on the line of its component.
  if (problems.count() == 1) text.replace(10, 3, " ");
  throw RequestError("{}", text);
}

std::shared_ptr<const ChatTemplate> ChatTemplate::from_source(
    std::string_view source, std::string_view name,
    std::vector<std::pair<std::string, std::string>> special_tokens) {
  std::shared_ptr<ChatTemplate> out(new ChatTemplate());
  out->default_ = JinjaTemplate::parse(source, name);
  out->special_tokens_ = std::move(special_tokens);
  return out;
}

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const std::filesystem::path& folder,
                                                       const std::filesystem::path& other) {
  std::shared_ptr<ChatTemplate> out(new ChatTemplate());
  const auto config_path = folder / "tokenizer_config.json";
  Json config = Json::object();
  if (std::filesystem::exists(config_path)) config = read_json_file(config_path);
  if (!config.is_object())
    throw ConfigError("[template] {}: expected an object, got {}", config_path.string(),
                      describe(config));
  for (std::string_view name : kTokenNames) {
    const auto entry = config.find(name);
    if (entry == config.end() || entry->is_null()) continue;
    const Json* text = &*entry;
    if (text->is_object() && text->contains("content")) text = &(*text)["content"];
    if (!text->is_string())
      throw ConfigError("[template] {}: {}: expected a string or an object with content, got {}",
                        config_path.string(), name, describe(*entry));
    out->special_tokens_.emplace_back(name, text->get<std::string>());
  }
  const auto file = other.empty() ? folder / "chat_template.jinja" : other;
  if (!other.empty() || std::filesystem::exists(file)) {
    out->default_ = JinjaTemplate::parse(read_text_file(file, kMaxTemplateBytes), file.string());
    return out;
  }
  const auto entry = config.find("chat_template");
  if (entry == config.end() || entry->is_null()) return nullptr;
  const std::string name = config_path.string() + " chat_template";
  if (entry->is_string()) {
    out->default_ = JinjaTemplate::parse(entry->get_ref<const std::string&>(), name);
    return out;
  }
  if (!entry->is_array())
    throw ConfigError("[template] {}: expected a string or a list, got {}", name, describe(*entry));
  for (const Json& item : *entry) {
    if (!item.is_object() || !item.contains("name") || !item["name"].is_string() ||
        !item.contains("template") || !item["template"].is_string())
      throw ConfigError("[template] {}: expected objects with name and template, got {}", name,
                        describe(item));
    const auto& which = item["name"].get_ref<const std::string&>();
    const auto& source = item["template"].get_ref<const std::string&>();
    if (which == "default") out->default_ = JinjaTemplate::parse(source, name + " default");
    if (which == "tool_use") out->tool_use_ = JinjaTemplate::parse(source, name + " tool_use");
  }
  if (!out->default_) {
    if (!out->tool_use_)
      throw ConfigError("[template] {}: expected a template called default, got none", name);
    out->default_ = out->tool_use_;
  }
  return out;
}

Json ChatTemplate::context(const ChatRequest& request) const {
  check_messages(request.messages);
  if (!request.tools.is_null()) {
    if (!request.tools.is_array())
      throw RequestError("[messages] tools: expected a list of objects, got {}",
                         describe(request.tools));
    for (size_t i = 0; i < request.tools.size(); ++i)
      if (!request.tools[i].is_object())
        throw RequestError("[messages] tools[{}]: expected an object, got {}", i,
                           describe(request.tools[i]));
  }
  Json out = Json::object();
  out["messages"] = request.messages;
  // transformers passes None for an absent list; an empty one counts as absent in every template.
  out["tools"] = request.tools;
  out["documents"] = nullptr;
  out["add_generation_prompt"] = request.add_generation_prompt;
  for (const auto& [name, text] : special_tokens_) out[name] = text;
  for (const auto& [name, value] : request.variables) {
    const bool is_token = std::any_of(special_tokens_.begin(), special_tokens_.end(),
                                      [&](const auto& token) { return token.first == name; });
    if (listed(kReserved, name) || listed(kTokenNames, name) || is_token)
      throw RequestError("[messages] variable {}: expected a free name, got a reserved one",
                         quote(name));
    out[name] = value;
  }
  return out;
}

std::vector<RenderedPart> ChatTemplate::render_parts(const ChatRequest& request,
                                                     const RenderOptions& options) const {
  RenderOptions marked = options;
  marked.marked = {"messages", "tools"};
  for (const auto& variable : request.variables) marked.marked.push_back(variable.first);
  const bool with_tools = request.tools.is_array() && !request.tools.empty();
  const auto& chosen = with_tools && tool_use_ ? tool_use_ : default_;
  return chosen->render_parts(context(request), marked);
}

std::string ChatTemplate::render(const ChatRequest& request, const RenderOptions& options) const {
  std::string out;
  for (const RenderedPart& part : render_parts(request, options)) out += part.text;
  return out;
}

}  // namespace decant
