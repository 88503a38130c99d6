#include "chat/jinja_expression_parser.h"

#include <charconv>

#include "chat/jinja_parser.h"

namespace decant::jinja {
namespace {

// Bounds the recursion of the parser, of the evaluator inside one expression and of the tree's
// destructor. Real templates stay below 60.
constexpr int kMaxDepth = 250;

}  // namespace

ExpressionParser::Nest::Nest(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.depth_ > kMaxDepth) parser_.too_deep();
}

Token ExpressionParser::next() {
  const Token token = now();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

void ExpressionParser::fail(std::string_view what, int line) const {
  throw TemplateError("[template] {}:{}: {}", name_, line > 0 ? line : now().line, what);
}

void ExpressionParser::too_deep() const {
  fail(fmt::format("nesting: expected at most {} levels, got more", kMaxDepth));
}

void ExpressionParser::unexpected(std::string_view expected) const {
  if (now().type == TokenType::kEnd)
    fail(fmt::format("unexpected end of template, expected '{}'.", expected));
  fail(fmt::format("expected token '{}', got '{}'", expected, describe_token(now())));
}

ExprPtr ExpressionParser::make(ExprType type, int line) {
  auto out = std::make_unique<Expr>();
  out->type = type;
  out->line = line;
  return out;
}

ExprPtr ExpressionParser::constant(Value value, int line) {
  ExprPtr out = make(ExprType::kConst, line);
  out->value = std::move(value);
  return out;
}

ExprPtr ExpressionParser::finish(ExprPtr node) const {
  int depth = 0;
  const auto see = [&](const ExprPtr& child) {
    if (child) depth = std::max(depth, child->depth);
  };
  for (const auto& child : node->items) see(child);
  for (const auto& child : node->args) see(child);
  for (const auto& child : node->kwargs) see(child.second);
  see(node->dyn_args);
  see(node->dyn_kwargs);
  node->depth = depth + 1;
  if (node->depth > kMaxDepth) too_deep();
  return node;
}

ExprPtr ExpressionParser::binary(Op op, int line, ExprPtr left, ExprPtr right) const {
  ExprPtr out = node(ExprType::kBinary, line, std::move(left), std::move(right));
  out->ops.push_back(op);
  return out;
}

ExprPtr ExpressionParser::assign_target(std::string_view end, bool with_namespace) {
  ExprPtr out = tuple(true, end, false, true, with_namespace);
  set_store(*out);
  return out;
}

void ExpressionParser::set_store(Expr& target) const {
  static constexpr std::string_view kReserved[] = {"true", "false", "none",
                                                   "True", "False", "None"};
  if (target.type == ExprType::kTuple) {
    for (const auto& item : target.items) set_store(*item);
  } else if (target.type == ExprType::kName) {
    if (std::find(std::begin(kReserved), std::end(kReserved), target.name) != std::end(kReserved))
      fail(fmt::format("can't assign to '{}'", target.name), target.line);
  } else if (target.type != ExprType::kNamespaceRef) {
    fail("can't assign to this expression", target.line);
  }
  target.store = true;
}

ExprPtr ExpressionParser::tuple(bool with_condition, std::string_view end, bool parentheses,
                                bool simple, bool with_namespace) {
  const Nest nest(*this);
  int line = now().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) expect_op(",");
    if (now().type == TokenType::kVariableEnd || now().type == TokenType::kBlockEnd ||
        now().is_op(")") || (!end.empty() && now().is_name(end)))
      break;
    items.push_back(simple ? primary(with_namespace) : expression(with_condition));
    if (!now().is_op(",")) break;
    is_tuple = true;
    line = now().line;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!parentheses) fail(fmt::format("Expected an expression, got '{}'", describe_token(now())));
  }
  ExprPtr out = make(ExprType::kTuple, line);
  out->items = std::move(items);
  return finish(std::move(out));
}

ExprPtr ExpressionParser::expression(bool with_condition) {
  const Nest nest(*this);
  return with_condition ? condition() : or_expr();
}

