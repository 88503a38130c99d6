#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chat/chat_template.h"
#include "decant/decant.h"
#include "engine/engine_thread.h"
#include "session/media_prompt.h"
#include "tokenizer/tokenizer.h"

namespace decant {

struct EngineLink;  // session.cpp

/// A model, its tokenizer and its chat template on a running engine: text in, text out. Owns stop
/// strings, streaming text and what ends an answer. Safe to use from several threads.
class Session final : public LanguageModel {
 public:
  struct Parts {
    std::unique_ptr<Backend> backend;
    std::shared_ptr<const Model> model;  // keeps its weights alive
    std::shared_ptr<const Tokenizer> tokenizer;
    std::shared_ptr<const ChatTemplate> chat_template;  // null: none
    std::filesystem::path folder;     // where processors' settings lie; empty: text only
    std::vector<int32_t> end_tokens;  // of the configs; the tokenizer's eos_token is added
    SamplingParams defaults;
  };
  /// Errors: those of load_model, Tokenizer, ChatTemplate, make_backend and Engine.
  static std::unique_ptr<Session> load(const std::filesystem::path& folder,
                                       const LoadOptions& options);
  Session(Parts parts, const LoadOptions& options);
  ~Session() override;

  /// The rendered conversation as tokens. Special tokens that come from messages stay plain text;
  /// the template alone decides about BOS. Errors: RequestError for messages the template refuses
  /// or when the model has no template.
  std::vector<int32_t> chat_tokens(const ChatRequest& request) const;
  Prompt chat_prompt(const ChatRequest& request) const;
  std::shared_ptr<Generation> chat(const ChatRequest& request, const GenerateOptions& options);

  std::shared_ptr<Generation> chat(const ChatInput& input, const GenerateOptions& options) override;
  std::shared_ptr<Generation> complete(std::string_view prompt,
                                       const GenerateOptions& options) override;
  std::shared_ptr<Generation> generate(std::vector<int32_t> tokens,
                                       const GenerateOptions& options) override;
  Prompt chat_prompt(const ChatInput& input) const override;
  std::shared_ptr<Generation> continue_prompt(Prompt prompt,
                                              const GenerateOptions& options) override;
  std::vector<std::string> media() const override;
  bool has_chat_template() const override { return parts_.chat_template != nullptr; }
  std::vector<int32_t> chat_tokens(const ChatInput& input) const override;
  /// As the model expects a text to begin: with BOS where its tokenizer adds one, never with two.
  std::vector<int32_t> tokenize(std::string_view text) const override;
  std::string detokenize(const std::vector<int32_t>& tokens) const override;
  std::string model_type() const override { return parts_.model->spec().model_type; }
  std::string device() const override { return parts_.backend->description(); }
  MemoryFigures memory() const override;
  EngineFigures figures() const override;

  const Tokenizer& tokenizer() const { return *parts_.tokenizer; }
  const std::shared_ptr<const ChatTemplate>& chat_template() const { return parts_.chat_template; }
  const SamplingParams& defaults() const { return parts_.defaults; }
  /// Tokens that end an answer, ascending.
  const std::vector<int32_t>& end_tokens() const { return parts_.end_tokens; }
  /// For tools that look inside (`decant logits`).
  EngineThread& engine() { return *engine_; }

 private:
  std::vector<RenderedPart> rendered(const ChatRequest& request) const;
  Parts parts_;
  std::unique_ptr<MediaPrompter> media_;  // null: the model takes text only
  std::vector<int32_t> kept_special_;     // special tokens that are text: the markers of reasoning
  // Generations may outlive the session: they reach the engine through this, which is then empty.
  std::shared_ptr<EngineLink> link_;
  std::unique_ptr<EngineThread> engine_;  // last: its thread ends before the rest goes
};

/// The request a chat template takes. Errors: RequestError for text that is not JSON.
ChatRequest to_chat_request(const ChatInput& input);

}  // namespace decant
