#include "chat/jinja_value.h"

#include <algorithm>

#include "base/utf8.h"
#include "chat/jinja_eval.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {

Value Value::boolean(bool value) {
  Value out(Kind::kBool);
  out.integer_ = value ? 1 : 0;
  return out;
}

Value Value::integer(int64_t value) {
  Value out(Kind::kInt);
  out.integer_ = value;
  return out;
}

Value Value::number(double value) {
  Value out(Kind::kFloat);
  out.float_ = value;
  return out;
}

const Value* Args::get(size_t index, std::string_view name) const {
  return index < positional.size() ? &positional[index] : keyword(name);
}

const Value* Args::keyword(std::string_view name) const {
  for (const auto& [key, value] : keywords)
    if (key == name) return &value;
  return nullptr;
}

void Args::check(const char* function, size_t minimum, size_t count,
                 std::initializer_list<std::string_view> names) const {
  if (positional.size() > count)
    fail("TypeError", "{}() takes at most {} arguments ({} given)", function, count,
         positional.size());
  for (const auto& [key, value] : keywords) {
    const auto found = std::find(names.begin(), names.end(), key);
    if (found == names.end())
      fail("TypeError", "{}() got an unexpected keyword argument '{}'", function, key);
    if (static_cast<size_t>(found - names.begin()) < positional.size())
      fail("TypeError", "{}() got multiple values for argument '{}'", function, key);
  }
  for (size_t i = positional.size(); i < minimum; ++i) {
    if (i >= names.size() || keyword(*(names.begin() + i)) == nullptr)
      fail("TypeError", "{}() expected at least {} argument(s), got {}", function, minimum,
           positional.size() + keywords.size());
  }
}

void TextBuilder::mark(size_t from, size_t to) {
  if (from == to) return;
  if (!marks_.empty() && marks_.back().second == from) {
    marks_.back().second = to;
  } else {
    budget_->step();
    marks_.emplace_back(from, to);
  }
}

void TextBuilder::append(std::string_view text, bool marked) {
  // Only the new piece costs steps here, so that building stays linear; the cap sees all of it.
  budget_->step(text.size() / 64);
  budget_->fits(text_.size() + text.size());
  const size_t from = text_.size();
  text_.append(text);
  if (marked) mark(from, text_.size());
}

void TextBuilder::append(const Str& text, size_t from, size_t to) {
  const size_t start = text_.size();
  append(std::string_view(text.text).substr(from, to - from));
  for (const auto& [first, second] : text.marks) {
    if (second <= from) continue;
    if (first >= to) break;
    mark(start + std::max(first, from) - from, start + std::min(second, to) - from);
  }
}

void TextBuilder::mark_all() {
  marks_.clear();
  mark(0, text_.size());
}

Value TextBuilder::take() {
  Value out = make_string(*budget_, std::move(text_), std::move(marks_));
  text_.clear();
  marks_.clear();
  return out;
}

namespace {

Value wrap(std::shared_ptr<Str> out, std::string text, Marks marks) {
  out->length = count_code_points(text);
  out->text = std::move(text);
  out->marks = std::move(marks);
  return Value::object(Kind::kString, std::move(out));
}

Value charge_and_wrap(Budget& budget, std::string text, Marks marks) {
  auto out = make_object<Str>(budget, text.size() + marks.size() * sizeof(marks[0]));
  return wrap(std::move(out), std::move(text), std::move(marks));
}

}  // namespace

Value make_string(Budget& budget, std::string text, Marks marks) {
  budget.text(text.size());
  return charge_and_wrap(budget, std::move(text), std::move(marks));
}

Value make_string(Budget& budget, std::string text, bool marked) {
  Marks marks;
  if (marked && !text.empty()) marks.emplace_back(0, text.size());
  return make_string(budget, std::move(text), std::move(marks));
}

Value make_constant(std::string text) { return wrap(std::make_shared<Str>(), std::move(text), {}); }

Value substring(Budget& budget, const Value& string, size_t from, size_t to) {
  if (from == 0 && to == string.text().size()) return string;
  TextBuilder out(budget);
  out.append(string.str(), from, to);
  return out.take();
}

Value make_sequence(Budget& budget, Kind kind, std::vector<Value> items) {
  auto out = make_object<Sequence>(budget, items.size() * sizeof(Value));
  budget.step(items.size() / 4);
  int depth = 0;
  for (const Value& item : items)
    if (item.object()) depth = std::max(depth, item.object()->depth);
  if (++depth > kMaxValueDepth)
    fail("RecursionError", "a list is nested deeper than {} levels", kMaxValueDepth);
  out->depth = depth;
  out->items = std::move(items);
  return Value::object(kind, std::move(out));
}

