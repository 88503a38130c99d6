#include "chat/jinja_ops.h"

#include <algorithm>
#include <cmath>

#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

const char* symbol(Op op) {
  static constexpr const char* kSymbols[] = {"+",  "-", "*",  "/", "//", "%",  "** or pow()", "==",
                                             "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSymbols[static_cast<size_t>(op)];
}

/// Exact order of an int and a float, as Python compares them; 2 if not comparable (nan).
int order(int64_t a, double b) {
  if (std::isnan(b)) return 2;
  if (b >= 9223372036854775808.0) return -1;
  if (b < -9223372036854775808.0) return 1;
  const double floor = std::floor(b);
  const auto whole = static_cast<int64_t>(floor);
  if (a != whole) return a < whole ? -1 : 1;
  return b > floor ? -1 : 0;
}

int order_numbers(const Value& a, const Value& b) {
  const bool fa = a.is(Kind::kFloat), fb = b.is(Kind::kFloat);
  if (fa && fb) {
    const double x = a.as_float(), y = b.as_float();
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
  }
  if (fb) return order(a.as_int(), b.as_float());
  if (fa) {
    const int other = order(b.as_int(), a.as_float());
    return other == 2 ? 2 : -other;
  }
  return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int() ? 1 : 0;
}

int order_big(const Value& a, const Value& b) {
  const auto digits = [](const Value& v) {
    return v.is(Kind::kBigInt) ? v.as<BigInt>().digits : std::to_string(v.as_int());
  };
  const std::string x = digits(a), y = digits(b);
  const bool nx = x[0] == '-', ny = y[0] == '-';
  if (nx != ny) return nx ? -1 : 1;
  int out = x.size() != y.size() ? (x.size() < y.size() ? -1 : 1) : x.compare(y);
  out = out < 0 ? -1 : out > 0 ? 1 : 0;
  return nx ? -out : out;
}

bool is_big_pair(const Value& a, const Value& b) {
  return (a.is(Kind::kBigInt) && (b.is_integral() || b.is(Kind::kBigInt))) ||
         (b.is(Kind::kBigInt) && a.is_integral());
}

}  // namespace

void overflow() { fail("OverflowError", "integers are limited to 64 bits"); }

void bad_operands(Op op, const Value& a, const Value& b) {
  if (op >= Op::kEq)
    fail("TypeError", "'{}' not supported between instances of '{}' and '{}'", symbol(op),
         type_name(a), type_name(b));
  fail("TypeError", "unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(a),
       type_name(b));
}

bool is_number(const Value& value) { return value.is_numeric() || value.is(Kind::kBigInt); }

void require_defined(const Value& value) {
  if (!value.is_undefined()) return;
  if (!value.object()) fail("UndefinedError", "value is undefined");
  const auto& info = value.as<UndefinedInfo>();
  throw Failure{info.type, info.message};
}

int64_t require_int(const Value& value, const char* what) {
  require_defined(value);
  if (!value.is_integral())
    fail("TypeError", "{}: '{}' object cannot be interpreted as an integer", what,
         type_name(value));
  return value.as_int();
}

const Str& require_str(const Value& value, const char* what) {
  require_defined(value);
  if (!value.is_string()) fail("TypeError", "{}: expected str, got {}", what, type_name(value));
  return value.str();
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.as_int() != 0;
    case Kind::kFloat:
      return value.as_float() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kRange:
      return length_of(value) != 0;
    default:
      return true;
  }
}

bool same(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kNone:
      return true;
    case Kind::kBool:
    case Kind::kInt:
      return a.as_int() == b.as_int();
    case Kind::kFloat:
      return a.as_float() == b.as_float();
    case Kind::kString:
      return a.object() == b.object() || (a.text() == b.text() && a.text().size() < 2);
    default:
      return a.object() == b.object();
  }
}