ExprPtr ExpressionParser::condition() {
  int line = now().line;
  ExprPtr out = or_expr();
  while (skip_name("if")) {
    ExprPtr test = or_expr();
    ExprPtr otherwise;
    if (skip_name("else")) {
      const Nest nest(*this);
      otherwise = condition();
    }
    out = node(ExprType::kCond, line, std::move(test), std::move(out), std::move(otherwise));
    line = now().line;
  }
  return out;
}

ExprPtr ExpressionParser::or_expr() {
  const int line = now().line;
  ExprPtr out = and_expr();
  while (skip_name("or")) out = node(ExprType::kOr, line, std::move(out), and_expr());
  return out;
}

ExprPtr ExpressionParser::and_expr() {
  const int line = now().line;
  ExprPtr out = not_expr();
  while (skip_name("and")) out = node(ExprType::kAnd, line, std::move(out), not_expr());
  return out;
}

ExprPtr ExpressionParser::not_expr() {
  if (!now().is_name("not")) return compare();
  const Nest nest(*this);
  const int line = next().line;
  return node(ExprType::kNot, line, not_expr());
}

ExprPtr ExpressionParser::compare() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {{"==", Op::kEq}, {"!=", Op::kNe},
                                                             {"<", Op::kLt},  {"<=", Op::kLe},
                                                             {">", Op::kGt},  {">=", Op::kGe}};
  ExprPtr out = make(ExprType::kCompare, now().line);
  out->items.push_back(sum());
  for (;;) {
    const auto* found = std::find_if(std::begin(kOps), std::end(kOps),
                                     [&](const auto& op) { return now().is_op(op.first); });
    if (found != std::end(kOps)) {
      next();
      out->ops.push_back(found->second);
    } else if (skip_name("in")) {
      out->ops.push_back(Op::kIn);
    } else if (now().is_name("not") && ahead().is_name("in")) {
      next();
      next();
      out->ops.push_back(Op::kNotIn);
    } else {
      break;
    }
    out->items.push_back(sum());
  }
  if (out->ops.empty()) return std::move(out->items[0]);
  return finish(std::move(out));
}

ExprPtr ExpressionParser::sum() {
  const int line = now().line;
  ExprPtr out = concat();
  while (now().is_op("+") || now().is_op("-")) {
    const Op op = next().text == "+" ? Op::kAdd : Op::kSub;
    out = binary(op, line, std::move(out), concat());
  }
  return out;
}

ExprPtr ExpressionParser::concat() {
  ExprPtr out = make(ExprType::kConcat, now().line);
  out->items.push_back(product());
  while (skip_op("~")) out->items.push_back(product());
  if (out->items.size() == 1) return std::move(out->items[0]);
  return finish(std::move(out));
}

ExprPtr ExpressionParser::product() {
  const int line = now().line;
  ExprPtr out = power();
  for (;;) {
    Op op;
    if (now().is_op("*"))
      op = Op::kMul;
    else if (now().is_op("/"))
      op = Op::kDiv;
    else if (now().is_op("//"))
      op = Op::kFloorDiv;
    else if (now().is_op("%"))
      op = Op::kMod;
    else
      return out;
    next();
    out = binary(op, line, std::move(out), power());
  }
}

ExprPtr ExpressionParser::power() {
  const int line = now().line;
  ExprPtr out = unary(true);
  while (skip_op("**")) out = binary(Op::kPow, line, std::move(out), unary(true));
  return out;
}

ExprPtr ExpressionParser::unary(bool with_filter) {
  const int line = now().line;
  ExprPtr out;
  if (now().is_op("-") || now().is_op("+")) {
    const Nest nest(*this);
    const auto type = next().text == "-" ? ExprType::kNegative : ExprType::kPositive;
    out = node(type, line, unary(false));
  } else {
    out = primary(false);
  }
  out = postfix(std::move(out));
  return with_filter ? filter_expr(std::move(out)) : std::move(out);
}

