#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "chat/jinja.h"

namespace decant::jinja {

class Interp;

/// A Python-style failure on its way to JinjaTemplate::render, which adds name and line.
struct Failure {
  std::string type;  // TypeError, UndefinedError, ...; "TemplateError" from raise_exception
  std::string message;
  bool raised_by_template = false;
};

template <typename... Args>
[[noreturn]] void fail(const char* type, fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{type, fmt::format(format, std::forward<Args>(args)...)};
}

/// What a rendering has left of its TemplateLimits.
class Budget {
 public:
  explicit Budget(const TemplateLimits& limits)
      : limits_(limits), steps_(limits.steps), depth_(limits.depth) {}
  void step(uint64_t count = 1) {
    if (count > steps_) fail("LimitError", "the template needs more than {} steps", limits_.steps);
    steps_ -= count;
  }
  /// To be called before a string of `bytes` is built.
  void text(size_t bytes) {
    fits(bytes);
    step(bytes / 64);
  }
  void fits(size_t bytes) const {
    if (bytes > limits_.output_bytes)
      fail("LimitError", "text: expected at most {} bytes, got more", limits_.output_bytes);
  }
  void take(size_t bytes) {
    if (bytes > limits_.memory_bytes - live_)
      fail("LimitError", "values: expected at most {} bytes alive, got more", limits_.memory_bytes);
    live_ += bytes;
  }
  void release(size_t bytes) { live_ -= bytes; }
  void enter() {
    if (depth_ <= 0) fail("RecursionError", "nesting: expected at most {} levels", limits_.depth);
    --depth_;
  }
  void leave() { ++depth_; }

 private:
  TemplateLimits limits_;
  uint64_t steps_;
  size_t live_ = 0;
  int depth_;
};

/// Holds one level of Budget's depth.
class DepthGuard {
 public:
  explicit DepthGuard(Budget& budget) : budget_(budget) { budget_.enter(); }
  ~DepthGuard() { budget_.leave(); }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Budget& budget_;
};

/// Containers inside each other; deeper ones are refused so that no walk over a value can run out
/// of stack.
inline constexpr int kMaxValueDepth = 200;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kBigInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kView,  // dict.keys(), .values(), .items()
  kRange,
  kIterator,  // what lazy filters return; can be walked once
  kNamespace,
  kMacro,
  kFunction,  // a global or a bound method
  kLoop,
  kCycler,
  kJoiner,
};

/// Base of everything on the heap of a rendering. Constants of the template have no budget.
struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() {
    if (budget != nullptr) budget->release(charge);
  }
  Budget* budget = nullptr;
  size_t charge = 0;
  int depth = 0;  // containers below this one
};

/// Byte ranges [first, second) that came from the request; sorted, disjoint, not touching.
using Marks = std::vector<std::pair<size_t, size_t>>;

struct Str final : Object {
  std::string text;
  Marks marks;
  size_t length = 0;    // code points
  bool markup = false;  // the result of |safe or |escape: `+` escapes the other side
  bool ascii() const { return length == text.size(); }
};

