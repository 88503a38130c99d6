#include "tokenizer/trie.h"

#include "base/checked.h"

namespace decant::tokenizer {

void Trie::add(std::string_view text, uint32_t value) {
  words_.push_back({std::string(text), value});
}

void Trie::build() {
  size_t bytes = 0;
  for (const Word& word : words_) bytes += word.text.size();
  children_.reset(bytes);
  uint32_t nodes = 1;
  for (const Word& word : words_) {
    roots_[static_cast<unsigned char>(word.text[0])] = true;
    uint32_t node = 0;
    for (size_t i = 0; i < word.text.size(); ++i) {
      const uint64_t place = key(node, word.text[i]);
      const PairMap::Value* found = children_.find(place);
      PairMap::Value child = found ? *found : PairMap::Value{nodes++, 0};
      if (i + 1 == word.text.size() && child.second == 0) child.second = word.value + 1;
      children_.put(place, child);
      node = child.first;
    }
  }
}

void StartFinder::add(std::string_view text, uint32_t value) {
  words_.emplace_back(std::string(text), value);
}

void StartFinder::build() {
  size_t bytes = 0;
  for (const auto& [text, value] : words_) bytes += text.size();
  children_.reset(bytes);
  nodes_.assign(1, {});
  for (const auto& [text, value] : words_) {
    uint32_t node = 0;
    for (size_t i = text.size(); i-- > 0;) {
      const auto byte = static_cast<unsigned char>(text[i]);
      const uint64_t place = static_cast<uint64_t>(node) << 8 | byte;
      if (const PairMap::Value* child = children_.find(place)) {
        node = child->first;
        continue;
      }
      const auto made = narrow<uint32_t>(nodes_.size());
      nodes_.push_back({nodes_[node].depth + 1, 0, 0, 0, node, byte});
      children_.put(place, {made, 0});
      node = made;
    }
    if (nodes_[node].value == 0) nodes_[node].value = value + 1;
  }
  words_.clear();
  // Fail links need those of all shallower nodes.
  std::vector<std::vector<uint32_t>> by_depth;
  for (uint32_t i = 1; i < nodes_.size(); ++i) {
    if (nodes_[i].depth > by_depth.size()) by_depth.resize(nodes_[i].depth);
    by_depth[nodes_[i].depth - 1].push_back(i);
  }
  for (const std::vector<uint32_t>& level : by_depth) {
    for (const uint32_t i : level) {
      Node& node = nodes_[i];
      if (node.parent != 0) node.fail = step(nodes_[node.parent].fail, node.byte);
      node.shorter = nodes_[node.fail].value != 0 ? node.fail : nodes_[node.fail].shorter;
    }
  }
}

uint32_t StartFinder::step(uint32_t node, unsigned char byte) const {
  while (true) {
    if (const PairMap::Value* child = children_.find(static_cast<uint64_t>(node) << 8 | byte))
      return child->first;
    if (node == 0) return 0;
    node = nodes_[node].fail;
  }
}

void StartFinder::run(std::string_view text, std::vector<uint32_t>& states) const {
  states.resize(text.size());
  uint32_t node = 0;
  for (size_t at = text.size(); at-- > 0;) {
    node = step(node, static_cast<unsigned char>(text[at]));
    states[at] = node;
  }
}

}  // namespace decant::tokenizer
