#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/model.h"
#include "tokenizer/trie.h"

namespace decant::tokenizer {

/// Greedy longest match from the left (BERT): every part but the first is looked up with a prefix;
/// a word with a rest that matches nothing is unknown as a whole.
class WordPiece final : public Model {
 public:
  static std::unique_ptr<const WordPiece> parse(const Node& node);
  void tokenize(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const override;
  const Vocab& vocab() const override { return vocab_; }

 private:
  WordPiece() = default;
  Vocab vocab_;
  Trie first_;  // all tokens
  Trie inner_;  // those with the prefix, without it
  int32_t unk_ = 0;
  size_t max_characters_ = 100;
};

/// A pre-token is a token or unknown.
class WordLevel final : public Model {
 public:
  static std::unique_ptr<const WordLevel> parse(const Node& node);
  void tokenize(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const override;
  const Vocab& vocab() const override { return vocab_; }

 private:
  WordLevel() = default;
  Vocab vocab_;
  int32_t unk_ = 0;
};

/// Refuses tokens so long that looking for them at every place of a text would not be linear.
void check_token_length(const Node& node, std::string_view token);

}  // namespace decant::tokenizer
