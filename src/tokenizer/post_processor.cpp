#include "tokenizer/post_processor.h"

#include <algorithm>

#include "base/checked.h"

namespace decant::tokenizer {
namespace {

constexpr size_t kMaxItems = 64;

int32_t parse_id(const Node& node) {
  const auto id = checked_cast<int32_t>(node.integer());
  if (!id || *id < 0) throw node.error(fmt::format("expected a token id, got {}", node.integer()));
  return *id;
}

}  // namespace

PostProcessor PostProcessor::parse(const Node& node) {
  PostProcessor out;
  out.add(node);
  return out;
}

void PostProcessor::add(const Node& node) {
  const std::string_view type = node.type();
  if (type == "TemplateProcessing") {
    add_template(node);
  } else if (type == "ByteLevel") {
    // It moves offsets only, and we have none.
    node.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else if (type == "BertProcessing") {
    node.expect_keys({"type", "sep", "cls"});
    add_pair(node);
  } else if (type == "RobertaProcessing") {
    node.expect_keys({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    add_pair(node);
  } else if (type == "Sequence") {
    node.expect_keys({"type", "processors"});
    for (const Node& step : node.at("processors").items()) add(step);
  } else {
    throw node.error(fmt::format("unsupported post-processor {}", quote(type)));
  }
}

void PostProcessor::add_template(const Node& node) {
  node.expect_keys({"type", "single", "pair", "special_tokens"});
  Template items;
  bool has_text = false;
  for (const Node& piece : node.at("single").items()) {
    piece.expect_keys({"SpecialToken", "Sequence"});
    if (const auto sequence = piece.find("Sequence")) {
      sequence->expect_keys({"id", "type_id"});
      if (sequence->at("id").string() != "A")
        throw sequence->error("expected sequence A in the template of a single text");
      if (has_text) throw sequence->error("the text appears twice in the template");
      has_text = true;
      items.push_back({true, {}});
    } else {
      const Node special = piece.at("SpecialToken");
      special.expect_keys({"id", "type_id"});
      const std::string_view name = special.at("id").string();
      Item item{false, {}};
      for (const Node& id : node.at("special_tokens").at(name).at("ids").items())
        item.ids.push_back(parse_id(id));
      if (item.ids.size() > kMaxItems) throw special.error("expected at most 64 ids");
      items.push_back(std::move(item));
    }
    if (items.size() > kMaxItems) throw piece.error("expected at most 64 items");
  }
  set(node, std::move(items));
}

void PostProcessor::add_pair(const Node& node) {
  const auto id_of = [&](std::string_view key) {
    const std::vector<Node> pair = node.at(key).items();
    if (pair.size() != 2) throw node.at(key).error("expected a pair of token and id");
    return parse_id(pair[1]);
  };
  set(node, {{false, {id_of("cls")}}, {true, {}}, {false, {id_of("sep")}}});
}

void PostProcessor::set(const Node& node, Template items) {
  // The official library takes what the first one made for a pair of texts.
  if (template_)
    throw node.error("unsupported second post-processor that adds tokens in a Sequence");
  template_ = std::move(items);
}

void PostProcessor::apply(std::vector<int32_t>& ids) const {
  if (!template_) return;
  std::vector<int32_t> out;
  for (const Item& item : *template_) {
    const std::vector<int32_t>& from = item.is_text ? ids : item.ids;
    out.insert(out.end(), from.begin(), from.end());
  }
  ids.swap(out);
}

}  // namespace decant::tokenizer
