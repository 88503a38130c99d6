#include <algorithm>

#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

/// object[key], or false where Python raises TypeError or LookupError.
bool subscript(Interp& interp, const Value& object, const Value& key, Value& out) {
  if (object.is_dict()) {
    const auto& dict = object.as<Dict>();
    if (key.is_string()) {
      const Value* found = dict.find(key.text());
      if (found != nullptr) out = *found;
      return found != nullptr;
    }
    for (const auto& [name, value] : dict.items) {
      if (!equal(interp, name, key)) continue;
      out = value;
      return true;
    }
    return false;
  }
  if (!key.is_integral()) return false;
  int64_t index = key.as_int();
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange)) return false;
  const auto length = static_cast<int64_t>(length_of(object));
  if (index < 0) index += length;
  if (index < 0 || index >= length) return false;
  if (object.is_sequence()) {
    out = object.as<Sequence>().items[static_cast<size_t>(index)];
  } else if (object.is_string()) {
    const Str& string = object.str();
    size_t at = static_cast<size_t>(index);
    if (!string.ascii()) {
      interp.budget().step(at / 16);
      at = offset_of(string.text, at);
    }
    out = substring(interp.budget(), object, at, next_code_point(string.text, at));
  } else {
    const auto& range = object.as<Range>();
    out = Value::integer(range.start + index * range.step);
  }
  return true;
}

Value undefined_member(Interp& interp, const Value& object, const Value& name) {
  std::string type = object.is_none() ? "None" : fmt::format("{} object", type_name(object));
  switch (object.kind()) {
    case Kind::kNamespace:
    case Kind::kCycler:
    case Kind::kJoiner:
      type = "jinja2.utils." + type;
      break;
    case Kind::kMacro:
    case Kind::kLoop:
      type = "jinja2.runtime." + type;
      break;
    default:
      break;
  }
  TextBuilder shown(interp.budget());
  append_repr(interp, shown, name);
  const std::string text = shown.text().substr(0, 200);
  return make_undefined(interp.budget(), name.is_string()
                                             ? fmt::format("'{}' has no attribute {}", type, text)
                                             : fmt::format("{} has no element {}", type, text));
}

}  // namespace

Value get_attribute(Interp& interp, const Value& object, const Value& name) {
  if (object.is_undefined()) require_defined(object);
  Value out;
  if (find_attribute(interp, object, name.text(), out)) return out;
  if (subscript(interp, object, name, out)) return out;
  return undefined_member(interp, object, name);
}

Value get_item(Interp& interp, const Value& object, const Value& key) {
  if (object.is_undefined()) require_defined(object);
  Value out;
  if (subscript(interp, object, key, out)) return out;
  if (key.is_string() && find_attribute(interp, object, key.text(), out)) return out;
  return undefined_member(interp, object, key);
}

Value get_slice(Interp& interp, const Value& object, const Value& start, const Value& stop,
                const Value& step) {
  require_defined(object);
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange))
    // Python raises TypeError (or KeyError) inside getitem, which makes it undefined.
    return make_undefined(interp.budget(),
                          fmt::format("{} object has no element slice", type_name(object)));
  const auto length = static_cast<int64_t>(length_of(object));
  for (const Value* part : {&start, &stop, &step})
    if (!part->is_none() && !part->is_integral())
      return make_undefined(interp.budget(), "slice indices must be integers or None");
  const int64_t by = step.is_none() ? 1 : step.as_int();
  if (by == 0) fail("ValueError", "slice step cannot be zero");
  const int64_t low = by < 0 ? -1 : 0, high = by < 0 ? length - 1 : length;
  const auto clamp = [&](const Value& part, int64_t otherwise) {
    if (part.is_none()) return otherwise;
    int64_t at = part.as_int();
    if (at < 0) at = at < -length ? low - 1 : at + length;
    return std::clamp(at, low, high);
  };
  const int64_t from = clamp(start, by < 0 ? high : low), to = clamp(stop, by < 0 ? low : high);
  Budget& budget = interp.budget();
  if (object.is(Kind::kRange)) {
    const auto& range = object.as<Range>();
    auto out = make_object<Range>(budget);
    // A range has at most 100000 items, but its step and the slice's can be anything.
    if (__builtin_mul_overflow(range.step, by, &out->step) ||
        __builtin_mul_overflow(to, range.step, &out->stop) ||
        __builtin_add_overflow(range.start, out->stop, &out->stop) ||
        __builtin_mul_overflow(from, range.step, &out->start) ||
        __builtin_add_overflow(range.start, out->start, &out->start))
      overflow();
    const int64_t distance = by > 0 ? to - from : from - to;
    const int64_t stride = by > 0 ? by : by == INT64_MIN ? INT64_MAX : -by;
    out->length = distance <= 0 ? 0 : (distance - 1) / stride + 1;
    return Value::object(Kind::kRange, std::move(out));
  }
  if (by == 1 && object.is_string()) {
    const Str& string = object.str();
    if (from >= to) return make_string(budget, "");
    if (string.ascii())
      return substring(budget, object, static_cast<size_t>(from), static_cast<size_t>(to));
    budget.step(string.text.size() / 64);
    const size_t first = offset_of(string.text, static_cast<size_t>(from));
    const size_t size =
        offset_of(std::string_view(string.text).substr(first), static_cast<size_t>(to - from));
    return substring(budget, object, first, first + size);
  }
  std::vector<int64_t> picks;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    picks.push_back(i);
    budget.step();
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  if (object.is_string()) {
    const Str& string = object.str();
    std::vector<size_t> offsets;
    budget.step(string.text.size() / 8);
    for (size_t i = 0; i < string.text.size(); i = next_code_point(string.text, i))
      offsets.push_back(i);
    offsets.push_back(string.text.size());
    TextBuilder out(budget);
    for (int64_t i : picks)
      out.append(string, offsets[static_cast<size_t>(i)], offsets[static_cast<size_t>(i) + 1]);
    return out.take();
  }
  const auto& items = object.as<Sequence>().items;
  std::vector<Value> out;
  out.reserve(picks.size());
  for (int64_t i : picks) out.push_back(items[static_cast<size_t>(i)]);
  return make_sequence(budget, object.kind(), std::move(out));
}

}  // namespace decant::jinja
