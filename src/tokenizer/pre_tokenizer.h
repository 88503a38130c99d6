#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/scratch.h"
#include "tokenizer/tokenizer_json.h"

namespace decant::tokenizer {

/// A normalized text cut into pieces, none of them empty; the model never sees across a cut.
struct PreText {
  std::string text;
  std::vector<Piece> pieces;
};

/// One step that cuts pieces further, or changes their text.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PreText& text, Scratch& scratch) const = 0;

  /// The pre-tokenizer a tokenizer.json describes. Errors: TokenizerError naming the entry, for any
  /// type or option we do not have.
  static std::unique_ptr<const PreTokenizer> parse(const Node& node);
};

}  // namespace decant::tokenizer
