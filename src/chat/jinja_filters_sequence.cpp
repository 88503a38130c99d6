#include <algorithm>
#include <iterator>

#include "chat/jinja_filters.h"
#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_parser.h"
#include "chat/jinja_sort.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

/// Follows a path like "a.b.0" from an item, as jinja2's make_attrgetter does.
class AttributeGetter {
 public:
  AttributeGetter(Interp& interp, const Value* attribute, const Value* otherwise = nullptr)
      : otherwise_(otherwise != nullptr && !otherwise->is_none() ? *otherwise : Value()),
        has_otherwise_(otherwise != nullptr && !otherwise->is_none()) {
    if (attribute == nullptr || attribute->is_none()) return;
    if (!attribute->is_string()) {
      parts_.push_back(*attribute);
      return;
    }
    const std::string& text = attribute->text();
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find('.', at), text.size());
      const std::string part = text.substr(at, end - at);
      const bool number = !part.empty() && part.size() < 18 &&
                          part.find_first_not_of("0123456789") == std::string::npos;
      parts_.push_back(number ? Value::integer(std::stoll(part))
                              : make_string(interp.budget(), part));
      at = end + 1;
    }
  }

  Value operator()(Interp& interp, const Value& item) const {
    Value out = item;
    for (const Value& part : parts_) {
      out = get_item(interp, out, part);
      if (has_otherwise_ && out.is_undefined()) out = otherwise_;
    }
    return out;
  }
  bool empty() const { return parts_.empty(); }

 private:
  std::vector<Value> parts_;
  Value otherwise_;
  bool has_otherwise_;
};

Value fold_case(Interp& interp, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  interp.budget().text(value.text().size());
  return make_string(interp.budget(), to_lower(value.text()));
}

bool flag(const Args& args, size_t index, std::string_view name) {
  const Value* value = args.get(index, name);
  return value != nullptr && truthy(*value);
}

Value wrap_iter(Interp& interp, std::shared_ptr<Iter> iter, std::initializer_list<Value> held) {
  int depth = 0;
  for (const Value& value : held)
    if (value.object()) depth = std::max(depth, value.object()->depth);
  (void)interp;
  if (++depth > kMaxValueDepth)
    fail("RecursionError", "iterators are nested deeper than {} levels", kMaxValueDepth);
  iter->depth = depth;
  return Value::object(Kind::kIterator, std::move(iter));
}

/// An iterator over items that are already there.
Value iterator_of(Interp& interp, std::vector<Value> items) {
  const Value list = make_list(interp.budget(), std::move(items));
  return wrap_iter(interp, iterate(interp, list), {list});
}

Value list(Interp& interp, const Value& value, const Args& args) {
  args.check("list", 0, 0);
  return make_list(interp.budget(), collect(interp, value));
}

Value length(Interp&, const Value& value, const Args& args) {
  args.check("length", 0, 0);
  return Value::integer(static_cast<int64_t>(length_of(value)));
}

Value first(Interp& interp, const Value& value, const Args& args) {
  args.check("first", 0, 0);
  Value out;
  if (iterate(interp, value)->next(interp, out)) return out;
  return make_undefined(interp.budget(), "No first item, sequence was empty.");
}

Value last(Interp& interp, const Value& value, const Args& args) {
  args.check("last", 0, 0);
  if (value.is(Kind::kIterator)) fail("TypeError", "'generator' object is not reversible");
  if (value.is_sequence() && length_of(value) > 0) return value.as<Sequence>().items.back();
  auto items = collect(interp, value);
  if (!items.empty()) return items.back();
  return make_undefined(interp.budget(), "No last item, sequence was empty.");
}

Value join(Interp& interp, const Value& value, const Args& args) {
  args.check("join", 0, 2, {"d", "attribute"});
  const Value* separator_arg = args.get(0, "d");
  const AttributeGetter getter(interp, args.get(1, "attribute"));
  const Value separator =
      separator_arg != nullptr ? to_str(interp, *separator_arg) : make_string(interp.budget(), "");
  TextBuilder out(interp.budget());
  const auto iter = iterate(interp, value);
  Value item;
  for (bool is_first = true; iter->next(interp, item); is_first = false) {
    if (!is_first) out.append(separator.str());
    append_str(interp, out, getter(interp, item));
  }
  return out.take();
}

