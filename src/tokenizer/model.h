#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/scratch.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocab.h"

namespace decant::tokenizer {

/// What turns a pre-token into ids.
class Model {
 public:
  virtual ~Model() = default;
  /// Appends the ids of one pre-token.
  virtual void tokenize(std::string_view piece, Scratch& scratch,
                        std::vector<int32_t>& out) const = 0;
  virtual const Vocab& vocab() const = 0;

  /// The model a tokenizer.json describes. Errors: TokenizerError naming the entries, for any type
  /// or option we do not have, and for entries that contradict each other.
  static std::unique_ptr<const Model> parse(const Node& node);
};

/// Reads an object {token: id} into a vocabulary. Errors: TokenizerError listing tokens or ids that
/// are given twice or out of range.
Vocab parse_vocab(const Node& node);

/// The largest id a vocabulary of `count` tokens may use: tables are indexed by id, so a single
/// huge id must not size them.
int64_t max_plausible_id(size_t count);

}  // namespace decant::tokenizer
