#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"

namespace decant::jinja {

enum class TokenType : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,  // text: decimal digits
  kFloat,
  kOperator,  // text: the operator
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  int line = 0;
  std::string text;

  bool is_op(std::string_view op) const { return type == TokenType::kOperator && text == op; }
  bool is_name(std::string_view name) const { return type == TokenType::kName && text == name; }
};

/// A token for messages: names and operators as written, the rest described.
std::string describe_token(const Token& token);

/// Tokens of a template under trim_blocks and lstrip_blocks; the last is kEnd. `name` is for
/// messages. Errors: TemplateError.
std::vector<Token> tokenize(std::string_view source, std::string_view name);

}  // namespace decant::jinja
