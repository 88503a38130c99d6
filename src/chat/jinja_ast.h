#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/jinja_value.h"

namespace decant::jinja {

enum class ExprType : uint8_t {
  kConst,
  kName,
  kNamespaceRef,  // target of `set a.b = ...`
  kTuple,
  kList,
  kDict,  // items: key, value, key, value, ...
  kCond,  // items: test, then, else or null
  kOr,
  kAnd,
  kNot,
  kCompare,  // items: first operand, then one per op in ops
  kBinary,   // ops[0]
  kConcat,
  kNegative,
  kPositive,
  kGetattr,  // items[0].name
  kGetitem,  // items[0][items[1]]
  kSlice,    // start, stop, step, each may be null
  kCall,     // items[0](args)
  kFilter,   // items[0]|name(args); items[0] null in blocks
  kTest,     // items[0] is name(args)
};

enum class Op : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

using FilterFunction = Value (*)(Interp& interp, const Value& value, const Args& args);

/// Where a name lives: `hops` frames out, then a slot there.
struct Place {
  int hops = 0;
  int slot = -1;
};

struct Expr {
  ExprType type;
  int line = 0;
  int depth = 1;  // of the tree below, this node counted
  std::string name;
  Value value;  // of kConst
  Place place;  // of kName and kNamespaceRef
  bool store = false;
  std::vector<Op> ops;
  std::vector<ExprPtr> items;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> kwargs;
  ExprPtr dyn_args, dyn_kwargs;
  FilterFunction function = nullptr;  // of kFilter and kTest; null: unknown name, fails if reached
};

/// How a slot of a frame starts.
struct Load {
  enum class From : uint8_t { kParameter, kContext, kOuter, kMissing };
  From from = From::kMissing;
  std::string name;  // for kContext
  Place outer;       // for kOuter, seen from the frame outside
};

/// The variables of one frame, laid out when the template is parsed.
struct Scope {
  std::vector<Load> loads;  // one per slot
  int slot_of_loop = -1, slot_of_caller = -1, slot_of_kwargs = -1, slot_of_varargs = -1;
};

enum class StmtType : uint8_t {
  kOutput,     // exprs; text pieces are constants
  kIf,         // exprs: one test per body; a last body without a test is else
  kFor,        // exprs: target, iterable, filter or null
  kSet,        // exprs: target, value
  kSetBlock,   // exprs: target, filter or null
  kWith,       // exprs: target, value, target, value, ...
  kMacro,      // params, defaults
  kCallBlock,  // exprs: call; params, defaults
  kFilterBlock,
  kGeneration,
  kScope,
  kBreak,
  kContinue,
};

struct Stmt;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct Stmt {
  StmtType type;
  int line = 0;
  std::string name;
  std::vector<ExprPtr> exprs;
  std::vector<Body> bodies;  // kFor: body, else
  std::vector<ExprPtr> params, defaults;
  bool recursive = false;
  Scope scope, else_scope, test_scope;
  ExprPtr test_target;  // kFor with a filter: the target again, placed in test_scope
};

/// A parsed template.
struct Template {
  std::string name;
  Body body;
  Scope scope;
};

}  // namespace decant::jinja
