#include "tokenizer/tokenizer_json.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace decant::tokenizer {
namespace {

constexpr size_t kMaxDepth = 128;

std::string_view kind_name(const simdjson::dom::element& element) {
  switch (element.type()) {
    case simdjson::dom::element_type::ARRAY:
      return "an array";
    case simdjson::dom::element_type::OBJECT:
      return "an object";
    case simdjson::dom::element_type::STRING:
      return "a string";
    case simdjson::dom::element_type::BOOL:
      return "a boolean";
    case simdjson::dom::element_type::NULL_VALUE:
      return "null";
    default:
      return "a number";
  }
}

}  // namespace

TokenizerError Node::error(std::string_view message) const {
  return TokenizerError("[tokenizer] {}: {}: {}", *source_, path_.empty() ? "the file" : path_,
                        message);
}

Node Node::at(std::string_view key) const {
  simdjson::dom::element value;
  if (object().at_key(key).get(value)) throw error(fmt::format("expected a member \"{}\"", key));
  return {value, path_.empty() ? std::string(key) : path_ + "." + std::string(key), source_};
}

std::optional<Node> Node::find(std::string_view key) const {
  simdjson::dom::element value;
  if (object().at_key(key).get(value) || value.is_null()) return std::nullopt;
  return Node{value, path_.empty() ? std::string(key) : path_ + "." + std::string(key), source_};
}

void Node::expect_keys(std::initializer_list<std::string_view> keys) const {
  std::vector<std::string_view> seen;
  for (const auto field : object()) {
    if (std::find(keys.begin(), keys.end(), field.key) == keys.end())
      throw error(fmt::format("unsupported option {}", quote(field.key)));
    // At most keys.size() entries: a key not in the list has thrown, a second one throws here.
    if (std::find(seen.begin(), seen.end(), field.key) != seen.end())
      throw error(fmt::format("duplicate key {}", quote(field.key)));
    seen.push_back(field.key);
  }
}

std::string_view Node::string() const {
  std::string_view value;
  if (element_.get(value))
    throw error(fmt::format("expected a string, got {}", kind_name(element_)));
  return value;
}

bool Node::boolean() const {
  bool value = false;
  if (element_.get(value))
    throw error(fmt::format("expected a boolean, got {}", kind_name(element_)));
  return value;
}

int64_t Node::integer() const {
  int64_t value = 0;
  if (element_.get(value))
    throw error(fmt::format("expected an integer, got {}", kind_name(element_)));
  return value;
}

double Node::number() const {
  double value = 0;
  if (element_.get(value))
    throw error(fmt::format("expected a number, got {}", kind_name(element_)));
  return value;
}

simdjson::dom::object Node::object() const {
  simdjson::dom::object value;
  if (element_.get(value))
    throw error(fmt::format("expected an object, got {}", kind_name(element_)));
  return value;
}

simdjson::dom::array Node::array() const {
  simdjson::dom::array value;
  if (element_.get(value))
    throw error(fmt::format("expected an array, got {}", kind_name(element_)));
  return value;
}

std::vector<Node> Node::items() const {
  std::vector<Node> out;
  for (const auto element : array())
    out.emplace_back(element, fmt::format("{}[{}]", path_, out.size()), source_);
  return out;
}

std::pair<Node, Node> Node::pair() const {
  const simdjson::dom::array list = array();
  if (list.size() != 2)
    throw error(fmt::format("expected a list of two, got one of {}", list.size()));
  return {Node{list.at(0).value_unsafe(), path_ + "[0]", source_},
          Node{list.at(1).value_unsafe(), path_ + "[1]", source_}};
}

uint32_t Node::code_point() const {
  const std::string_view text = string();
  if (!text.empty()) {
    const CodePoint first = decode_code_point(text);
    if (first.length == text.size()) return first.value;
  }
  throw error(fmt::format("expected one character, got {}", quote(text)));
}

bool Node::boolean_or(std::string_view key, bool fallback) const {
  const auto value = find(key);
  return value ? value->boolean() : fallback;
}

std::string Node::string_or(std::string_view key, std::string_view fallback) const {
  const auto value = find(key);
  return std::string(value ? value->string() : fallback);
}

Document::Document(std::string_view text, std::string source) : source_(std::move(source)) {
  auto result = parser_.allocate(std::max<size_t>(text.size(), 32), kMaxDepth);
  simdjson::dom::element root;
  if (!result) {
    const simdjson::padded_string padded(text);
    result = parser_.parse(padded).get(root);
  }
  if (result)
    throw TokenizerError("[tokenizer] {}: expected JSON nested at most {} deep, got an error: {}",
                         source_, kMaxDepth, simdjson::error_message(result));
  root_.emplace(root, "", &source_);
  if (!root_->is_object()) throw root_->error("expected an object");
}

}  // namespace decant::tokenizer
