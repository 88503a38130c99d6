#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_json.h"

namespace decant::tokenizer {

/// Takes the text of tokens, a token possibly in several fragments.
class DecodeSink {
 public:
  virtual ~DecodeSink() = default;
  /// `fragment` is valid UTF-8; `ends` closes the current token.
  virtual void push(std::string_view fragment, bool ends) = 0;
  /// No token follows.
  virtual void finish() = 0;
};

/// One running decoder: what it has learned from the tokens so far. Whole and streaming decoding
/// are the same machine, so that their texts agree.
class DecodeStage : public DecodeSink {
 public:
  explicit DecodeStage(DecodeSink& next) : next_(next) {}
  void finish() override;

 protected:
  DecodeSink& next_;
};

/// The decoder a tokenizer.json describes: immutable, starts stages.
class Decoder {
 public:
  using Start = std::function<std::unique_ptr<DecodeStage>(DecodeSink& next)>;

  /// Errors: TokenizerError naming the entry, for any type or option we do not have.
  static Decoder parse(const Node& node);
  /// Tokens joined by spaces: what a file without a decoder means.
  static Decoder joined_by_spaces();

 private:
  friend class Decoding;
  void add(const Node& node);
  std::vector<Start> steps_;
};

/// One text on its way out: push token texts, take what has become final.
class Decoding {
 public:
  explicit Decoding(const Decoder& decoder);
  Decoding(const Decoding&) = delete;
  Decoding& operator=(const Decoding&) = delete;

  void push(std::string_view token) { first_->push(token, true); }
  void finish() { first_->finish(); }
  /// The final text since the last call.
  std::string take() { return std::exchange(out_.text, {}); }

 private:
  struct Output final : DecodeSink {
    void push(std::string_view fragment, bool) override { text += fragment; }
    void finish() override {}
    std::string text;
  };
  Output out_;
  std::vector<std::unique_ptr<DecodeStage>> stages_;  // last one first
  DecodeSink* first_;
};

}  // namespace decant::tokenizer
