#pragma once

#include <simdjson.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/errors.h"

namespace decant::tokenizer {

/// One value of a parsed tokenizer.json together with where it stands, so that every error names
/// the file and the entry. Views stay valid while the Document lives.
class Node {
 public:
  Node(simdjson::dom::element element, std::string path, const std::string* source)
      : element_(element), path_(std::move(path)), source_(source) {}

  /// Error `[tokenizer] SOURCE: PATH: MESSAGE`.
  TokenizerError error(std::string_view message) const;

  bool is_null() const { return element_.is_null(); }
  bool is_object() const { return element_.is_object(); }
  bool is_array() const { return element_.is_array(); }
  bool is_string() const { return element_.is_string(); }

  /// Member of an object; error if it is missing.
  Node at(std::string_view key) const;
  /// Member of an object, or nothing if it is missing or null.
  std::optional<Node> find(std::string_view key) const;
  /// Refuses duplicate keys and any key that is not listed: an option we do not know may change the
  /// tokens.
  void expect_keys(std::initializer_list<std::string_view> keys) const;

  std::string_view string() const;
  bool boolean() const;
  int64_t integer() const;
  double number() const;
  std::vector<Node> items() const;
  /// The two items of a list of two.
  std::pair<Node, Node> pair() const;
  simdjson::dom::object object() const;
  simdjson::dom::array array() const;

  /// The single code point of a string value.
  uint32_t code_point() const;
  bool boolean_or(std::string_view key, bool fallback) const;
  /// The string at `key`, empty when missing or null.
  std::string string_or(std::string_view key, std::string_view fallback) const;
  /// The value of "type"; error if there is none.
  std::string_view type() const { return at("type").string(); }

  const std::string& path() const { return path_; }
  const std::string& source() const { return *source_; }

 private:
  simdjson::dom::element element_;
  std::string path_;
  const std::string* source_;
};

/// A parsed tokenizer.json. Nesting is limited to 128.
class Document {
 public:
  /// Errors: TokenizerError naming `source` when `text` is not JSON.
  Document(std::string_view text, std::string source);
  Document(const Document&) = delete;
  Document& operator=(const Document&) = delete;
  const Node& root() const { return *root_; }

 private:
  std::string source_;
  simdjson::dom::parser parser_;
  std::optional<Node> root_;
};

}  // namespace decant::tokenizer
