#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/scratch.h"
#include "tokenizer/tokenizer_json.h"

namespace decant::tokenizer {

/// Text on its way through the normalizers.
struct Text {
  std::string bytes;
  /// One mark per byte: 1 where the byte came from a plain part, in which no special token may be
  /// found. Empty when nobody asks; normalizers keep it as long as `bytes`.
  std::vector<uint8_t> plain;
  /// The first byte stands for the first one of the text before any normalizer.
  bool at_origin = true;
};

/// Builds the next form of a Text, marks included.
class Rewriter {
 public:
  explicit Rewriter(const Text& from) : from_(from), marked_(!from.plain.empty()) {
    out_.at_origin = false;
    out_.bytes.reserve(from.bytes.size() + 16);
  }
  /// Takes bytes [begin, end) over unchanged.
  void keep(size_t begin, size_t end);
  /// Puts `bytes` in the place of [begin, end): they are plain if any byte of the range was.
  void put(std::string_view bytes, size_t begin, size_t end);
  /// The same for what a pattern found: the official library lets the new bytes stand for the last
  /// code point of the range.
  void replace(std::string_view bytes, size_t begin, size_t end);
  Text take() { return std::move(out_); }

 private:
  const Text& from_;
  bool marked_;
  Text out_;
};

/// One step from the raw text to what the pre-tokenizer sees.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(Text& text, Scratch& scratch) const = 0;

  /// The normalizer a tokenizer.json describes. Errors: TokenizerError naming the entry, for any
  /// type or option we do not have.
  static std::unique_ptr<const Normalizer> parse(const Node& node);
};

}  // namespace decant::tokenizer
