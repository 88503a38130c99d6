#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "graph/batch.h"

namespace decant {

/// What penalties need to know of a request: each distinct token once, with its counts, in the
/// order of first appearance. A token costs one look-up, whatever the vocabulary.
class TokenHistory {
 public:
  void add_prompt(std::span<const int32_t> tokens);
  void add_generated(int32_t token);
  /// Valid until the next token is added.
  std::span<const TokenCount> counts() const { return counts_; }

 private:
  TokenCount& entry(int32_t token);
  std::vector<TokenCount> counts_;
  std::unordered_map<int32_t, size_t> index_;
};

}  // namespace decant
