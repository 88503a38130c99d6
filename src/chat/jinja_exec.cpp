#include <algorithm>

#include "chat/jinja_eval.h"
#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"

namespace decant::jinja {

// --- macros

Value Interp::make_macro(const Stmt& stmt, Frame& frame) {
  budget_.step(8);
  auto out = make_object<Macro>(budget_);
  out->stmt = &stmt;
  out->frame = &frame;
  for (Frame* here = &frame; here != nullptr && !here->captured; here = here->parent)
    here->captured = true;
  return Value::object(Kind::kMacro, std::move(out));
}

Value Interp::call_macro(const Macro& macro, const Args& args) {
  const Stmt& stmt = *macro.stmt;
  const Scope& scope = stmt.scope;
  const FrameHolder holder(*this, scope, macro.frame);
  Frame& frame = *holder;
  const auto slot = [&](int index) -> Value& { return frame.slots[static_cast<size_t>(index)]; };
  std::vector<bool> used(args.keywords.size());
  const auto take = [&](std::string_view name) -> const Value* {
    for (size_t i = 0; i < args.keywords.size(); ++i) {
      if (used[i] || args.keywords[i].first != name) continue;
      used[i] = true;
      return &args.keywords[i].second;
    }
    return nullptr;
  };
  const size_t given = std::min(args.positional.size(), stmt.params.size());
  std::vector<bool> filled(stmt.params.size());
  for (size_t i = 0; i < stmt.params.size(); ++i) {
    const Value* value = i < given ? &args.positional[i] : take(stmt.params[i]->name);
    filled[i] = value != nullptr;
    if (value != nullptr) slot(stmt.params[i]->place.slot) = *value;
  }
  if (scope.slot_of_caller >= 0) {
    const Value* caller = take("caller");
    slot(scope.slot_of_caller) = caller != nullptr && !caller->is_none()
                                     ? *caller
                                     : make_undefined(budget_, "No caller defined");
  }
  if (scope.slot_of_kwargs >= 0) {
    std::vector<std::pair<Value, Value>> rest;
    for (size_t i = 0; i < args.keywords.size(); ++i)
      if (!used[i])
        rest.emplace_back(make_string(budget_, args.keywords[i].first), args.keywords[i].second);
    slot(scope.slot_of_kwargs) = make_dict(*this, std::move(rest));
  } else {
    for (size_t i = 0; i < args.keywords.size(); ++i)
      if (!used[i])
        fail("TypeError", "macro '{}' takes no keyword argument '{}'", stmt.name,
             args.keywords[i].first);
  }
  if (scope.slot_of_varargs >= 0) {
    slot(scope.slot_of_varargs) = make_tuple(
        budget_, std::vector<Value>(args.positional.begin() + static_cast<ptrdiff_t>(given),
                                    args.positional.end()));
  } else if (args.positional.size() > stmt.params.size()) {
    fail("TypeError", "macro '{}' takes not more than {} argument(s)", stmt.name,
         stmt.params.size());
  }
  const size_t first_default = stmt.params.size() - stmt.defaults.size();
  for (size_t i = 0; i < stmt.params.size(); ++i) {
    if (filled[i]) continue;
    slot(stmt.params[i]->place.slot) =
        i >= first_default ? eval(*stmt.defaults[i - first_default], frame)
                           : make_undefined(budget_, fmt::format("parameter '{}' was not provided",
                                                                 stmt.params[i]->name));
  }
  TextBuilder out(budget_);
  exec(stmt.bodies[0], frame, out);
  return out.take();
}

// --- statements

Interp::Flow Interp::exec(const Body& body, Frame& frame, TextBuilder& out) {
  for (const auto& stmt : body) {
    budget_.step();
    line_ = stmt->line;
    if (stmt->type == StmtType::kOutput) {
      for (const auto& expr : stmt->exprs) {
        line_ = expr->line;
        append_str(*this, out, eval(*expr, frame));
      }
      continue;
    }
    const DepthGuard guard(budget_);
    const Flow flow = exec(*stmt, frame, out);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interp::Flow Interp::exec(const Stmt& stmt, Frame& frame, TextBuilder& out) {
  switch (stmt.type) {
    case StmtType::kOutput:
      break;
    case StmtType::kIf:
      for (size_t i = 0; i < stmt.exprs.size(); ++i)
        if (truthy(eval(*stmt.exprs[i], frame))) return exec(stmt.bodies[i], frame, out);
      if (stmt.bodies.size() > stmt.exprs.size()) return exec(stmt.bodies.back(), frame, out);
      break;
    case StmtType::kFor:
      return exec_for(stmt, frame, eval(*stmt.exprs[1], frame), 0, out);
    case StmtType::kSet:
      check_namespaces(*stmt.exprs[0], frame);
      assign(*stmt.exprs[0], eval(*stmt.exprs[1], frame), frame);
      break;
    case StmtType::kSetBlock:
    case StmtType::kFilterBlock: {
      const FrameHolder inner(*this, stmt.scope, &frame);
      TextBuilder text(budget_);
      const Flow flow = exec(stmt.bodies[0], *inner, text);
      if (flow != Flow::kNormal) return flow;
      Value value = text.take();
      // The filters of a block end in one without an input: the block's text.
      const Expr* filter = stmt.exprs.back().get();
      if (filter != nullptr) {
        std::vector<const Expr*> chain;
        for (; filter != nullptr; filter = filter->items[0].get()) chain.push_back(filter);
        for (size_t i = chain.size(); i-- > 0;) value = eval_filter(*chain[i], value, *inner);
      }
      if (stmt.type == StmtType::kFilterBlock) {
        append_str(*this, out, value);
      } else {
        check_namespaces(*stmt.exprs[0], frame);
        assign(*stmt.exprs[0], std::move(value), frame);
      }
      break;
    }
    case StmtType::kWith: {
      const FrameHolder inner(*this, stmt.scope, &frame);
      for (size_t i = 0; i < stmt.exprs.size(); i += 2)
        assign(*stmt.exprs[i], eval(*stmt.exprs[i + 1], frame), *inner);
      return exec(stmt.bodies[0], *inner, out);
    }
    case StmtType::kMacro:
      assign(*stmt.exprs[0], make_macro(stmt, frame), frame);
      break;
    case StmtType::kCallBlock: {
      const Expr& expr = *stmt.exprs[0];
      const Value caller = make_macro(stmt, frame);
      const Value callee = eval(*expr.items[0], frame);
      Args args = eval_args(expr, frame);
      if (args.keyword("caller") != nullptr)
        fail("TypeError", "got multiple values for keyword argument 'caller'");
      args.keywords.emplace_back("caller", caller);
      append_str(*this, out, call(callee, args));
      break;
    }
    case StmtType::kGeneration:
    case StmtType::kScope: {
      const FrameHolder inner(*this, stmt.scope, &frame);
      return exec(stmt.bodies[0], *inner, out);
    }
    case StmtType::kBreak:
      return Flow::kBreak;
    case StmtType::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

// --- loops

/// The items of a for statement that pass its `if`, tested when they are asked for.
struct Interp::FilteredIter final : Iter {
  const Stmt* stmt = nullptr;
  std::shared_ptr<Iter> source;
  Frame* frame = nullptr;
  bool next(Interp& interp, Value& out) override {
    while (source->next(interp, out)) {
      interp.reset(*frame, stmt->test_scope);
      interp.assign(*stmt->test_target, out, *frame);
      if (truthy(interp.eval(*stmt->exprs[2], *frame))) return true;
    }
    return false;
  }
};

Interp::Flow Interp::exec_for(const Stmt& stmt, Frame& frame, const Value& iterable, int depth0,
                              TextBuilder& out) {
  LoopState state;
  state.stmt = &stmt;
  state.outer = &frame;
  state.depth0 = depth0;
  state.source = iterate(*this, iterable);
  std::unique_ptr<FrameHolder> test_frame;
  if (stmt.exprs[2]) {
    test_frame = std::make_unique<FrameHolder>(*this, stmt.test_scope, &frame);
    auto filtered = make_object<FilteredIter>(budget_);
    filtered->stmt = &stmt;
    filtered->source = state.source;
    filtered->frame = &**test_frame;
    state.source = std::move(filtered);
  } else if (has_length(iterable)) {
    state.known_length = static_cast<int64_t>(length_of(iterable));
  }
  // The value of `loop` may outlive this call, the state does not.
  struct LoopValue {
    std::shared_ptr<Loop> loop;
    ~LoopValue() { loop->state = nullptr; }
  } loop{make_object<Loop>(budget_)};
  loop.loop->state = &state;
  const Value loop_value = Value::object(Kind::kLoop, loop.loop);
  bool ran = false;
  {
    const FrameHolder holder(*this, stmt.scope, &frame);
    Frame& inner = *holder;
    Value item;
    while (loop_next(state, item)) {
      budget_.step();
      if (ran) reset(inner, stmt.scope);
      inner.slots[static_cast<size_t>(stmt.scope.slot_of_loop)] = loop_value;
      assign(*stmt.exprs[0], item, inner);
      const Flow flow = exec(stmt.bodies[0], inner, out);
      if (flow == Flow::kBreak) {
        ran = true;
        break;
      }
      // jinja2 notes that the loop ran at the end of its body, which continue does not reach; the
      // first run still counts here for reset.
      ran = true;
      if (flow == Flow::kNormal) state.was_completed = true;
    }
  }
  if (stmt.bodies.size() > 1 && !state.was_completed) {
    const FrameHolder holder(*this, stmt.else_scope, &frame);
    return exec(stmt.bodies[1], *holder, out);
  }
  return Flow::kNormal;
}

bool Interp::loop_next(LoopState& loop, Value& out) {
  if (loop.has_after) {
    out = std::move(loop.after);
    loop.has_after = false;
  } else if (!loop.waiting.empty()) {
    out = std::move(loop.waiting.back());
    loop.waiting.pop_back();
  } else if (!loop.source->next(*this, out)) {
    return false;
  }
  ++loop.index0;
  loop.before = std::move(loop.current);
  loop.current = out;
  return true;
}

bool Interp::loop_peek(LoopState& loop) {
  if (loop.has_after) return true;
  if (!loop.waiting.empty()) {
    loop.after = std::move(loop.waiting.back());
    loop.waiting.pop_back();
    loop.has_after = true;
  } else {
    loop.has_after = loop.source->next(*this, loop.after);
  }
  return loop.has_after;
}

int64_t Interp::loop_length(LoopState& loop) {
  if (loop.known_length >= 0) return loop.known_length;
  std::vector<Value> rest;
  Value item;
  while (loop.source->next(*this, item)) {
    budget_.step(4);
    rest.push_back(std::move(item));
  }
  std::reverse(rest.begin(), rest.end());
  loop.known_length =
      static_cast<int64_t>(rest.size()) + loop.index0 + 1 + (loop.has_after ? 1 : 0);
  loop.waiting = std::move(rest);
  return loop.known_length;
}

LoopState& Interp::loop_state(const Value& loop) {
  LoopState* state = loop.as<Loop>().state;
  if (state == nullptr) fail("TemplateRuntimeError", "the loop of this variable is over");
  return *state;
}

bool Interp::loop_attribute(const Value& value, std::string_view name, Value& out) {
  LoopState& loop = loop_state(value);
  const auto integer = [&](int64_t number) { out = Value::integer(number); };
  if (name == "index")
    integer(loop.index0 + 1);
  else if (name == "index0")
    integer(loop.index0);
  else if (name == "first")
    out = Value::boolean(loop.index0 == 0);
  else if (name == "last")
    out = Value::boolean(!loop_peek(loop));
  else if (name == "length")
    integer(loop_length(loop));
  else if (name == "revindex")
    integer(loop_length(loop) - loop.index0);
  else if (name == "revindex0")
    integer(loop_length(loop) - loop.index0 - 1);
  else if (name == "depth")
    integer(loop.depth0 + 1);
  else if (name == "depth0")
    integer(loop.depth0);
  else if (name == "previtem")
    out = loop.index0 == 0 ? make_undefined(budget_, "there is no previous item") : loop.before;
  else if (name == "nextitem")
    out = loop_peek(loop) ? loop.after : make_undefined(budget_, "there is no next item");
  else
    return false;
  return true;
}

Value Interp::loop_cycle(const Value& value, const Args& args) {
  if (args.positional.empty()) fail("TypeError", "no items for cycling given");
  const auto index = static_cast<size_t>(loop_state(value).index0);
  return args.positional[index % args.positional.size()];
}

bool Interp::loop_changed(const Value& value, const Args& args) {
  LoopState& loop = loop_state(value);
  bool changed = !loop.was_changed || loop.changed.size() != args.positional.size();
  for (size_t i = 0; !changed && i < loop.changed.size(); ++i)
    changed = !equal(*this, loop.changed[i], args.positional[i]);
  if (!changed) return false;
  loop.was_changed = true;
  loop.changed = args.positional;
  return true;
}

}  // namespace decant::jinja
