#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/normalizer.h"
#include "tokenizer/trie.h"
#include "tokenizer/vocab.h"

namespace decant::tokenizer {

/// A token that is found in the text before the model sees it.
struct AddedToken {
  std::string content;
  /// Content as the normalizer leaves it (tokens with `normalized`), else equal to content: what is
  /// searched for and what decoding starts from.
  std::string pattern;
  int32_t id = 0;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
  /// Left out when special tokens are skipped.
  bool skipped = false;
};

/// A part of a text: an added token, or text for the model (id < 0).
struct Segment {
  size_t begin;
  size_t end;
  int32_t id;
};

/// All added tokens of a tokenizer.
class AddedTokens {
 public:
  /// Reads "added_tokens" and checks it against the vocabulary. Errors: TokenizerError listing the
  /// entries that contradict it or each other.
  void parse(const Node& node, const Vocab& vocab, const Normalizer* normalizer, Scratch& scratch);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  /// Null when the id is no added token.
  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  int32_t max_id() const { return max_id_; }
  /// True if plain parts have to be marked through normalization.
  bool has_normalized_special() const { return normalized_special_; }

  /// Cuts `text` at the tokens that are searched for in the raw (or the normalized) text.
  /// parse_special = false: special tokens are left in the text. `plain`: marks of bytes that
  /// special tokens must not touch, or empty.
  void split(std::string_view text, bool normalized, bool parse_special,
             std::span<const uint8_t> plain, std::vector<Segment>& out) const;

 private:
  std::vector<AddedToken> tokens_;
  std::vector<uint32_t> by_id_;  // token + 1
  Vocab contents_;               // content -> index
  Trie raw_;
  Trie normalized_;
  StartFinder raw_starts_;
  StartFinder normalized_starts_;
  int32_t max_id_ = -1;
  bool normalized_special_ = false;
};

}  // namespace decant::tokenizer