ExprPtr ExpressionParser::primary(bool with_namespace) {
  const Token token = now();
  switch (token.type) {
    case TokenType::kName: {
      next();
      if (token.text == "true" || token.text == "True")
        return constant(Value::boolean(true), token.line);
      if (token.text == "false" || token.text == "False")
        return constant(Value::boolean(false), token.line);
      if (token.text == "none" || token.text == "None") return constant(Value::none(), token.line);
      ExprPtr out = make(ExprType::kName, token.line);
      out->name = token.text;
      if (with_namespace && skip_op(".")) {
        out->type = ExprType::kNamespaceRef;
        out->value = make_constant(expect_any_name());
      }
      return out;
    }
    case TokenType::kString: {
      std::string text;
      while (now().type == TokenType::kString) text += next().text;
      return constant(make_constant(std::move(text)), token.line);
    }
    case TokenType::kInteger:
      next();
      return constant(integer(token.text), token.line);
    case TokenType::kFloat: {
      next();
      double number = 0;
      const char* end = token.text.data() + token.text.size();
      if (std::from_chars(token.text.data(), end, number).ec == std::errc::result_out_of_range)
        number = strtod(token.text.c_str(), nullptr);
      return constant(Value::number(number), token.line);
    }
    default:
      break;
  }
  if (skip_op("(")) {
    ExprPtr out = tuple(true, {}, true);
    expect_op(")");
    return out;
  }
  if (now().is_op("[")) return list(token.line);
  if (now().is_op("{")) return dict(token.line);
  fail(fmt::format("unexpected '{}'", describe_token(token)));
}

Value ExpressionParser::integer(const std::string& digits) {
  int64_t number = 0;
  const char* end = digits.data() + digits.size();
  if (std::from_chars(digits.data(), end, number).ec == std::errc()) return Value::integer(number);
  auto big = std::make_shared<BigInt>();
  big->digits = digits;
  return Value::object(Kind::kBigInt, std::move(big));
}

ExprPtr ExpressionParser::list(int line) {
  next();
  ExprPtr out = make(ExprType::kList, line);
  while (!now().is_op("]")) {
    if (!out->items.empty()) expect_op(",");
    if (now().is_op("]")) break;
    out->items.push_back(expression());
  }
  expect_op("]");
  return finish(std::move(out));
}

ExprPtr ExpressionParser::dict(int line) {
  next();
  ExprPtr out = make(ExprType::kDict, line);
  while (!now().is_op("}")) {
    if (!out->items.empty()) expect_op(",");
    if (now().is_op("}")) break;
    out->items.push_back(expression());
    expect_op(":");
    out->items.push_back(expression());
  }
  expect_op("}");
  return finish(std::move(out));
}

ExprPtr ExpressionParser::postfix(ExprPtr out) {
  for (;;) {
    if (now().is_op(".") || now().is_op("["))
      out = subscript(std::move(out));
    else if (now().is_op("("))
      out = call(std::move(out));
    else
      return out;
  }
}