Value make_dict(Interp& interp, std::vector<std::pair<Value, Value>> items) {
  Budget& budget = interp.budget();
  auto out = make_object<Dict>(budget, items.size() * (sizeof(items[0]) + 64));
  budget.step(items.size());
  int depth = 0;
  bool only_strings = true;
  for (auto& [key, value] : items) {
    size_t at = out->items.size();
    if (key.is_string()) {
      const auto found = out->index.find(key.text());
      if (found != out->index.end()) at = found->second;
    } else {
      require_hashable(interp, key);
      only_strings = false;
    }
    if (!only_strings && at == out->items.size() && !key.is_string()) {
      for (at = 0; at < out->items.size(); ++at)
        if (equal(interp, out->items[at].first, key)) break;
    }
    for (const Value* part : {&key, &value})
      if (part->object()) depth = std::max(depth, part->object()->depth);
    if (at < out->items.size()) {
      out->items[at].second = std::move(value);
      continue;
    }
    out->items.emplace_back(std::move(key), std::move(value));
    const Value& stored = out->items.back().first;
    if (stored.is_string()) out->index.emplace(stored.text(), at);
  }
  if (++depth > kMaxValueDepth)
    fail("RecursionError", "a dict is nested deeper than {} levels", kMaxValueDepth);
  out->depth = depth;
  return Value::object(Kind::kDict, std::move(out));
}

Value make_undefined(Budget& budget, std::string message, const char* type) {
  auto out = make_object<UndefinedInfo>(budget, message.size());
  out->message = std::move(message);
  out->type = type;
  return Value::object(Kind::kUndefined, std::move(out));
}

Value make_function(Budget& budget, std::string name, NativeFunction call, Value self) {
  auto out = make_object<Function>(budget);
  out->name = std::move(name);
  out->call = call;
  if (self.object()) out->depth = self.object()->depth + 1;
  if (out->depth > kMaxValueDepth)
    fail("RecursionError", "methods are nested deeper than {} levels", kMaxValueDepth);
  out->self = std::move(self);
  return Value::object(Kind::kFunction, std::move(out));
}

namespace {

bool is_plain_word(const Json& json) {
  if (!json.is_string()) return false;
  const auto& text = json.get_ref<const std::string&>();
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
}

}  // namespace

Value from_json(Interp& interp, const Json& json, bool marked) {
  Budget& budget = interp.budget();
  const DepthGuard guard(budget);
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      const auto number = json.get<uint64_t>();
      if (number <= static_cast<uint64_t>(INT64_MAX))
        return Value::integer(static_cast<int64_t>(number));
      auto out = make_object<BigInt>(budget, 20);
      out->digits = std::to_string(number);
      return Value::object(Kind::kBigInt, std::move(out));
    }
    case Json::value_t::number_float:
      return Value::number(json.get<double>());
    case Json::value_t::string: {
      // Not through make_string: a long message is no output of the template yet.
      const auto& text = json.get_ref<const std::string&>();
      std::string clean = utf8_first_error(text) == std::string::npos ? text : utf8_lossy(text);
      budget.step(1 + clean.size() / 64);
      Marks marks;
      if (marked && !clean.empty()) marks.emplace_back(0, clean.size());
      return charge_and_wrap(budget, std::move(clean), std::move(marks));
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(from_json(interp, item, marked));
      return make_list(budget, std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, value] : json.items()) {
        // A role is part of the template's own frame around a message, not of its content.
        const bool inner = marked && !(key == "role" && is_plain_word(value));
        items.emplace_back(from_json(interp, Json(key), marked), from_json(interp, value, inner));
      }
      return make_dict(interp, std::move(items));
    }
    case Json::value_t::null:
    case Json::value_t::binary:
    case Json::value_t::discarded:
      break;
  }
  return Value::none();
}

