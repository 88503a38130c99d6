#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tokenizer/tokenizer_json.h"

namespace decant::tokenizer {

/// What a tokenizer adds around the ids of a text.
class PostProcessor {
 public:
  /// Reads "post_processor" . Errors: TokenizerError naming the entry.
  static PostProcessor parse(const Node& node);

  /// Adds the special tokens around (and wherever the template puts them).
  void apply(std::vector<int32_t>& ids) const;

 private:
  // One place of a template: ids to insert, or the text's own ids.
  struct Item {
    bool is_text;
    std::vector<int32_t> ids;
  };
  using Template = std::vector<Item>;
  void add(const Node& node);
  void add_template(const Node& node);
  void add_pair(const Node& node);

  void set(const Node& node, Template items);

  std::optional<Template> template_;  // none: nothing is added
};

}  // namespace decant::tokenizer
