#include "cli/conversation.h"

#include <utility>

#include "base/errors.h"

namespace decant::cli {

Json media_part(std::string_view type, std::string_view path) {
  return {{"type", type}, {"path", path}};
}

Json content_with(const Json& media, std::string_view text) {
  if (media.empty()) return text;
  Json content = media;
  content.push_back({{"type", "text"}, {"text", text}});
  return content;
}

Conversation::Conversation(std::string_view system) { set_system(system); }

Conversation Conversation::from_messages(Json messages) {
  Conversation out;
  out.messages_ = std::move(messages);
  return out;
}

bool Conversation::has_system() const {
  return !messages_.empty() && messages_.front()["role"] == "system";
}

size_t Conversation::size() const { return messages_.size() - (has_system() ? 1 : 0); }

std::string Conversation::system() const {
  if (!has_system()) return {};
  const Json& content = messages_.front()["content"];
  return content.is_string() ? content.get<std::string>() : content.dump();
}

void Conversation::set_system(std::string_view text) {
  if (has_system()) messages_.erase(0);
  if (!text.empty())
    messages_.insert(messages_.begin(), Json{{"role", "system"}, {"content", text}});
}

void Conversation::add_user(std::string_view text, const Json& media) {
  messages_.push_back({{"role", "user"}, {"content", content_with(media, text)}});
}

void Conversation::add_answer(std::string_view text, std::string_view reasoning) {
  Json message = {{"role", "assistant"}, {"content", text}};
  // Templates decide themselves which reasoning a model sees again.
  if (!reasoning.empty()) message["reasoning_content"] = reasoning;
  messages_.push_back(std::move(message));
}

void Conversation::clear() {
  const bool keep = has_system();
  while (messages_.size() > (keep ? 1u : 0u)) drop_last();
}

void Conversation::drop_last() {
  DECANT_ASSERT(!messages_.empty(), "there is a message to take back");
  messages_.erase(messages_.size() - 1);
}

std::optional<Json> Conversation::take_answer() {
  if (messages_.size() < 2 || messages_.back()["role"] != "assistant" ||
      messages_[messages_.size() - 2]["role"] == "system")
    return std::nullopt;
  std::optional<Json> out = messages_.back();
  drop_last();
  return out;
}

void Conversation::put_back(Json answer) { messages_.push_back(std::move(answer)); }

std::string Conversation::last_reasoning() const {
  for (size_t i = messages_.size(); i-- > 0;) {
    if (messages_[i]["role"] != "assistant") continue;
    const auto found = messages_[i].find("reasoning_content");
    if (found == messages_[i].end() || !found->is_string()) return {};
    return found->get<std::string>();
  }
  return {};
}

}  // namespace decant::cli
