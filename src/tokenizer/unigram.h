#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "tokenizer/model.h"
#include "tokenizer/trie.h"

namespace decant::tokenizer {

/// A unigram language model: of all ways to write a text as tokens the one with the highest sum of
/// scores, found from the left (Viterbi); of equal sums the one found first. What no token covers
/// is unknown, neighbouring unknowns are one.
/// Source: Kudo 2018, "Subword Regularization"; sums are float64 in the official order.
class Unigram final : public Model {
 public:
  static std::unique_ptr<const Unigram> parse(const Node& node);
  void tokenize(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const override;
  const Vocab& vocab() const override { return vocab_; }

 private:
  Unigram() = default;
  void append(std::string_view token, std::vector<int32_t>& out) const;

  Vocab vocab_;
  std::vector<double> scores_;
  Trie trie_;
  std::optional<int32_t> unk_;
  double unk_score_ = 0;
  bool byte_fallback_ = false;
  std::array<int32_t, 256> bytes_{};  // id of <0xXX>, or -1
};

}  // namespace decant::tokenizer
