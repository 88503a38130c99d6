#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/flat_map.h"

namespace decant::tokenizer {

/// Finds all of many strings that begin at a place.
class Trie {
 public:
  void add(std::string_view text, uint32_t value);
  /// Builds the lookup; call once after the last add.
  void build();
  bool empty() const { return words_.empty(); }
  bool may_start(unsigned char byte) const { return roots_[byte]; }
  /// Calls use(length, value) for every string that `text` starts with, shortest first; returns how
  /// many bytes it looked at.
  template <typename F>
  size_t each_prefix(std::string_view text, const F& use) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const PairMap::Value* child = children_.find(key(node, text[i]));
      if (child == nullptr) return i + 1;
      node = child->first;
      if (child->second != 0) use(i + 1, child->second - 1);
    }
    return text.size();
  }

 private:
  static uint64_t key(uint32_t node, char byte) {
    return static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
  }
  struct Word {
    std::string text;
    uint32_t value;
  };
  std::vector<Word> words_;
  PairMap children_;  // (node, byte) -> node, value + 1 of the word that ends there or 0
  std::array<bool, 256> roots_{};
};

/// Finds for every byte of a text which strings begin there, in time linear in the text however the
/// strings overlap: an Aho-Corasick automaton of the reversed strings that reads from the end.
class StartFinder {
 public:
  void add(std::string_view text, uint32_t value);
  /// Builds the automaton; call once after the last add.
  void build();
  /// The automaton's state at every byte of `text`, for each_start.
  void run(std::string_view text, std::vector<uint32_t>& states) const;
  /// Calls use(length, value) for the strings that begin where the state was noted, longest first,
  /// until it returns true.
  template <typename F>
  void each_start(uint32_t state, const F& use) const {
    if (nodes_[state].value == 0) state = nodes_[state].shorter;
    for (; state != 0; state = nodes_[state].shorter)
      if (use(nodes_[state].depth, nodes_[state].value - 1)) return;
  }

 private:
  struct Node {
    uint32_t depth = 0;
    uint32_t value = 0;  // + 1 of the string that ends here, or 0
    uint32_t fail = 0;
    uint32_t shorter = 0;  // the next string on the way of fail links, or 0
    uint32_t parent = 0;
    unsigned char byte = 0;
  };
  uint32_t step(uint32_t node, unsigned char byte) const;

  std::vector<std::pair<std::string, uint32_t>> words_;
  std::vector<Node> nodes_;  // [0] is the root
  PairMap children_;         // (node, byte) -> node
};

}  // namespace decant::tokenizer
