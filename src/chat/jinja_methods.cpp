#include "chat/jinja_methods.h"

#include <algorithm>

#include "chat/jinja_eval.h"
#include "chat/jinja_ops.h"

namespace decant::jinja {
namespace {

template <char What>
Value dict_view(Interp& interp, const Value& self, const Args& args) {
  args.check("this method", 0, 0);
  auto out = make_object<View>(interp.budget());
  out->dict = self;
  out->what = What;
  out->depth = self.object()->depth;
  return Value::object(Kind::kView, std::move(out));
}

Value dict_get(Interp& interp, const Value& self, const Args& args) {
  args.check("get", 1, 2);
  const Value& key = args.positional[0];
  Value otherwise = args.positional.size() > 1 ? args.positional[1] : Value::none();
  const auto& dict = self.as<Dict>();
  if (key.is_string()) {
    const Value* found = dict.find(key.text());
    return found != nullptr ? *found : otherwise;
  }
  require_hashable(interp, key);
  for (const auto& [name, value] : dict.items)
    if (equal(interp, name, key)) return value;
  return otherwise;
}

Value copy(Interp&, const Value& self, const Args& args) {
  args.check("copy", 0, 0);
  return self;  // nothing in a template can change it
}

Value sequence_index(Interp& interp, const Value& self, const Args& args) {
  args.check("index", 1, 3);
  const auto items = collect(interp, self);
  for (size_t i = 0; i < items.size(); ++i)
    if (equal(interp, items[i], args.positional[0])) return Value::integer(static_cast<int64_t>(i));
  fail("ValueError", "the value is not in the list");
}

Value sequence_count(Interp& interp, const Value& self, const Args& args) {
  args.check("count", 1, 1);
  int64_t out = 0;
  for (const Value& item : collect(interp, self)) out += equal(interp, item, args.positional[0]);
  return Value::integer(out);
}

Value cycler_next(Interp&, const Value& self, const Args&) {
  auto& cycler = self.as<Cycler>();
  const Value out = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return out;
}

Value cycler_reset(Interp&, const Value& self, const Args&) {
  self.as<Cycler>().position = 0;
  return Value::none();
}

Value loop_cycle(Interp& interp, const Value& self, const Args& args) {
  return interp.loop_cycle(self, args);
}

Value loop_changed(Interp& interp, const Value& self, const Args& args) {
  return Value::boolean(interp.loop_changed(self, args));
}

constexpr Method kDictMethods[] = {{"copy", copy},
                                   {"get", dict_get},
                                   {"items", dict_view<'i'>},
                                   {"keys", dict_view<'k'>},
                                   {"values", dict_view<'v'>}};
constexpr Method kListMethods[] = {
    {"copy", copy}, {"count", sequence_count}, {"index", sequence_index}};
constexpr Method kTupleMethods[] = {{"count", sequence_count}, {"index", sequence_index}};
constexpr Method kCyclerMethods[] = {{"next", cycler_next}, {"reset", cycler_reset}};
constexpr Method kLoopMethods[] = {{"changed", loop_changed}, {"cycle", loop_cycle}};

constexpr std::string_view kDictUnsafe[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListUnsafe[] = {"append", "clear",  "extend",  "insert",
                                            "pop",    "remove", "reverse", "sort"};
// What every Python object has; reaching for one is an attack on the sandbox.
constexpr std::string_view kDunders[] = {
    "__class__",  "__delattr__",   "__dir__",         "__doc__",
    "__eq__",     "__format__",    "__ge__",          "__getattribute__",
    "__gt__",     "__hash__",      "__init__",        "__init_subclass__",
    "__le__",     "__lt__",        "__ne__",          "__new__",
    "__reduce__", "__reduce_ex__", "__repr__",        "__setattr__",
    "__sizeof__", "__str__",       "__subclasshook__"};

bool bind(Interp& interp, NativeFunction method, const Value& object, std::string_view name,
          Value& out) {
  if (method == nullptr) return false;
  out = make_function(interp.budget(), std::string(name), method, object);
  return true;
}

template <size_t N>
bool listed(const std::string_view (&table)[N], std::string_view name) {
  return std::find(std::begin(table), std::end(table), name) != std::end(table);
}

bool unsafe(Interp& interp, const Value& object, std::string_view name, Value& out) {
  out = make_undefined(
      interp.budget(),
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)),
      "SecurityError");
  return true;
}

}  // namespace

bool find_attribute(Interp& interp, const Value& object, std::string_view name, Value& out) {
  if (name.starts_with("__") && listed(kDunders, name)) return unsafe(interp, object, name, out);
  switch (object.kind()) {
    case Kind::kString:
      return bind(interp, find_string_method(name), object, name, out);
    case Kind::kDict:
      if (listed(kDictUnsafe, name)) return unsafe(interp, object, name, out);
      return bind(interp, find_method(kDictMethods, name), object, name, out);
    case Kind::kList:
      if (listed(kListUnsafe, name)) return unsafe(interp, object, name, out);
      return bind(interp, find_method(kListMethods, name), object, name, out);
    case Kind::kTuple: {
      const auto& tuple = object.as<Sequence>();
      if (tuple.group && (name == "grouper" || name == "list")) {
        out = tuple.items[name == "list" ? 1 : 0];
        return true;
      }
      return bind(interp, find_method(kTupleMethods, name), object, name, out);
    }
    case Kind::kNamespace:
      for (const auto& [key, value] : object.as<Namespace>().items) {
        interp.budget().step();
        if (!key.is_string() || key.text() != name) continue;
        out = value;
        return true;
      }
      return false;
    case Kind::kLoop:
      return interp.loop_attribute(object, name, out) ||
             bind(interp, find_method(kLoopMethods, name), object, name, out);
    case Kind::kCycler:
      if (name == "current") {
        out = object.as<Cycler>().items[object.as<Cycler>().position];
        return true;
      }
      return bind(interp, find_method(kCyclerMethods, name), object, name, out);
    case Kind::kMacro: {
      const auto& stmt = *object.as<Macro>().stmt;
      if (name == "name") {
        out = make_string(interp.budget(), stmt.name);
      } else if (name == "arguments") {
        std::vector<Value> names;
        names.reserve(stmt.params.size());
        for (const auto& param : stmt.params)
          names.push_back(make_string(interp.budget(), param->name));
        out = make_tuple(interp.budget(), std::move(names));
      } else if (name == "caller" || name == "catch_kwargs" || name == "catch_varargs") {
        const Scope& scope = stmt.scope;
        out = Value::boolean((name == "caller"         ? scope.slot_of_caller
                              : name == "catch_kwargs" ? scope.slot_of_kwargs
                                                       : scope.slot_of_varargs) >= 0);
      } else {
        return false;
      }
      return true;
    }
    case Kind::kRange:
      if (name != "start" && name != "stop" && name != "step")
        return bind(interp, find_method(kTupleMethods, name), object, name, out);
      out = Value::integer(name == "start"  ? object.as<Range>().start
                           : name == "stop" ? object.as<Range>().stop
                                            : object.as<Range>().step);
      return true;
    case Kind::kBool:
    case Kind::kInt:
      if (name != "real" && name != "numerator") return false;
      out = Value::integer(object.as_int());
      return true;
    default:
      return false;
  }
}

}  // namespace decant::jinja