bool equal(Interp& interp, const Value& a, const Value& b) {
  interp.budget().step();
  if (is_number(a) && is_number(b)) {
    if (is_big_pair(a, b)) return order_big(a, b) == 0;
    if (!a.is_numeric() || !b.is_numeric()) return false;
    return order_numbers(a, b) == 0;
  }
  if (a.kind() != b.kind()) {
    // Undefined equals Undefined only; keys views compare as sets, which no template needs.
    return false;
  }
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      interp.budget().step(std::min(a.text().size(), b.text().size()) / 64);
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple: {
      const auto& x = a.as<Sequence>().items;
      const auto& y = b.as<Sequence>().items;
      if (x.size() != y.size()) return false;
      for (size_t i = 0; i < x.size(); ++i)
        if (!equal(interp, x[i], y[i])) return false;
      return true;
    }
    case Kind::kDict: {
      const auto& x = a.as<Dict>();
      if (x.items.size() != b.as<Dict>().items.size()) return false;
      for (const auto& [key, value] : x.items) {
        bool found = false;
        if (key.is_string()) {
          const Value* other = b.as<Dict>().find(key.text());
          found = other != nullptr && equal(interp, value, *other);
        } else {
          for (const auto& [other, other_value] : b.as<Dict>().items)
            if (equal(interp, key, other)) found = equal(interp, value, other_value);
        }
        if (!found) return false;
      }
      return true;
    }
    case Kind::kRange: {
      const auto& x = a.as<Range>();
      const auto& y = b.as<Range>();
      return x.length == y.length &&
             (x.length == 0 || (x.start == y.start && (x.length == 1 || x.step == y.step)));
    }
    default:
      return a.object() == b.object();
  }
}

bool compare(Interp& interp, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
      return equal(interp, a, b);
    case Op::kNe:
      return !equal(interp, a, b);
    case Op::kIn:
      return contains(interp, b, a);
    case Op::kNotIn:
      return !contains(interp, b, a);
    default:
      break;
  }
  interp.budget().step();
  require_defined(a);
  require_defined(b);
  int result = 0;
  if (is_number(a) && is_number(b)) {
    if (is_big_pair(a, b))
      result = order_big(a, b);
    else if (!a.is_numeric() || !b.is_numeric())
      bad_operands(op, a, b);
    else
      result = order_numbers(a, b);
    if (result == 2) return false;
  } else if (a.is_string() && b.is_string()) {
    // UTF-8 keeps the order of code points.
    interp.budget().step(std::min(a.text().size(), b.text().size()) / 64);
    result = a.text().compare(b.text());
  } else if (a.is_sequence() && a.kind() == b.kind()) {
    const auto& x = a.as<Sequence>().items;
    const auto& y = b.as<Sequence>().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(interp, x[i], y[i])) return compare(interp, op, x[i], y[i]);
    result = x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  } else {
    bad_operands(op, a, b);
  }
  switch (op) {
    case Op::kLt:
      return result < 0;
    case Op::kLe:
      return result <= 0;
    case Op::kGt:
      return result > 0;
    default:
      return result >= 0;
  }
}

bool less(Interp& interp, const Value& a, const Value& b) { return compare(interp, Op::kLt, a, b); }

bool contains(Interp& interp, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string()) {
        require_defined(item);
        fail("TypeError", "'in <string>' requires string as left operand, not {}", type_name(item));
      }
      interp.budget().step(container.text().size() / 64);
      return find_text(container.text(), item.text()) != std::string::npos;
    case Kind::kDict: {
      const auto& dict = container.as<Dict>();
      if (item.is_string()) return dict.find(item.text()) != nullptr;
      require_hashable(interp, item);
      for (const auto& [key, value] : dict.items)
        if (equal(interp, key, item)) return true;
      return false;
    }
    case Kind::kUndefined:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
    case Kind::kRange:
    case Kind::kIterator: {
      const auto iter = iterate(interp, container);
      Value value;
      while (iter->next(interp, value))
        if (equal(interp, value, item)) return true;
      return false;
    }
    default:
      fail("TypeError", "argument of type '{}' is not iterable", type_name(container));
  }
}

void require_hashable(Interp& interp, const Value& key) {
  interp.budget().step();
  if (key.is(Kind::kList) || key.is_dict())
    fail("TypeError", "unhashable type: '{}'", type_name(key));
  if (key.is(Kind::kTuple))
    for (const Value& item : key.as<Sequence>().items) require_hashable(interp, item);
}

}  // namespace decant::jinja