class Value {
 public:
  Value() = default;
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value number(double value);
  template <typename T>
  static Value object(Kind kind, std::shared_ptr<T> object) {
    Value out(kind);
    out.object_ = std::move(object);
    return out;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  /// int or bool, which Python treats as the integers 0 and 1.
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_numeric() const { return is_integral() || kind_ == Kind::kFloat; }

  bool as_bool() const { return integer_ != 0; }
  int64_t as_int() const { return integer_; }
  double as_float() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(integer_); }
  const Str& str() const { return static_cast<const Str&>(*object_); }
  const std::string& text() const { return str().text; }
  template <typename T>
  T& as() const {
    return static_cast<T&>(*object_);
  }
  const std::shared_ptr<Object>& object() const { return object_; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::kUndefined;
  union {
    int64_t integer_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

struct UndefinedInfo final : Object {
  std::string message;
  const char* type = "UndefinedError";
};

struct BigInt final : Object {
  std::string digits;  // optional minus, no leading zeros
};

struct Sequence final : Object {  // list and tuple
  std::vector<Value> items;
  bool group = false;  // a (grouper, list) pair of groupby
};

/// A dict in insertion order. Keys compare as in Python (1 == 1.0 == true).
struct Dict final : Object {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string_view, size_t> index;  // of string keys, into items
  const Value* find(std::string_view key) const {
    const auto found = index.find(key);
    return found == index.end() ? nullptr : &items[found->second].second;
  }
};

struct View final : Object {
  Value dict;
  char what = 'i';  // 'k', 'v' or 'i'
};

struct Range final : Object {
  int64_t start = 0, stop = 0, step = 1, length = 0;
};

/// A Python iterator: next gives values until it returns false.
struct Iter : Object {
  virtual bool next(Interp& interp, Value& out) = 0;
};

struct Namespace final : Object {
  std::vector<std::pair<Value, Value>> items;
};

/// Arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  /// The argument at `index` or called `name`, or null. The pointer lives as long as the Args.
  const Value* get(size_t index, std::string_view name) const;
  const Value* keyword(std::string_view name) const;
  /// TypeError if there are more than `count` positional ones, or keywords not in `names`.
  void check(const char* function, size_t minimum, size_t count,
             std::initializer_list<std::string_view> names = {}) const;
};

using NativeFunction = Value (*)(Interp& interp, const Value& self, const Args& args);

struct Function final : Object {
  std::string name;
  Value self;
  NativeFunction call = nullptr;
};

struct Cycler final : Object {
  std::vector<Value> items;
  size_t position = 0;
};

struct Joiner final : Object {
  Value separator;
  bool used = false;
};

/// Collects text and remembers which bytes of it came from the request.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(&budget) {}
  void append(std::string_view text, bool marked = false);
  void append(const Str& text) { append(text, 0, text.text.size()); }
  /// Bytes [from, to) of `text`.
  void append(const Str& text, size_t from, size_t to);
  size_t size() const { return text_.size(); }
  const std::string& text() const { return text_; }
  const Marks& marks() const { return marks_; }
  void mark_all();
  /// Ends the building; the builder is empty afterwards.
  Value take();

 private:
  void mark(size_t from, size_t to);
  Budget* budget_;
  std::string text_;
  Marks marks_;
};

/// A new object whose `bytes` count against the budget.
template <typename T>
std::shared_ptr<T> make_object(Budget& budget, size_t bytes = 0) {
  budget.take(sizeof(T) + bytes);
  auto out = std::make_shared<T>();
  out->budget = &budget;
  out->charge = sizeof(T) + bytes;
  return out;
}

Value make_string(Budget& budget, std::string text, bool marked = false);
Value make_string(Budget& budget, std::string text, Marks marks);
/// A string of a template, which outlives every rendering.
Value make_constant(std::string text);
/// Bytes [from, to) of a string, marks kept.
Value substring(Budget& budget, const Value& string, size_t from, size_t to);
Value make_sequence(Budget& budget, Kind kind, std::vector<Value> items);
inline Value make_list(Budget& budget, std::vector<Value> items) {
  return make_sequence(budget, Kind::kList, std::move(items));
}
inline Value make_tuple(Budget& budget, std::vector<Value> items) {
  return make_sequence(budget, Kind::kTuple, std::move(items));
}
/// A dict; of equal keys the first keeps its place and the last gives the value.
Value make_dict(Interp& interp, std::vector<std::pair<Value, Value>> items);
Value make_undefined(Budget& budget, std::string message, const char* type = "UndefinedError");
Value make_function(Budget& budget, std::string name, NativeFunction call, Value self = {});
Value from_json(Interp& interp, const Json& json, bool marked);

/// An iterator over anything iterable; TypeError otherwise.
std::shared_ptr<Iter> iterate(Interp& interp, const Value& value);
bool is_iterable(const Value& value);
/// All items of anything iterable.
std::vector<Value> collect(Interp& interp, const Value& value);
/// Python's len(); TypeError for values without one.
size_t length_of(const Value& value);
bool has_length(const Value& value);

/// Name of the Python type: "str", "dict", "NoneType", ...
const char* type_name(const Value& value);

}  // namespace decant::jinja
