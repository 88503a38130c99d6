#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace decant {

struct EncodeOptions {
  /// Add what the post-processor adds around a text (BOS and the like).
  bool add_special_tokens = true;
  /// Recognise special tokens in the text; if false they are text like any other.
  bool parse_special = true;
};

/// A Hugging Face tokenizer: text to ids and back, as the official library does it, but for two
/// things: "truncation" and "padding" of the file are ignored (an engine must not cut a prompt
/// silently), and text that is not UTF-8 is refused.
/// Immutable and safe to share between threads.
class Tokenizer {
 public:
  /// Reads tokenizer.json and, if present, tokenizer_config.json. Errors: TokenizerError or
  /// ConfigError naming the file and the entry.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& folder);
  /// The same from text; `source` stands for the folder in messages, `config_json` may be empty.
  static std::shared_ptr<const Tokenizer> from_json(std::string_view tokenizer_json,
                                                    std::string_view config_json,
                                                    std::string_view source);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Errors: RequestError naming the byte offset where `text` is not UTF-8, or a pattern that gave
  /// up on it.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// A part of a text. Parts with plain = true (they came from a message) never produce special
  /// added tokens, nor does a text that runs over their borders.
  struct Part {
    std::string_view text;
    bool plain;
  };
  /// Encodes the parts as one text; equals encode() of their concatenation when no special token
  /// touches a plain part.
  std::vector<int32_t> encode_parts(std::span<const Part> parts,
                                    const EncodeOptions& options = {}) const;

  /// Ids without a token decode as empty, ill-formed bytes as U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  /// 1 + the highest id.
  int32_t vocab_size() const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  /// The token as the vocabulary writes it; empty when the id has none.
  std::string_view id_to_token(int32_t id) const;
  bool is_special(int32_t id) const;

  /// Text of a token that tokenizer_config.json names: "bos_token", "eos_token", ...
  std::optional<std::string> special_token(std::string_view name) const;
  /// A boolean of tokenizer_config.json: "add_bos_token", ...
  std::optional<bool> config_flag(std::string_view name) const;

 private:
  friend class StreamDecoder;
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace decant
