#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace decant {

/// The parts of a tokenizer, in the order a text meets them.
struct Tokenizer::Impl {
  tokenizer::AddedTokens added;
  std::unique_ptr<const tokenizer::Normalizer> normalizer;
  std::unique_ptr<const tokenizer::PreTokenizer> pre_tokenizer;
  std::unique_ptr<const tokenizer::Model> model;
  std::optional<tokenizer::PostProcessor> post_processor;
  tokenizer::Decoder decoder;
  std::map<std::string, std::string, std::less<>> special_tokens;
  std::map<std::string, bool, std::less<>> config_flags;

  void parse_config(std::string_view config_json, const std::string& source);

  /// `plain` has one mark per byte of `text`, or is empty.
  std::vector<int32_t> encode(std::string_view text, std::vector<uint8_t> plain,
                              const EncodeOptions& options) const;
  void encode_text(std::string_view text, std::span<const uint8_t> plain, bool at_start,
                   bool parse_special, tokenizer::Scratch& scratch,
                   std::vector<int32_t>& out) const;
  /// Hands the text of an id to a decoding, unless it has none or is skipped.
  void push(tokenizer::Decoding& decoding, int32_t id, bool skip_special) const;

  /// Working memory of one call; goes back to the tokenizer for the next one.
  class Borrowed {
   public:
    explicit Borrowed(const Impl& owner);
    ~Borrowed();
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    tokenizer::Scratch& operator*() { return *scratch_; }

   private:
    const Impl& owner_;
    std::unique_ptr<tokenizer::Scratch> scratch_;
  };

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<tokenizer::Scratch>> idle_;
};

}  // namespace decant
