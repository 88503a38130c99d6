#include <algorithm>
#include <cmath>
#include <iterator>

#include "chat/jinja_eval.h"
#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_parser.h"

namespace decant::jinja {
namespace {

const Value& argument(const Args& args) {
  args.check("this test", 1, 1, {"other"});
  return *args.get(0, "other");
}

template <bool (*Test)(const Value&)>
Value simple(Interp&, const Value& value, const Args& args) {
  args.check("this test", 0, 0);
  return Value::boolean(Test(value));
}

bool is_defined(const Value& value) { return !value.is_undefined(); }
bool is_undefined(const Value& value) { return value.is_undefined(); }
bool is_none(const Value& value) { return value.is_none(); }
bool is_boolean(const Value& value) { return value.is(Kind::kBool); }
bool is_true(const Value& value) { return value.is(Kind::kBool) && value.as_bool(); }
bool is_false(const Value& value) { return value.is(Kind::kBool) && !value.as_bool(); }
bool is_integer(const Value& value) { return value.is(Kind::kInt) || value.is(Kind::kBigInt); }
bool is_float(const Value& value) { return value.is(Kind::kFloat); }
bool is_string(const Value& value) { return value.is_string(); }
bool is_mapping(const Value& value) { return value.is_dict(); }
bool is_escaped(const Value& value) { return value.is_string() && value.str().markup; }
bool is_sequence(const Value& value) {
  return has_length(value) && !value.is(Kind::kView);  // undefined included: it has both methods
}
bool is_callable(const Value& value) {
  // Undefined objects have a __call__, if only to fail with.
  return value.is(Kind::kFunction) || value.is(Kind::kMacro) || value.is(Kind::kJoiner) ||
         value.is(Kind::kLoop) || value.is_undefined();
}

template <Op Operator>
Value compared(Interp& interp, const Value& value, const Args& args) {
  return Value::boolean(compare(interp, Operator, value, argument(args)));
}

template <int64_t Remainder>
Value parity(Interp& interp, const Value& value, const Args& args) {
  args.check("this test", 0, 0);
  return Value::boolean(
      equal(interp, binary(interp, Op::kMod, value, Value::integer(2)), Value::integer(Remainder)));
}

Value divisible(Interp& interp, const Value& value, const Args& args) {
  args.check("divisibleby", 1, 1, {"num"});
  return Value::boolean(
      equal(interp, binary(interp, Op::kMod, value, *args.get(0, "num")), Value::integer(0)));
}

Value is_same(Interp&, const Value& value, const Args& args) {
  return Value::boolean(same(value, argument(args)));
}

Value is_in(Interp& interp, const Value& value, const Args& args) {
  args.check("in", 1, 1, {"seq"});
  return Value::boolean(contains(interp, *args.get(0, "seq"), value));
}

Value is_iterable_test(Interp&, const Value& value, const Args& args) {
  args.check("iterable", 0, 0);
  return Value::boolean(is_iterable(value));
}

Value is_filter(Interp&, const Value& value, const Args&) {
  return Value::boolean(value.is_string() && find_filter(value.text()) != nullptr);
}

Value is_test(Interp&, const Value& value, const Args&) {
  return Value::boolean(value.is_string() && find_test(value.text()) != nullptr);
}

template <bool Lower>
Value is_case(Interp& interp, const Value& value, const Args& args) {
  args.check("this test", 0, 0);
  Value method;
  const Value text = to_str(interp, value);
  find_attribute(interp, text, Lower ? "islower" : "isupper", method);
  return interp.call(method, {});
}

constexpr std::pair<std::string_view, FilterFunction> kTests[] = {
    {"!=", compared<Op::kNe>},
    {"<", compared<Op::kLt>},
    {"<=", compared<Op::kLe>},
    {"==", compared<Op::kEq>},
    {">", compared<Op::kGt>},
    {">=", compared<Op::kGe>},
    {"boolean", simple<is_boolean>},
    {"callable", simple<is_callable>},
    {"defined", simple<is_defined>},
    {"divisibleby", divisible},
    {"eq", compared<Op::kEq>},
    {"equalto", compared<Op::kEq>},
    {"escaped", simple<is_escaped>},
    {"even", parity<0>},
    {"false", simple<is_false>},
    {"filter", is_filter},
    {"float", simple<is_float>},
    {"ge", compared<Op::kGe>},
    {"greaterthan", compared<Op::kGt>},
    {"gt", compared<Op::kGt>},
    {"in", is_in},
    {"integer", simple<is_integer>},
    {"iterable", is_iterable_test},
    {"le", compared<Op::kLe>},
    {"lessthan", compared<Op::kLt>},
    {"lower", is_case<true>},
    {"lt", compared<Op::kLt>},
    {"mapping", simple<is_mapping>},
    {"ne", compared<Op::kNe>},
    {"none", simple<is_none>},
    {"number", simple<is_number>},
    {"odd", parity<1>},
    {"sameas", is_same},
    {"sequence", simple<is_sequence>},
    {"string", simple<is_string>},
    {"test", is_test},
    {"true", simple<is_true>},
    {"undefined", simple<is_undefined>},
    {"upper", is_case<false>},
};

}  // namespace

FilterFunction find_test(std::string_view name) {
  const auto* found =
      std::lower_bound(std::begin(kTests), std::end(kTests), name,
                       [](const auto& row, std::string_view x) { return row.first < x; });
  return found != std::end(kTests) && found->first == name ? found->second : nullptr;
}

}  // namespace decant::jinja
