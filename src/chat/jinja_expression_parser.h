#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/jinja_ast.h"
#include "chat/jinja_lexer.h"

namespace decant::jinja {

/// The tokens of a template and the grammar of expressions; Parser adds the statements.
class ExpressionParser {
 protected:
  ExpressionParser(std::string_view source, std::string_view name)
      : name_(name), tokens_(tokenize(source, name)) {}

  /// One level of recursion, for as long as this object lives.
  class Nest {
   public:
    explicit Nest(ExpressionParser& parser);
    ~Nest() { --parser_.depth_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // --- tokens

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token next();
  [[noreturn]] void fail(std::string_view what, int line = 0) const;
  [[noreturn]] void too_deep() const;
  [[noreturn]] void unexpected(std::string_view expected) const;
  bool skip_op(std::string_view op) {
    if (!now().is_op(op)) return false;
    next();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!now().is_name(name)) return false;
    next();
    return true;
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) unexpected(op);
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) unexpected(name);
  }
  std::string expect_any_name() {
    if (now().type != TokenType::kName) unexpected("name");
    return next().text;
  }
  void expect_type(TokenType type) {
    if (now().type != type) unexpected(describe_token({type, 0, ""}));
    next();
  }

  // --- nodes

  static ExprPtr make(ExprType type, int line);
  static ExprPtr constant(Value value, int line);

  // --- expressions

  /// What a statement assigns to; `end` is the name that may follow a trailing comma.
  ExprPtr assign_target(std::string_view end, bool with_namespace);
  /// An expression, or several with commas between them.
  ExprPtr tuple(bool with_condition = true, std::string_view end = {}, bool parentheses = false,
                bool simple = false, bool with_namespace = false);
  ExprPtr expression(bool with_condition = true);
  /// `|name(args)|...` on the input. With `inline_start` the first `|` is left out.
  ExprPtr filters(ExprPtr input, bool inline_start);

  std::string name_;
  size_t at_ = 0;

 private:
  struct ArgList {
    std::vector<ExprPtr> args;
    std::vector<std::pair<std::string, ExprPtr>> kwargs;
    ExprPtr dyn_args, dyn_kwargs;
  };

  /// Closes a node whose children are complete: sets its depth. Errors: too deep.
  ExprPtr finish(ExprPtr node) const;
  template <typename... Items>
  ExprPtr node(ExprType type, int line, Items... items) const {
    ExprPtr out = make(type, line);
    (out->items.push_back(std::move(items)), ...);
    return finish(std::move(out));
  }
  ExprPtr binary(Op op, int line, ExprPtr left, ExprPtr right) const;

  void set_store(Expr& target) const;
  ExprPtr condition();
  ExprPtr or_expr();
  ExprPtr and_expr();
  ExprPtr not_expr();
  ExprPtr compare();
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filter);
  ExprPtr primary(bool with_namespace);
  static Value integer(const std::string& digits);
  ExprPtr list(int line);
  ExprPtr dict(int line);
  ExprPtr postfix(ExprPtr out);
  ExprPtr filter_expr(ExprPtr out);
  ExprPtr subscript(ExprPtr object);
  ExprPtr subscribed();
  ArgList call_args();
  static void put_args(Expr& out, ArgList args);
  ExprPtr call(ExprPtr callee);
  std::string dotted_name();
  ExprPtr test(ExprPtr input);

  std::vector<Token> tokens_;
  int depth_ = 0;
};

}  // namespace decant::jinja