ExprPtr ExpressionParser::filter_expr(ExprPtr out) {
  for (;;) {
    if (now().is_op("|"))
      out = filters(std::move(out), false);
    else if (now().is_name("is"))
      out = test(std::move(out));
    else if (now().is_op("("))
      out = call(std::move(out));
    else
      return out;
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr object) {
  const Token token = next();
  if (token.text == ".") {
    const Token attribute = next();
    if (attribute.type == TokenType::kName) {
      ExprPtr out = node(ExprType::kGetattr, token.line, std::move(object));
      out->name = attribute.text;
      out->value = make_constant(attribute.text);
      return out;
    }
    if (attribute.type != TokenType::kInteger) fail("expected name or number", attribute.line);
    return node(ExprType::kGetitem, token.line, std::move(object),
                constant(integer(attribute.text), attribute.line));
  }
  std::vector<ExprPtr> parts;
  while (!now().is_op("]")) {
    if (!parts.empty()) expect_op(",");
    parts.push_back(subscribed());
  }
  expect_op("]");
  ExprPtr key;
  if (parts.size() == 1) {
    key = std::move(parts[0]);
  } else {
    key = make(ExprType::kTuple, token.line);
    key->items = std::move(parts);
    key = finish(std::move(key));
  }
  return node(ExprType::kGetitem, token.line, std::move(object), std::move(key));
}

ExprPtr ExpressionParser::subscribed() {
  const int line = now().line;
  ExprPtr start, stop, step;
  if (!now().is_op(":")) {
    start = expression();
    if (!now().is_op(":")) return start;
  }
  next();
  const auto at_end = [&] { return now().is_op("]") || now().is_op(","); };
  if (!now().is_op(":") && !at_end()) stop = expression();
  if (skip_op(":") && !at_end()) step = expression();
  return node(ExprType::kSlice, line, std::move(start), std::move(stop), std::move(step));
}

ExpressionParser::ArgList ExpressionParser::call_args() {
  const int line = now().line;
  ArgList out;
  expect_op("(");
  bool comma = false;
  const auto ensure = [&](bool good) {
    if (!good) fail("invalid syntax for function call expression", line);
  };
  while (!now().is_op(")")) {
    if (comma) {
      expect_op(",");
      if (now().is_op(")")) break;
    }
    if (skip_op("*")) {
      ensure(!out.dyn_args && !out.dyn_kwargs);
      out.dyn_args = expression();
    } else if (skip_op("**")) {
      ensure(!out.dyn_kwargs);
      out.dyn_kwargs = expression();
    } else if (now().type == TokenType::kName && ahead().is_op("=")) {
      ensure(!out.dyn_kwargs);
      std::string key = next().text;
      next();
      for (const auto& other : out.kwargs)
        if (other.first == key) fail(fmt::format("keyword argument repeated: {}", key));
      ExprPtr value = expression();
      out.kwargs.emplace_back(std::move(key), std::move(value));
    } else {
      ensure(!out.dyn_args && !out.dyn_kwargs && out.kwargs.empty());
      out.args.push_back(expression());
    }
    comma = true;
  }
  expect_op(")");
  return out;
}

void ExpressionParser::put_args(Expr& out, ArgList args) {
  out.args = std::move(args.args);
  out.kwargs = std::move(args.kwargs);
  out.dyn_args = std::move(args.dyn_args);
  out.dyn_kwargs = std::move(args.dyn_kwargs);
}

ExprPtr ExpressionParser::call(ExprPtr callee) {
  ExprPtr out = make(ExprType::kCall, now().line);
  out->items.push_back(std::move(callee));
  put_args(*out, call_args());
  return finish(std::move(out));
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect_any_name();
  while (skip_op(".")) name += "." + expect_any_name();
  return name;
}

ExprPtr ExpressionParser::filters(ExprPtr input, bool inline_start) {
  while (inline_start || now().is_op("|")) {
    if (!inline_start) next();
    inline_start = false;
    ExprPtr out = make(ExprType::kFilter, now().line);
    out->name = dotted_name();
    out->function = find_filter(out->name);
    out->items.push_back(std::move(input));
    if (now().is_op("(")) put_args(*out, call_args());
    input = finish(std::move(out));
  }
  return input;
}

ExprPtr ExpressionParser::test(ExprPtr input) {
  const int line = next().line;
  const bool negated = skip_name("not");
  ExprPtr out = make(ExprType::kTest, line);
  out->name = dotted_name();
  out->function = find_test(out->name);
  out->items.push_back(std::move(input));
  if (now().is_op("(")) {
    put_args(*out, call_args());
  } else if (now().type == TokenType::kString || now().type == TokenType::kInteger ||
             now().type == TokenType::kFloat || now().is_op("[") || now().is_op("{") ||
             (now().type == TokenType::kName && !now().is_name("else") && !now().is_name("or") &&
              !now().is_name("and"))) {
    if (now().is_name("is")) fail("You cannot chain multiple tests with is");
    const Nest nest(*this);
    out->args.push_back(postfix(primary(false)));
  }
  out = finish(std::move(out));
  return negated ? node(ExprType::kNot, line, std::move(out)) : std::move(out);
}

}  // namespace decant::jinja
