#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/model.h"

namespace decant::tokenizer {

/// Byte pair encoding: the symbols of a word are merged pair by pair, the pair of lowest rank
/// first, of equal ranks the leftmost.
class Bpe final : public Model {
 public:
  static std::unique_ptr<const Bpe> parse(const Node& node);

  void tokenize(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const override;
  const Vocab& vocab() const override { return vocab_; }

 private:
  Bpe() = default;
  void parse_merges(const Node& node);
  void find_uncuttable_pairs(const std::vector<int32_t>& merged);
  void index_characters();
  void index_bytes();

  std::optional<int32_t> character(std::string_view text, uint32_t code_point) const;
  void make_symbols(std::string_view piece, std::vector<Symbol>& symbols) const;
  void merge(std::vector<Symbol>& symbols, size_t begin, size_t end, Scratch& scratch,
             std::vector<int32_t>& out) const;
  void merge_short(Scratch& scratch, std::vector<int32_t>& out) const;
  void merge_long(Scratch& scratch, std::vector<int32_t>& out) const;
  bool may_join(int32_t left, int32_t right) const;
  uint32_t rank(int32_t left, int32_t right) const;

  Vocab vocab_;
  PairMap merges_;                    // (left id, right id) -> rank, merged id
  std::array<int32_t, 0x400> low_{};  // id of a code point below U+0400, or -1
  std::array<int32_t, 256> bytes_{};  // id of <0xXX>, or -1
  std::optional<int32_t> unk_;
  std::string prefix_;
  std::string suffix_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool may_cut_ = false;
  std::vector<uint64_t> joined_;  // bloom filter of neighbours inside a merged token
};

}  // namespace decant::tokenizer
