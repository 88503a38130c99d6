#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "base/errors.h"
#include "chat/jinja_parser.h"

namespace decant::jinja {
namespace {

// Branches copy the tables of their frame; a template made to blow that up is refused.
constexpr size_t kMaxCopies = 20'000'000;

/// jinja2 decides when it compiles which frame a name belongs to and how the name starts there
/// (argument, context, a copy of the frame outside, or missing). The rules are observable: a name
/// assigned anywhere in a frame is missing in inner frames until then, even if the context has it.
/// This follows idtracking.py, with slots in place of Python's local variables.
struct Symbols {
  const Symbols* parent = nullptr;
  std::map<std::string, int>* slots = nullptr;  // shared by the copies for branches
  std::map<std::string, Load> loads;            // of the names this frame knows
  std::set<std::string> stores;

  static bool find(const Symbols* here, const std::string& name, Place& out) {
    for (out.hops = 0; here != nullptr; here = here->parent, ++out.hops) {
      if (!here->loads.contains(name)) continue;
      out.slot = here->slots->at(name);
      return true;
    }
    return false;
  }

  void define(const std::string& name, Load::From from, Place outer = {}) {
    slots->emplace(name, static_cast<int>(slots->size()));
    loads[name] = {from, name, outer};
  }

  int parameter(const std::string& name) {
    stores.insert(name);
    define(name, Load::From::kParameter);
    return slots->at(name);
  }

  void load(const std::string& name) {
    Place place;
    if (!find(this, name, place)) define(name, Load::From::kContext);
  }

  void store(const std::string& name) {
    stores.insert(name);
    if (!loads.contains(name)) define_from_outside(name, Load::From::kMissing);
  }

  void define_from_outside(const std::string& name, Load::From otherwise) {
    Place outer;
    if (find(parent, name, outer)) {
      define(name, Load::From::kOuter, outer);
    } else {
      define(name, otherwise);
    }
  }
};

class Resolver {
 public:
  explicit Resolver(Template& parsed) : template_(parsed) {}

  void run() {
    std::map<std::string, int> slots;
    Symbols root;
    root.slots = &slots;
    collect(root, template_.body);
    place(root, template_.body);
    lay_out(root, template_.scope);
  }

 private:
  // --- first walk over a frame: what names does it know, and how do they start

  void collect(Symbols& symbols, const Expr* expr) {
    if (expr == nullptr) return;
    if (expr->type == ExprType::kNamespaceRef) {
      symbols.load(expr->name);
    } else if (expr->type == ExprType::kName) {
      if (expr->store)
        symbols.store(expr->name);
      else
        symbols.load(expr->name);
    }
    for (const auto& item : expr->items) collect(symbols, item.get());
    for (const auto& item : expr->args) collect(symbols, item.get());
    for (const auto& item : expr->kwargs) collect(symbols, item.second.get());
    collect(symbols, expr->dyn_args.get());
    collect(symbols, expr->dyn_kwargs.get());
  }

  void parameters(Symbols& symbols, const Expr& target) {
    if (target.type == ExprType::kName) symbols.parameter(target.name);
    for (const auto& item : target.items) parameters(symbols, *item);
  }

  void collect(Symbols& symbols, const Body& body) {
    for (const auto& stmt : body) collect(symbols, *stmt);
  }

  void collect(Symbols& symbols, const Stmt& stmt) {
    switch (stmt.type) {
      case StmtType::kOutput:
        for (const auto& expr : stmt.exprs) collect(symbols, expr.get());
        break;
      case StmtType::kIf:
        collect_if(symbols, stmt);
        break;
      case StmtType::kFor:
        collect(symbols, stmt.exprs[1].get());
        break;
      case StmtType::kSet:
        collect(symbols, stmt.exprs[1].get());
        collect(symbols, stmt.exprs[0].get());
        break;
      case StmtType::kSetBlock:
      case StmtType::kMacro:
      case StmtType::kCallBlock:
      case StmtType::kFilterBlock:
        collect(symbols, stmt.exprs[0].get());
        break;
      case StmtType::kWith:
        for (size_t i = 1; i < stmt.exprs.size(); i += 2) collect(symbols, stmt.exprs[i].get());
        break;
      case StmtType::kGeneration:
      case StmtType::kScope:
      case StmtType::kBreak:
      case StmtType::kContinue:
        break;
    }
  }