namespace {

struct SequenceIter final : Iter {
  Value sequence;
  size_t at = 0;
  bool next(Interp& interp, Value& out) override {
    const auto& items = sequence.as<Sequence>().items;
    if (at >= items.size()) return false;
    interp.budget().step();
    out = items[at++];
    return true;
  }
};

struct DictIter final : Iter {
  Value dict;
  char what = 'k';
  size_t at = 0;
  bool next(Interp& interp, Value& out) override {
    const auto& items = dict.as<Dict>().items;
    if (at >= items.size()) return false;
    interp.budget().step();
    const auto& [key, value] = items[at++];
    if (what == 'i') {
      out = make_tuple(interp.budget(), {key, value});
    } else {
      out = what == 'k' ? key : value;
    }
    return true;
  }
};

struct StringIter final : Iter {
  Value string;
  size_t at = 0;
  bool next(Interp& interp, Value& out) override {
    const std::string& text = string.text();
    if (at >= text.size()) return false;
    interp.budget().step();
    const size_t end = next_code_point(text, at);
    out = substring(interp.budget(), string, at, end);
    at = end;
    return true;
  }
};

struct RangeIter final : Iter {
  Value range;
  int64_t at = 0;
  bool next(Interp& interp, Value& out) override {
    const auto& r = range.as<Range>();
    if (at >= r.length) return false;
    interp.budget().step();
    out = Value::integer(r.start + at++ * r.step);
    return true;
  }
};

struct EmptyIter final : Iter {
  bool next(Interp&, Value&) override { return false; }
};

}  // namespace

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kRange:
    case Kind::kIterator:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

std::shared_ptr<Iter> iterate(Interp& interp, const Value& value) {
  Budget& budget = interp.budget();
  switch (value.kind()) {
    case Kind::kUndefined:
      return make_object<EmptyIter>(budget);
    case Kind::kString: {
      auto out = make_object<StringIter>(budget);
      out->string = value;
      return out;
    }
    case Kind::kList:
    case Kind::kTuple: {
      auto out = make_object<SequenceIter>(budget);
      out->sequence = value;
      out->depth = value.object()->depth;
      return out;
    }
    case Kind::kDict:
    case Kind::kView: {
      auto out = make_object<DictIter>(budget);
      out->dict = value.is_dict() ? value : value.as<View>().dict;
      if (!value.is_dict()) out->what = value.as<View>().what;
      out->depth = value.object()->depth;
      return out;
    }
    case Kind::kRange: {
      auto out = make_object<RangeIter>(budget);
      out->range = value;
      return out;
    }
    case Kind::kIterator:
      return std::static_pointer_cast<Iter>(value.object());
    case Kind::kLoop:
      fail("TypeError", "a loop cannot be iterated over");
    default:
      fail("TypeError", "'{}' object is not iterable", type_name(value));
  }
}

std::vector<Value> collect(Interp& interp, const Value& value) {
  if (value.is_sequence()) {
    const auto& items = value.as<Sequence>().items;
    interp.budget().step(items.size());
    interp.budget().take(items.size() * sizeof(Value));
    interp.budget().release(items.size() * sizeof(Value));
    return items;
  }
  std::vector<Value> out;
  const auto iter = iterate(interp, value);
  Value item;
  size_t charged = 0;
  // The vector itself is only charged once it becomes a list; hold its size meanwhile.
  struct Hold {
    Budget& budget;
    size_t& bytes;
    ~Hold() { budget.release(bytes); }
  } hold{interp.budget(), charged};
  while (iter->next(interp, item)) {
    interp.budget().take(sizeof(Value));
    charged += sizeof(Value);
    out.push_back(std::move(item));
  }
  return out;
}

bool has_length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kRange:
      return true;
    default:
      return false;
  }
}

size_t length_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return value.str().length;
    case Kind::kList:
    case Kind::kTuple:
      return value.as<Sequence>().items.size();
    case Kind::kDict:
      return value.as<Dict>().items.size();
    case Kind::kView:
      return value.as<View>().dict.as<Dict>().items.size();
    case Kind::kRange:
      return static_cast<size_t>(value.as<Range>().length);
    default:
      fail("TypeError", "object of type '{}' has no len()", type_name(value));
  }
}

const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kBigInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.str().markup ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kView:
      switch (value.as<View>().what) {
        case 'k':
          return "dict_keys";
        case 'v':
          return "dict_values";
        default:
          return "dict_items";
      }
    case Kind::kRange:
      return "range";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kMacro:
      return "Macro";
    case Kind::kFunction:
      return value.as<Function>().self.is_undefined() ? "function" : "builtin_function_or_method";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCycler:
      return "Cycler";
    case Kind::kJoiner:
      return "Joiner";
  }
  return "object";
}

}  // namespace decant::jinja