Value reverse(Interp& interp, const Value& value, const Args& args) {
  args.check("reverse", 0, 0);
  if (value.is_string()) {
    const Value step = Value::integer(-1);
    return get_slice(interp, value, Value::none(), Value::none(), step);
  }
  if (!is_iterable(value)) fail("FilterArgumentError", "argument must be iterable");
  auto items = collect(interp, value);
  std::reverse(items.begin(), items.end());
  // Python cannot walk an iterator backwards: jinja2 then makes a list.
  if (value.is(Kind::kIterator)) return make_list(interp.budget(), std::move(items));
  return iterator_of(interp, std::move(items));
}

Value items(Interp& interp, const Value& value, const Args& args) {
  args.check("items", 0, 0);
  if (value.is_undefined()) return iterator_of(interp, {});
  if (!value.is_dict()) fail("TypeError", "Can only get item pairs from a mapping.");
  std::vector<Value> out;
  for (const auto& [key, item] : value.as<Dict>().items)
    out.push_back(make_tuple(interp.budget(), {key, item}));
  return iterator_of(interp, std::move(out));
}

/// Sorts by keys computed once; stable, and descending order keeps equal items in their order.
void sort_by(Interp& interp, std::vector<Value>& values, const std::vector<Value>& keys,
             bool descending) {
  interp.budget().step(values.size() * 8);
  const auto order = stable_order(values.size(), [&](size_t a, size_t b) {
    return descending ? less(interp, keys[b], keys[a]) : less(interp, keys[a], keys[b]);
  });
  std::vector<Value> out;
  out.reserve(values.size());
  for (size_t i : order) out.push_back(values[i]);
  values = std::move(out);
}

