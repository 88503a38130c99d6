#pragma once

#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "chat/jinja.h"
#include "chat/jinja_ast.h"
#include "chat/jinja_value.h"

namespace decant::jinja {

/// The variables of one running block. An empty slot (undefined without an object) is jinja2's
/// `missing`. Frames belong to the Interp; one that a macro was made in stays until the end.
struct Frame {
  Frame* parent = nullptr;
  std::vector<Value> slots;
  bool captured = false;
  size_t charge = 0;
};

struct Macro final : Object {
  const Stmt* stmt = nullptr;
  Frame* frame = nullptr;
};

/// The state behind `loop`, on the stack of the running for statement.
struct LoopState {
  const Stmt* stmt = nullptr;
  Frame* outer = nullptr;
  std::shared_ptr<Iter> source;
  int64_t known_length = -1;
  int64_t index0 = -1;
  int depth0 = 0;
  bool has_after = false;
  Value before, current, after;
  std::vector<Value> waiting;  // items taken early to know the length, last first
  bool was_completed = false;  // some run of the body reached its end
  bool was_changed = false;
  std::vector<Value> changed;
};

/// The value of `loop`; it owns nothing, so that it can be kept anywhere. state is null once the
/// loop is over.
struct Loop final : Object {
  LoopState* state = nullptr;
};

/// One rendering of a template.
class Interp {
 public:
  Interp(const Template& parsed, const RenderOptions& options);
  ~Interp();
  Interp(const Interp&) = delete;
  Interp& operator=(const Interp&) = delete;

  /// Renders into `out`. Errors: Failure.
  void run(const Json& context, TextBuilder& out);

  Budget& budget() { return budget_; }
  const RenderOptions& options() const { return options_; }
  int line() const { return line_; }

  Value call(const Value& callee, const Args& args);
  Value make_namespace(std::vector<std::pair<Value, Value>> items);
  /// An attribute of `loop`, or false.
  bool loop_attribute(const Value& loop, std::string_view name, Value& out);
  Value loop_cycle(const Value& loop, const Args& args);
  bool loop_changed(const Value& loop, const Args& args);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  struct FilteredIter;
  /// A frame that is open as long as this object lives.
  class FrameHolder {
   public:
    FrameHolder(Interp& interp, const Scope& scope, Frame* parent)
        : interp_(interp), frame_(interp.open(scope, parent)) {}
    ~FrameHolder() { interp_.close(frame_); }
    FrameHolder(const FrameHolder&) = delete;
    FrameHolder& operator=(const FrameHolder&) = delete;
    Frame& operator*() const { return *frame_; }

   private:
    Interp& interp_;
    Frame* frame_;
  };

  Value eval(const Expr& expr, Frame& frame);
  Value eval_inner(const Expr& expr, Frame& frame);
  Value eval_compare(const Expr& expr, Frame& frame);
  Value eval_concat(const Expr& expr, Frame& frame);
  Value eval_filter(const Expr& expr, const Value& input, Frame& frame);
  Args eval_args(const Expr& expr, Frame& frame);
  Value load(const Expr& name, Frame& frame);
  static Frame& frame_at(Frame& frame, int hops);
  void assign(const Expr& target, Value value, Frame& frame);
  void check_namespaces(const Expr& target, Frame& frame);

  Flow exec(const Body& body, Frame& frame, TextBuilder& out);
  Flow exec(const Stmt& stmt, Frame& frame, TextBuilder& out);
  Flow exec_for(const Stmt& stmt, Frame& frame, const Value& iterable, int depth0,
                TextBuilder& out);
  bool loop_next(LoopState& loop, Value& out);
  bool loop_peek(LoopState& loop);
  int64_t loop_length(LoopState& loop);
  LoopState& loop_state(const Value& loop);
  Value make_macro(const Stmt& stmt, Frame& frame);
  Value call_macro(const Macro& macro, const Args& args);

  Frame* open(const Scope& scope, Frame* parent);
  void reset(Frame& frame, const Scope& scope);
  void close(Frame* frame);

  const Template& template_;
  const RenderOptions& options_;
  Budget budget_;
  int line_ = 0;
  std::vector<std::string> context_names_;
  std::unordered_map<std::string_view, Value> context_;
  std::vector<std::unique_ptr<Frame>> frames_;
  std::vector<Frame*> free_frames_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

/// The global function of this name, or null.
NativeFunction find_global(std::string_view name);

}  // namespace decant::jinja
