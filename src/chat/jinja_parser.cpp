#include "chat/jinja_parser.h"

#include <algorithm>
#include <initializer_list>
#include <span>

#include "chat/jinja_expression_parser.h"

namespace decant::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  Parser(std::string_view source, std::string_view name) : ExpressionParser(source, name) {}

  std::unique_ptr<Template> run() {
    auto out = std::make_unique<Template>();
    out->name = name_;
    out->body = statements({});
    return out;
  }

 private:
  StmtPtr stmt(StmtType type, int line) const {
    auto out = std::make_unique<Stmt>();
    out->type = type;
    out->line = line;
    return out;
  }

  Body statements(std::span<const std::string_view> ends) {
    const Nest nest(*this);
    Body body;
    StmtPtr output;
    const auto add_output = [&](ExprPtr expr) {
      if (!output) output = stmt(StmtType::kOutput, expr->line);
      output->exprs.push_back(std::move(expr));
    };
    const auto flush = [&] {
      if (output) body.push_back(std::move(output));
    };
    while (now().type != TokenType::kEnd) {
      if (now().type == TokenType::kData) {
        const Token token = next();
        add_output(constant(make_constant(token.text), token.line));
      } else if (now().type == TokenType::kVariableBegin) {
        next();
        add_output(tuple());
        expect_type(TokenType::kVariableEnd);
      } else {
        expect_type(TokenType::kBlockBegin);
        flush();
        if (now().type != TokenType::kName) fail("tag name expected");
        if (std::find(ends.begin(), ends.end(), now().text) != ends.end()) return body;
        statement(body, ends);
        expect_type(TokenType::kBlockEnd);
      }
    }
    flush();
    if (!ends.empty()) {
      std::string wanted;
      for (std::string_view end : ends)
        wanted += fmt::format("{}'{}'", wanted.empty() ? "" : " or ", end);
      fail(fmt::format("Unexpected end of template. Jinja was looking for the following tags: {}.",
                       wanted));
    }
    return body;
  }

  Body block(std::initializer_list<std::string_view> ends) {
    skip_op(":");
    expect_type(TokenType::kBlockEnd);
    return statements(std::span(ends.begin(), ends.size()));
  }
  /// A body that ends with the one tag, which is taken too.
  Body block_to(std::string_view end) {
    Body out = block({end});
    next();
    return out;
  }

  void statement(Body& body, std::span<const std::string_view> ends) {
    const int line = now().line;
    const std::string tag = next().text;
    if (tag == "if")
      body.push_back(if_statement(line));
    else if (tag == "for")
      body.push_back(for_statement(line));
    else if (tag == "set")
      body.push_back(set_statement(line));
    else if (tag == "macro")
      body.push_back(macro_statement(line));
    else if (tag == "call")
      body.push_back(call_statement(line));
    else if (tag == "with")
      body.push_back(with_statement(line));
    else if (tag == "print")
      body.push_back(print_statement(line));
    else if (tag == "filter") {
      StmtPtr out = stmt(StmtType::kFilterBlock, line);
      out->exprs.push_back(filters(nullptr, true));
      out->bodies.push_back(function_body("endfilter", false));
      body.push_back(std::move(out));
    } else if (tag == "generation") {
      StmtPtr out = stmt(StmtType::kGeneration, line);
      out->bodies.push_back(function_body("endgeneration", true));
      body.push_back(std::move(out));
    } else if (tag == "autoescape") {
      const ExprPtr on = expression();
      if (on->type != ExprType::kConst || on->value.kind() != Kind::kBool || on->value.as_bool())
        fail("autoescape: expected false (chat templates are plain text)", line);
      StmtPtr out = stmt(StmtType::kScope, line);
      out->bodies.push_back(block_to("endautoescape"));
      body.push_back(std::move(out));
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail(fmt::format("'{}' outside loop", tag), line);
      body.push_back(stmt(tag == "break" ? StmtType::kBreak : StmtType::kContinue, line));
    } else if (tag == "block" || tag == "extends" || tag == "include" || tag == "import" ||
               tag == "from") {
      fail(fmt::format("tag '{}' needs other templates, which a chat template does not have", tag),
           line);
    } else {
      std::string wanted;
      for (std::string_view end : ends)
        wanted += fmt::format("{}'{}'", wanted.empty() ? "" : " or ", end);
      fail(wanted.empty() ? fmt::format("Encountered unknown tag '{}'.", tag)
                          : fmt::format("Encountered unknown tag '{}'. Jinja was looking for the "
                                        "following tags: {}.",
                                        tag, wanted),
           line);
    }
  }

  /// A body that jinja2 compiles to a function of its own: loops outside cannot be left from it.
  Body function_body(std::string_view end, bool own_function) {
    const int outer = loops_;
    if (own_function) loops_ = 0;
    Body out = block_to(end);
    loops_ = outer;
    return out;
  }

  StmtPtr if_statement(int line) {
    StmtPtr out = stmt(StmtType::kIf, line);
    for (;;) {
      out->exprs.push_back(tuple(false));
      out->bodies.push_back(block({"elif", "else", "endif"}));
      const Token token = next();
      if (token.text == "elif") continue;
      if (token.text == "else") out->bodies.push_back(block_to("endif"));
      return out;
    }
  }

  StmtPtr for_statement(int line) {
    StmtPtr out = stmt(StmtType::kFor, line);
    const size_t start = at_;
    ExprPtr target = assign_target("in", false);
    check_loop_name(*target);
    expect_name("in");
    ExprPtr iterable = tuple(false, "recursive");
    ExprPtr test;
    if (skip_name("if")) {
      test = expression();
      const size_t here = at_;
      at_ = start;
      out->test_target = assign_target("in", false);
      at_ = here;
    }
    out->recursive = skip_name("recursive");
    out->exprs.push_back(std::move(target));
    out->exprs.push_back(std::move(iterable));
    out->exprs.push_back(std::move(test));
    const int outer = loops_;
    loops_ = out->recursive ? 1 : outer + 1;
    ++fors_;
    out->bodies.push_back(block({"endfor", "else"}));
    loops_ = out->recursive ? 0 : outer;
    if (next().text == "else") out->bodies.push_back(block_to("endfor"));
    --fors_;
    loops_ = outer;
    return out;
  }

  void check_loop_name(const Expr& target) const {
    if (target.name == "loop" && target.type == ExprType::kName)
      fail("Can't assign to special loop variable in for-loop target", target.line);
    for (const auto& item : target.items) check_loop_name(*item);
  }

  StmtPtr set_statement(int line) {
    ExprPtr target = assign_target("", true);
    if (fors_ > 0) check_loop_name(*target);
    if (skip_op("=")) {
      StmtPtr out = stmt(StmtType::kSet, line);
      out->exprs.push_back(std::move(target));
      out->exprs.push_back(tuple());
      return out;
    }
    StmtPtr out = stmt(StmtType::kSetBlock, line);
    out->exprs.push_back(std::move(target));
    out->exprs.push_back(filters(nullptr, false));
    out->bodies.push_back(block_to("endset"));
    return out;
  }

  StmtPtr with_statement(int line) {
    StmtPtr out = stmt(StmtType::kWith, line);
    while (now().type != TokenType::kBlockEnd) {
      if (!out->exprs.empty()) expect_op(",");
      out->exprs.push_back(assign_target("", false));
      expect_op("=");
      out->exprs.push_back(expression());
    }
    out->bodies.push_back(block_to("endwith"));
    return out;
  }

  StmtPtr print_statement(int line) {
    StmtPtr out = stmt(StmtType::kOutput, line);
    while (now().type != TokenType::kBlockEnd) {
      if (!out->exprs.empty()) expect_op(",");
      out->exprs.push_back(expression());
    }
    return out;
  }

  void signature(Stmt& out) {
    expect_op("(");
    while (!now().is_op(")")) {
      if (!out.params.empty()) expect_op(",");
      ExprPtr param = make(ExprType::kName, now().line);
      param->name = expect_any_name();
      param->store = true;
      for (const auto& other : out.params)
        if (other->name == param->name)
          fail(fmt::format("duplicate argument '{}' in function definition", param->name));
      if (skip_op("="))
        out.defaults.push_back(expression());
      else if (!out.defaults.empty())
        fail("non-default argument follows default argument");
      out.params.push_back(std::move(param));
    }
    expect_op(")");
  }

  StmtPtr macro_statement(int line) {
    StmtPtr out = stmt(StmtType::kMacro, line);
    ExprPtr target = make(ExprType::kName, now().line);
    target->name = expect_any_name();
    target->store = true;
    out->name = target->name;
    out->exprs.push_back(std::move(target));
    signature(*out);
    out->bodies.push_back(function_body("endmacro", true));
    return out;
  }

  StmtPtr call_statement(int line) {
    StmtPtr out = stmt(StmtType::kCallBlock, line);
    if (now().is_op("(")) signature(*out);
    ExprPtr call = expression();
    if (call->type != ExprType::kCall) fail("expected call", line);
    out->exprs.push_back(std::move(call));
    out->bodies.push_back(function_body("endcall", true));
    return out;
  }

  int loops_ = 0;  // loops that break and continue can reach
  int fors_ = 0;   // for statements around, functions or not
};

}  // namespace

std::unique_ptr<const Template> parse_template(std::string_view source, std::string_view name) {
  auto out = Parser(source, name).run();
  resolve_names(*out);
  return out;
}

}  // namespace decant::jinja