  Symbols copy(const Symbols& symbols) {
    copies_ += 1 + symbols.loads.size() + symbols.stores.size();
    if (copies_ > kMaxCopies)
      throw TemplateError("[template] {}: too many branches with too many names", template_.name);
    return symbols;
  }

  void collect_if(Symbols& symbols, const Stmt& stmt) {
    collect(symbols, stmt.exprs[0].get());
    std::vector<Symbols> branches;
    branches.push_back(copy(symbols));
    collect(branches.back(), stmt.bodies[0]);
    branches.push_back(copy(symbols));
    for (size_t i = 1; i < stmt.exprs.size(); ++i) {
      Symbols& here = branches.back();
      collect(here, stmt.exprs[i].get());
      std::vector<Symbols> inner;
      inner.push_back(copy(here));
      collect(inner.back(), stmt.bodies[i]);
      merge(here, inner);
    }
    branches.push_back(copy(symbols));
    if (stmt.bodies.size() > stmt.exprs.size()) collect(branches.back(), stmt.bodies.back());
    merge(symbols, branches);
  }

  /// A name that only some branches assign must start with its value outside of them.
  static void merge(Symbols& symbols, const std::vector<Symbols>& branches) {
    std::set<std::string> stores;
    for (const Symbols& branch : branches)
      for (const std::string& name : branch.stores)
        if (!symbols.stores.contains(name)) stores.insert(name);
    for (const Symbols& branch : branches) {
      for (const auto& [name, load] : branch.loads) symbols.loads[name] = load;
      symbols.stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : stores) symbols.define_from_outside(name, Load::From::kContext);
  }

  // --- second walk: give every name its place, and do the frames inside

  static void lay_out(const Symbols& symbols, Scope& scope) {
    scope.loads.assign(symbols.slots->size(), {});
    for (const auto& [name, load] : symbols.loads)
      scope.loads[static_cast<size_t>(symbols.slots->at(name))] = load;
  }

  void place(const Symbols& symbols, Expr* expr) {
    if (expr == nullptr) return;
    if (expr->type == ExprType::kName || expr->type == ExprType::kNamespaceRef) {
      const bool found = Symbols::find(&symbols, expr->name, expr->place);
      DECANT_ASSERT(found, "the first walk over a frame must have met all of its names");
    }
    for (const auto& item : expr->items) place(symbols, item.get());
    for (const auto& item : expr->args) place(symbols, item.get());
    for (const auto& item : expr->kwargs) place(symbols, item.second.get());
    place(symbols, expr->dyn_args.get());
    place(symbols, expr->dyn_kwargs.get());
  }

  void place(const Symbols& symbols, const Body& body) {
    for (const auto& stmt : body) place(symbols, *stmt);
  }

  /// Runs `fill` on the symbols of a new frame inside `outer`, then `finish` on the complete ones.
  template <typename Fill, typename Finish>
  void frame(const Symbols& outer, Scope& scope, const Fill& fill, const Finish& finish) {
    std::map<std::string, int> slots;
    Symbols inner;
    inner.parent = &outer;
    inner.slots = &slots;
    fill(inner);
    finish(inner);
    lay_out(inner, scope);
  }

  void body_frame(const Symbols& outer, Scope& scope, const Body& body) {
    frame(outer, scope, [&](Symbols& s) { collect(s, body); }, [&](Symbols& s) { place(s, body); });
  }

  void place(const Symbols& symbols, Stmt& stmt) {
    switch (stmt.type) {
      case StmtType::kOutput:
      case StmtType::kSet:
        for (const auto& expr : stmt.exprs) place(symbols, expr.get());
        break;
      case StmtType::kIf:
        for (const auto& expr : stmt.exprs) place(symbols, expr.get());
        for (const Body& body : stmt.bodies) place(symbols, body);
        break;
      case StmtType::kFor:
        place_for(symbols, stmt);
        break;
      case StmtType::kSetBlock:
      case StmtType::kFilterBlock: {
        Expr* filter = stmt.exprs.back().get();
        if (stmt.type == StmtType::kSetBlock) place(symbols, stmt.exprs[0].get());
        frame(
            symbols, stmt.scope,
            [&](Symbols& s) {
              collect(s, stmt.bodies[0]);
              collect(s, filter);
            },
            [&](Symbols& s) {
              place(s, stmt.bodies[0]);
              place(s, filter);
            });
        break;
      }
      case StmtType::kWith:
        for (size_t i = 1; i < stmt.exprs.size(); i += 2) place(symbols, stmt.exprs[i].get());
        frame(
            symbols, stmt.scope,
            [&](Symbols& s) {
              for (size_t i = 0; i < stmt.exprs.size(); i += 2) parameters(s, *stmt.exprs[i]);
              collect(s, stmt.bodies[0]);
            },
            [&](Symbols& s) {
              for (size_t i = 0; i < stmt.exprs.size(); i += 2) place(s, stmt.exprs[i].get());
              place(s, stmt.bodies[0]);
            });
        break;
      case StmtType::kMacro:
      case StmtType::kCallBlock:
        place(symbols, stmt.exprs[0].get());
        place_macro(symbols, stmt);
        break;
      case StmtType::kGeneration:
      case StmtType::kScope:
        body_frame(symbols, stmt.scope, stmt.bodies[0]);
        break;
      case StmtType::kBreak:
      case StmtType::kContinue:
        break;
    }
  }

