#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "chat/jinja.h"

namespace decant {

/// What a chat template is rendered for.
struct ChatRequest {
  Json messages;  // array of objects
  Json tools;     // null or an array of objects
  bool add_generation_prompt = true;
  /// Further variables of the template (enable_thinking, documents, ...). They may not be called
  /// like the fields above or like a special token.
  std::vector<std::pair<std::string, Json>> variables;
  /// For whoever turns the text into tokens: special tokens spelled in messages, tools and
  /// variables count as such. The template does not see it.
  bool parse_special = false;
};

/// The chat template of a checkpoint and the special tokens it may print.
class ChatTemplate {
 public:
  /// chat_template.jinja of the folder, else chat_template of tokenizer_config.json: a string, or a
  /// list of {name, template} of which "default" is used and "tool_use" when a request has tools.
  /// Null when the checkpoint has none. Errors: TemplateError, ConfigError.
  /// A `file`, if not empty, is read instead; the special tokens stay those of the folder.
  static std::shared_ptr<const ChatTemplate> load(const std::filesystem::path& folder,
                                                  const std::filesystem::path& file = {});
  /// The same from texts: `source` as chat_template, special tokens as variables. Errors:
  /// TemplateError.
  static std::shared_ptr<const ChatTemplate> from_source(
      std::string_view source, std::string_view name,
      std::vector<std::pair<std::string, std::string>> special_tokens = {});

  /// Errors: RequestError for messages of a wrong shape, TemplateRenderError.
  std::string render(const ChatRequest& request, const RenderOptions& options = {}) const;
  /// The same with the origin of every piece: text that came from messages, tools and variables is
  /// marked. options.marked is set by the call.
  std::vector<RenderedPart> render_parts(const ChatRequest& request,
                                         const RenderOptions& options = {}) const;

  /// Name and text of bos_token, eos_token and so on.
  const std::vector<std::pair<std::string, std::string>>& special_tokens() const {
    return special_tokens_;
  }

 private:
  ChatTemplate() = default;
  Json context(const ChatRequest& request) const;
  std::shared_ptr<const JinjaTemplate> default_;
  std::shared_ptr<const JinjaTemplate> tool_use_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;
};

/// Checks the shape of messages: objects with a known role and content that is a string, null or a
/// list of parts. All problems are reported together. Errors: RequestError
/// `[messages] messages[3].content: expected ..., got ...`.
void check_messages(const Json& messages);

}  // namespace decant