Value sort(Interp& interp, const Value& value, const Args& args) {
  args.check("sort", 0, 3, {"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = flag(args, 1, "case_sensitive");
  const Value* attribute = args.get(2, "attribute");
  std::vector<AttributeGetter> getters;
  if (attribute != nullptr && attribute->is_string()) {
    const std::string& text = attribute->text();
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      const Value part = make_string(interp.budget(), text.substr(at, end - at));
      getters.emplace_back(interp, &part);
      at = end + 1;
    }
  } else {
    getters.emplace_back(interp, attribute);
  }
  auto values = collect(interp, value);
  std::vector<Value> keys;
  for (const Value& item : values) {
    std::vector<Value> key;
    key.reserve(getters.size());
    for (const auto& getter : getters)
      key.push_back(fold_case(interp, getter(interp, item), case_sensitive));
    keys.push_back(make_list(interp.budget(), std::move(key)));
  }
  sort_by(interp, values, keys, flag(args, 0, "reverse"));
  return make_list(interp.budget(), std::move(values));
}

Value dictsort(Interp& interp, const Value& value, const Args& args) {
  args.check("dictsort", 0, 3, {"case_sensitive", "by", "reverse"});
  const Value* by = args.get(1, "by");
  const std::string what = by != nullptr ? require_str(*by, "dictsort").text : "key";
  if (what != "key" && what != "value")
    fail("FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
  require_defined(value);
  if (!value.is_dict())
    fail("AttributeError", "'{}' object has no attribute 'items'", type_name(value));
  std::vector<Value> values, keys;
  for (const auto& [key, item] : value.as<Dict>().items) {
    values.push_back(make_tuple(interp.budget(), {key, item}));
    keys.push_back(fold_case(interp, what == "key" ? key : item, flag(args, 0, "case_sensitive")));
  }
  sort_by(interp, values, keys, flag(args, 2, "reverse"));
  return make_list(interp.budget(), std::move(values));
}

Value unique(Interp& interp, const Value& value, const Args& args) {
  args.check("unique", 0, 2, {"case_sensitive", "attribute"});
  const AttributeGetter getter(interp, args.get(1, "attribute"));
  std::vector<Value> out, seen;
  std::unordered_map<std::string_view, size_t> strings;
  for (const Value& item : collect(interp, value)) {
    const Value key = fold_case(interp, getter(interp, item), flag(args, 0, "case_sensitive"));
    bool known;
    if (key.is_string()) {
      known = strings.contains(key.text());
    } else {
      require_hashable(interp, key);
      known = std::any_of(seen.begin(), seen.end(),
                          [&](const Value& other) { return equal(interp, other, key); });
    }
    if (known) continue;
    seen.push_back(key);
    if (key.is_string()) strings.emplace(seen.back().text(), 0);
    out.push_back(item);
  }
  return iterator_of(interp, std::move(out));
}

template <bool Largest>
Value extreme(Interp& interp, const Value& value, const Args& args) {
  args.check("min", 0, 2, {"case_sensitive", "attribute"});
  const AttributeGetter getter(interp, args.get(1, "attribute"));
  const auto key_of = [&](const Value& item) {
    return fold_case(interp, getter(interp, item), flag(args, 0, "case_sensitive"));
  };
  const auto iter = iterate(interp, value);
  Value best, item;
  if (!iter->next(interp, best))
    return make_undefined(interp.budget(), "No aggregated item, sequence was empty.");
  Value best_key = key_of(best);
  while (iter->next(interp, item)) {
    Value key = key_of(item);
    if (!(Largest ? less(interp, best_key, key) : less(interp, key, best_key))) continue;
    best = item;
    best_key = std::move(key);
  }
  return best;
}

Value sum(Interp& interp, const Value& value, const Args& args) {
  args.check("sum", 0, 2, {"attribute", "start"});
  const AttributeGetter getter(interp, args.get(0, "attribute"));
  const Value* start = args.get(1, "start");
  Value out = start != nullptr ? *start : Value::integer(0);
  if (out.is_string()) fail("TypeError", "sum() can't sum strings [use ''.join(seq) instead]");
  const auto iter = iterate(interp, value);
  Value item;
  while (iter->next(interp, item)) out = binary(interp, Op::kAdd, out, getter(interp, item));
  return out;
}

Value batch(Interp& interp, const Value& value, const Args& args) {
  args.check("batch", 1, 2, {"linecount", "fill_with"});
  const int64_t size = require_int(*args.get(0, "linecount"), "batch");
  const Value* fill = args.get(1, "fill_with");
  std::vector<Value> out, row;
  for (const Value& item : collect(interp, value)) {
    if (static_cast<int64_t>(row.size()) == size)
      out.push_back(make_list(interp.budget(), std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (fill != nullptr && !fill->is_none()) {
      for (auto i = static_cast<int64_t>(row.size()); i < size; ++i) {
        interp.budget().step(4);
        row.push_back(*fill);
      }
    }
    out.push_back(make_list(interp.budget(), std::move(row)));
  }
  return iterator_of(interp, std::move(out));
}

Value slice(Interp& interp, const Value& value, const Args& args) {
  args.check("slice", 1, 2, {"slices", "fill_with"});
  const int64_t slices = require_int(*args.get(0, "slices"), "slice");
  const Value* fill = args.get(1, "fill_with");
  const auto items = collect(interp, value);
  if (slices == 0) fail("ZeroDivisionError", "integer division or modulo by zero");
  std::vector<Value> out;
  const auto total = static_cast<int64_t>(items.size());
  auto at = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    interp.budget().step(8);
    const bool extra = i < total % slices;
    const auto end = at + total / slices + (extra ? 1 : 0);
    std::vector<Value> row(at, end);
    if (fill != nullptr && !fill->is_none() && !extra) row.push_back(*fill);
    out.push_back(make_list(interp.budget(), std::move(row)));
    at = end;
  }
  return iterator_of(interp, std::move(out));
}

Value groupby(Interp& interp, const Value& value, const Args& args) {
  args.check("groupby", 1, 3, {"attribute", "default", "case_sensitive"});
  const AttributeGetter getter(interp, args.get(0, "attribute"), args.get(1, "default"));
  const bool case_sensitive = flag(args, 2, "case_sensitive");
  auto values = collect(interp, value);
  const auto key_of = [&](const Value& item) {
    return fold_case(interp, getter(interp, item), case_sensitive);
  };
  std::vector<Value> keys;
  keys.reserve(values.size());
  for (const Value& item : values) keys.push_back(key_of(item));
  sort_by(interp, values, keys, false);
  std::vector<Value> out;
  for (size_t at = 0; at < values.size();) {
    const Value key = key_of(values[at]);
    std::vector<Value> group;
    const Value shown = case_sensitive ? key : getter(interp, values[at]);
    while (at < values.size() && equal(interp, key_of(values[at]), key))
      group.push_back(values[at++]);
    if (group.empty()) group.push_back(values[at++]);  // nan is not equal to itself
    const Value pair =
        make_tuple(interp.budget(), {shown, make_list(interp.budget(), std::move(group))});
    pair.as<Sequence>().group = true;
    out.push_back(pair);
  }
  return make_list(interp.budget(), std::move(out));
}

Value attr(Interp& interp, const Value& value, const Args& args) {
  args.check("attr", 1, 1, {"name"});
  const Value& name = *args.get(0, "name");
  require_str(name, "attr");
  require_defined(value);
  Value out;
  if (find_attribute(interp, value, name.text(), out)) return out;
  return make_undefined(interp.budget(), fmt::format("'{} object' has no attribute '{}'",
                                                     type_name(value), name.text()));
}

// --- map, select, reject and their attr forms: lazy, as in Python

struct MapIter final : Iter {
  std::shared_ptr<Iter> source;
  Value held;  // keeps the depth of the source honest
  FilterFunction filter = nullptr;
  Args args;
  std::unique_ptr<AttributeGetter> getter;
  bool next(Interp& interp, Value& out) override {
    const DepthGuard guard(interp.budget());
    Value item;
    if (!source->next(interp, item)) return false;
    interp.budget().step();
    out = getter ? (*getter)(interp, item) : filter(interp, item, args);
    return true;
  }
};

struct SelectIter final : Iter {
  std::shared_ptr<Iter> source;
  FilterFunction test = nullptr;
  Args args;
  std::unique_ptr<AttributeGetter> getter;
  bool wanted = true;
  bool next(Interp& interp, Value& out) override {
    const DepthGuard guard(interp.budget());
    while (source->next(interp, out)) {
      interp.budget().step();
      const Value subject = getter ? (*getter)(interp, out) : out;
      if (truthy(test != nullptr ? test(interp, subject, args) : subject) == wanted) return true;
    }
    return false;
  }
};

int depth_of(const Args& args) {
  int depth = 0;
  for (const Value& value : args.positional)
    if (value.object()) depth = std::max(depth, value.object()->depth);
  for (const auto& [key, value] : args.keywords)
    if (value.object()) depth = std::max(depth, value.object()->depth);
  return depth;
}

Value finish_iter(const std::shared_ptr<Iter>& iter, const Value& source, const Args& args) {
  const int depth = 1 + std::max(source.object() ? source.object()->depth : 0, depth_of(args));
  if (depth > kMaxValueDepth)
    fail("RecursionError", "iterators are nested deeper than {} levels", kMaxValueDepth);
  iter->depth = depth;
  return Value::object(Kind::kIterator, iter);
}

Value map(Interp& interp, const Value& value, const Args& args) {
  if (!truthy(value)) return iterator_of(interp, {});
  auto out = make_object<MapIter>(interp.budget());
  const Value* attribute = args.keyword("attribute");
  if (args.positional.empty() && attribute != nullptr) {
    for (const auto& [key, item] : args.keywords)
      if (key != "attribute" && key != "default")
        fail("FilterArgumentError", "Unexpected keyword argument '{}'", key);
    out->getter = std::make_unique<AttributeGetter>(interp, attribute, args.keyword("default"));
  } else {
    if (args.positional.empty()) fail("FilterArgumentError", "map requires a filter argument");
    const std::string& name = require_str(args.positional[0], "map").text;
    out->filter = find_filter(name);
    if (out->filter == nullptr) fail("TemplateRuntimeError", "No filter named '{}'.", name);
    out->args.positional.assign(args.positional.begin() + 1, args.positional.end());
    out->args.keywords = args.keywords;
  }
  out->source = iterate(interp, value);
  return finish_iter(out, value, args);
}

template <bool Wanted, bool ByAttribute>
Value select(Interp& interp, const Value& value, const Args& args) {
  if (!truthy(value)) return iterator_of(interp, {});
  auto out = make_object<SelectIter>(interp.budget());
  out->wanted = Wanted;
  size_t at = 0;
  if (ByAttribute) {
    if (args.positional.empty())
      fail("FilterArgumentError", "Missing parameter for attribute name");
    out->getter = std::make_unique<AttributeGetter>(interp, &args.positional[at++]);
  }
  if (at < args.positional.size()) {
    const std::string& name = require_str(args.positional[at++], "select").text;
    out->test = find_test(name);
    if (out->test == nullptr) fail("TemplateRuntimeError", "No test named '{}'.", name);
    out->args.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(at),
                                args.positional.end());
    out->args.keywords = args.keywords;
  }
  out->source = iterate(interp, value);
  return finish_iter(out, value, args);
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"attr", attr},
    {"batch", batch},
    {"count", length},
    {"dictsort", dictsort},
    {"first", first},
    {"groupby", groupby},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length},
    {"list", list},
    {"map", map},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reject", select<false, false>},
    {"rejectattr", select<false, true>},
    {"reverse", reverse},
    {"select", select<true, false>},
    {"selectattr", select<true, true>},
    {"slice", slice},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

FilterFunction find_sequence_filter(std::string_view name) {
  const auto* found =
      std::lower_bound(std::begin(kFilters), std::end(kFilters), name,
                       [](const auto& row, std::string_view x) { return row.first < x; });
  return found != std::end(kFilters) && found->first == name ? found->second : nullptr;
}

}  // namespace decant::jinja
