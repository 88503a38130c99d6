#include "chat/jinja_eval.h"

#include <algorithm>

#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"

namespace decant::jinja {

Interp::Interp(const Template& parsed, const RenderOptions& options)
    : template_(parsed), options_(options), budget_(options.limits) {}

Interp::~Interp() {
  // Namespaces and frames can hold each other; empty all before any of them goes.
  for (const auto& space : namespaces_) space->items.clear();
  for (const auto& frame : frames_) frame->slots.clear();
}

void Interp::run(const Json& context, TextBuilder& out) {
  const auto& marked = options_.marked;
  const bool all = std::find(marked.begin(), marked.end(), "*") != marked.end();
  context_names_.reserve(context.size());
  for (const auto& [name, value] : context.items()) {
    const bool mark = all || std::find(marked.begin(), marked.end(), name) != marked.end();
    context_names_.push_back(name);
    context_.insert_or_assign(std::string_view(context_names_.back()),
                              from_json(*this, value, mark));
  }
  const FrameHolder frame(*this, template_.scope, nullptr);
  exec(template_.body, *frame, out);
}

// --- frames

Frame* Interp::open(const Scope& scope, Frame* parent) {
  Frame* frame;
  if (free_frames_.empty()) {
    frames_.push_back(std::make_unique<Frame>());
    frame = frames_.back().get();
  } else {
    frame = free_frames_.back();
    free_frames_.pop_back();
  }
  frame->charge = sizeof(Frame) + scope.loads.size() * sizeof(Value);
  frame->parent = parent;
  frame->captured = false;
  try {
    budget_.take(frame->charge);
  } catch (...) {
    free_frames_.push_back(frame);
    throw;
  }
  frame->slots.clear();
  frame->slots.resize(scope.loads.size());
  reset(*frame, scope);
  return frame;
}

void Interp::reset(Frame& frame, const Scope& scope) {
  for (size_t i = 0; i < scope.loads.size(); ++i) {
    const Load& load = scope.loads[i];
    Value& slot = frame.slots[i];
    switch (load.from) {
      case Load::From::kParameter:
        break;
      case Load::From::kMissing:
        slot = Value();
        break;
      case Load::From::kOuter:
        slot = frame_at(*frame.parent, load.outer.hops).slots[static_cast<size_t>(load.outer.slot)];
        break;
      case Load::From::kContext: {
        const auto found = context_.find(load.name);
        if (found != context_.end()) {
          slot = found->second;
        } else if (const NativeFunction global = find_global(load.name)) {
          slot = make_function(budget_, load.name, global);
        } else {
          slot = Value();
        }
        break;
      }
    }
  }
}

void Interp::close(Frame* frame) {
  if (frame->captured) return;
  frame->slots.clear();
  budget_.release(frame->charge);
  free_frames_.push_back(frame);
}

Frame& Interp::frame_at(Frame& frame, int hops) {
  Frame* here = &frame;
  for (; hops > 0; --hops) here = here->parent;
  return *here;
}

Value Interp::load(const Expr& name, Frame& frame) {
  const Value& slot = frame_at(frame, name.place.hops).slots[static_cast<size_t>(name.place.slot)];
  if (slot.is_undefined() && !slot.object())
    return make_undefined(budget_, fmt::format("'{}' is undefined", name.name));
  return slot;
}

void Interp::assign(const Expr& target, Value value, Frame& frame) {
  budget_.step();
  if (target.type == ExprType::kTuple) {
    const std::vector<Value> items = collect(*this, value);
    if (items.size() < target.items.size())
      fail("ValueError", "not enough values to unpack (expected {}, got {})", target.items.size(),
           items.size());
    if (items.size() > target.items.size())
      fail("ValueError", "too many values to unpack (expected {})", target.items.size());
    for (size_t i = 0; i < items.size(); ++i) assign(*target.items[i], items[i], frame);
    return;
  }
  Value& slot = frame_at(frame, target.place.hops).slots[static_cast<size_t>(target.place.slot)];
  if (target.type == ExprType::kName) {
    slot = std::move(value);
    return;
  }
  auto& space = slot.as<Namespace>();
  for (auto& [key, old] : space.items) {
    if (key.text() == target.value.text()) {
      old = std::move(value);
      return;
    }
    budget_.step();
  }
  budget_.take(sizeof(space.items[0]));
  space.charge += sizeof(space.items[0]);
  space.items.emplace_back(target.value, std::move(value));
}

void Interp::check_namespaces(const Expr& target, Frame& frame) {
  if (target.type == ExprType::kNamespaceRef && !frame_at(frame, target.place.hops)
                                                     .slots[static_cast<size_t>(target.place.slot)]
                                                     .is(Kind::kNamespace))
    fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
  for (const auto& item : target.items) check_namespaces(*item, frame);
}

Value Interp::make_namespace(std::vector<std::pair<Value, Value>> items) {
  auto out = make_object<Namespace>(budget_, items.size() * sizeof(items[0]));
  out->items = std::move(items);
  namespaces_.push_back(out);
  return Value::object(Kind::kNamespace, std::move(out));
}

// --- expressions

Value Interp::eval(const Expr& expr, Frame& frame) {
  budget_.step();
  switch (expr.type) {  // leaves need no guard
    case ExprType::kConst:
      return expr.value;
    case ExprType::kName:
    case ExprType::kNamespaceRef:
      return load(expr, frame);
    default:
      break;
  }
  const DepthGuard guard(budget_);
  return eval_inner(expr, frame);
}

Value Interp::eval_inner(const Expr& expr, Frame& frame) {
  const auto item = [&](size_t i) { return eval(*expr.items[i], frame); };
  switch (expr.type) {
    case ExprType::kConst:
    case ExprType::kName:
    case ExprType::kNamespaceRef:
    case ExprType::kSlice:
      break;
    case ExprType::kTuple:
    case ExprType::kList: {
      std::vector<Value> items;
      items.reserve(expr.items.size());
      for (size_t i = 0; i < expr.items.size(); ++i) items.push_back(item(i));
      return make_sequence(budget_, expr.type == ExprType::kList ? Kind::kList : Kind::kTuple,
                           std::move(items));
    }
    case ExprType::kDict: {
      std::vector<std::pair<Value, Value>> items;
      for (size_t i = 0; i < expr.items.size(); i += 2) {
        Value key = item(i);
        items.emplace_back(std::move(key), item(i + 1));
      }
      return make_dict(*this, std::move(items));
    }
    case ExprType::kCond:
      if (truthy(item(0))) return item(1);
      if (expr.items[2]) return item(2);
      return make_undefined(budget_,
                            fmt::format("the inline if-expression on line {} in '{}' evaluated to "
                                        "false and no else section was defined.",
                                        expr.line, template_.name));
    case ExprType::kOr: {
      Value left = item(0);
      return truthy(left) ? left : item(1);
    }
    case ExprType::kAnd: {
      Value left = item(0);
      return truthy(left) ? item(1) : left;
    }
    case ExprType::kNot:
      return Value::boolean(!truthy(item(0)));
    case ExprType::kCompare:
      return eval_compare(expr, frame);
    case ExprType::kBinary: {
      const Value left = item(0);
      return binary(*this, expr.ops[0], left, item(1));
    }
    case ExprType::kConcat:
      return eval_concat(expr, frame);
    case ExprType::kNegative:
      return negate(item(0));
    case ExprType::kPositive:
      return positive(item(0));
    case ExprType::kGetattr:
      return get_attribute(*this, item(0), expr.value);
    case ExprType::kGetitem: {
      const Value object = item(0);
      const Expr& key = *expr.items[1];
      if (key.type != ExprType::kSlice) return get_item(*this, object, eval(key, frame));
      Value parts[3];
      for (size_t i = 0; i < 3; ++i)
        parts[i] = key.items[i] ? eval(*key.items[i], frame) : Value::none();
      return get_slice(*this, object, parts[0], parts[1], parts[2]);
    }
    case ExprType::kCall: {
      const Value callee = item(0);
      const Args args = eval_args(expr, frame);
      line_ = expr.line;
      return call(callee, args);
    }
    case ExprType::kFilter:
      return eval_filter(expr, item(0), frame);
    case ExprType::kTest: {
      const Value input = item(0);
      const Args args = eval_args(expr, frame);
      if (expr.function == nullptr) fail("TemplateRuntimeError", "No test named '{}'.", expr.name);
      line_ = expr.line;
      return expr.function(*this, input, args);
    }
  }
  fail("TypeError", "a slice can only be used in brackets with one part");
}

Value Interp::eval_filter(const Expr& expr, const Value& input, Frame& frame) {
  const Args args = eval_args(expr, frame);
  if (expr.function == nullptr) fail("TemplateRuntimeError", "No filter named '{}'.", expr.name);
  line_ = expr.line;
  return expr.function(*this, input, args);
}

Value Interp::eval_compare(const Expr& expr, Frame& frame) {
  Value left = eval(*expr.items[0], frame);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    Value right = eval(*expr.items[i + 1], frame);
    if (!compare(*this, expr.ops[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interp::eval_concat(const Expr& expr, Frame& frame) {
  TextBuilder out(budget_);
  for (const auto& item : expr.items) append_str(*this, out, eval(*item, frame));
  return out.take();
}

Args Interp::eval_args(const Expr& expr, Frame& frame) {
  Args out;
  out.positional.reserve(expr.args.size());
  for (const auto& arg : expr.args) out.positional.push_back(eval(*arg, frame));
  for (const auto& [key, value] : expr.kwargs) out.keywords.emplace_back(key, eval(*value, frame));
  if (expr.dyn_args)
    for (Value& value : collect(*this, eval(*expr.dyn_args, frame)))
      out.positional.push_back(std::move(value));
  if (expr.dyn_kwargs) {
    const Value more = eval(*expr.dyn_kwargs, frame);
    if (!more.is_dict())
      fail("TypeError", "argument after ** must be a mapping, not {}", type_name(more));
    for (const auto& [key, value] : more.as<Dict>().items) {
      if (!key.is_string()) fail("TypeError", "keywords must be strings");
      if (out.keyword(key.text()) != nullptr)
        fail("TypeError", "got multiple values for keyword argument '{}'", key.text());
      budget_.step();
      out.keywords.emplace_back(key.text(), value);
    }
  }
  return out;
}

Value Interp::call(const Value& callee, const Args& args) {
  const DepthGuard guard(budget_);
  switch (callee.kind()) {
    case Kind::kFunction: {
      const auto& function = callee.as<Function>();
      return function.call(*this, function.self, args);
    }
    case Kind::kMacro:
      return call_macro(callee.as<Macro>(), args);
    case Kind::kJoiner: {
      auto& joiner = callee.as<Joiner>();
      args.check("Joiner", 0, 0);
      if (joiner.used) return joiner.separator;
      joiner.used = true;
      return make_string(budget_, "");
    }
    case Kind::kLoop: {
      LoopState& loop = loop_state(callee);
      if (!loop.stmt->recursive)
        fail("TypeError", "The loop must have the 'recursive' marker to be called recursively.");
      args.check("loop", 1, 1, {"iterable"});
      TextBuilder out(budget_);
      exec_for(*loop.stmt, *loop.outer, *args.get(0, "iterable"), loop.depth0 + 1, out);
      return out.take();
    }
    case Kind::kUndefined:
      require_defined(callee);
      [[fallthrough]];
    default:
      fail("TypeError", "'{}' object is not callable", type_name(callee));
  }
}

}  // namespace decant::jinja