  void place_for(const Symbols& symbols, Stmt& stmt) {
    place(symbols, stmt.exprs[1].get());
    frame(
        symbols, stmt.scope,
        [&](Symbols& s) {
          stmt.scope.slot_of_loop = s.parameter("loop");
          parameters(s, *stmt.exprs[0]);
          collect(s, stmt.bodies[0]);
        },
        [&](Symbols& s) {
          place(s, stmt.exprs[0].get());
          place(s, stmt.bodies[0]);
        });
    if (stmt.exprs[2])
      frame(
          symbols, stmt.test_scope,
          [&](Symbols& s) {
            parameters(s, *stmt.test_target);
            collect(s, stmt.exprs[2].get());
          },
          [&](Symbols& s) {
            place(s, stmt.test_target.get());
            place(s, stmt.exprs[2].get());
          });
    if (stmt.bodies.size() > 1) body_frame(symbols, stmt.else_scope, stmt.bodies[1]);
  }

  void place_macro(const Symbols& symbols, Stmt& stmt) {
    frame(
        symbols, stmt.scope,
        [&](Symbols& s) {
          for (const auto& param : stmt.params) s.parameter(param->name);
          for (const auto& value : stmt.defaults) collect(s, value.get());
          collect(s, stmt.bodies[0]);
          const auto special = [&](const char* name, int& slot) {
            const bool is_param =
                std::any_of(stmt.params.begin(), stmt.params.end(),
                            [&](const auto& param) { return param->name == name; });
            std::set<std::string> wanted = {name};
            if (!is_param && loads_undeclared(stmt.bodies[0], name, wanted))
              slot = s.parameter(name);
          };
          special("caller", stmt.scope.slot_of_caller);
          special("kwargs", stmt.scope.slot_of_kwargs);
          special("varargs", stmt.scope.slot_of_varargs);
        },
        [&](Symbols& s) {
          for (const auto& param : stmt.params) place(s, param.get());
          for (const auto& value : stmt.defaults) place(s, value.get());
          place(s, stmt.bodies[0]);
        });
  }

  // Does the tree load the name before anything in it stores the name? `wanted` is emptied by a
  // store. Frames do not matter, as in jinja2's find_undeclared.
  static bool loads_undeclared(const Body& body, const std::string& name,
                               std::set<std::string>& wanted) {
    for (const auto& stmt : body) {
      for (const auto* list : {&stmt->params, &stmt->defaults, &stmt->exprs})
        for (const auto& expr : *list)
          if (loads_undeclared(expr.get(), name, wanted)) return true;
      for (const Body& inner : stmt->bodies)
        if (loads_undeclared(inner, name, wanted)) return true;
    }
    return false;
  }
  static bool loads_undeclared(const Expr* expr, const std::string& name,
                               std::set<std::string>& wanted) {
    if (expr == nullptr) return false;
    if (expr->type == ExprType::kName && expr->name == name) {
      if (!expr->store) return !wanted.empty();
      wanted.clear();
    }
    for (const auto* list : {&expr->items, &expr->args})
      for (const auto& item : *list)
        if (loads_undeclared(item.get(), name, wanted)) return true;
    for (const auto& item : expr->kwargs)
      if (loads_undeclared(item.second.get(), name, wanted)) return true;
    return loads_undeclared(expr->dyn_args.get(), name, wanted) ||
           loads_undeclared(expr->dyn_kwargs.get(), name, wanted);
  }

  Template& template_;
  size_t copies_ = 0;
};

}  // namespace

void resolve_names(Template& parsed) { Resolver(parsed).run(); }

}  // namespace decant::jinja
