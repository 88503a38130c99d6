#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace decant::cli {

/// The content part of a file: `type` is "image", "audio" or "video".
Json media_part(std::string_view type, std::string_view path);
/// Content of a message: the text alone, or the parts and then the text.
Json content_with(const Json& media, std::string_view text);

/// The messages of a talk, as a chat template takes them: a system message first, if there is one.
class Conversation {
 public:
  explicit Conversation(std::string_view system = {});
  /// From a checked list.
  static Conversation from_messages(Json messages);

  const Json& messages() const { return messages_; }
  /// Messages but the system one.
  size_t size() const;
  /// The text of the system message; empty: none.
  std::string system() const;
  void set_system(std::string_view text);
  /// `media` are content parts that stand before the text.
  void add_user(std::string_view text, const Json& media = Json::array());
  void add_answer(std::string_view text, std::string_view reasoning);
  /// Forgets everything but the system message.
  void clear();
  /// Takes back the last message.
  void drop_last();
  /// Takes the last answer away, so that the message before it can be answered anew. Nothing where
  /// there is no such pair.
  std::optional<Json> take_answer();
  void put_back(Json answer);
  /// Reasoning of the last answer; empty: none.
  std::string last_reasoning() const;

 private:
  bool has_system() const;
  Json messages_ = Json::array();
};

}  // namespace decant::cli
