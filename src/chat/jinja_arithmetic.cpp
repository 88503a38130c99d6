#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"

namespace decant::jinja {

Value concat_strings(Interp& interp, const Value& a, const Value& b) {
  TextBuilder out(interp.budget());
  const bool markup = a.str().markup || b.str().markup;
  const auto add = [&](const Value& part) {
    if (markup && !part.str().markup)
      append_escaped(out, part.str());
    else
      out.append(part.str());
  };
  add(a);
  add(b);
  const Value text = out.take();
  text.as<Str>().markup = markup;
  return text;
}

namespace {

Value repeat(Interp& interp, const Value& value, const Value& count) {
  const int64_t times = std::max<int64_t>(count.as_int(), 0);
  Budget& budget = interp.budget();
  if (value.is_string()) {
    const auto bytes = checked_mul<uint64_t>(value.text().size(), static_cast<uint64_t>(times));
    budget.fits(bytes.value_or(SIZE_MAX));
    TextBuilder out(budget);
    if (!value.text().empty())
      for (int64_t i = 0; i < times; ++i) {
        budget.step();
        out.append(value.str());
      }
    return out.take();
  }
  const auto& items = value.as<Sequence>().items;
  const auto size = checked_mul<uint64_t>(items.size(), static_cast<uint64_t>(times));
  budget.step(size.value_or(UINT64_MAX));
  const auto bytes = checked_mul<uint64_t>(size.value_or(UINT64_MAX), sizeof(Value));
  budget.take(bytes.value_or(SIZE_MAX));  // refuse before the vector grows
  budget.release(*bytes);
  std::vector<Value> out;
  out.reserve(*size);
  if (!items.empty())
    for (int64_t i = 0; i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  return make_sequence(budget, value.kind(), std::move(out));
}

Value float_power(double a, double b) {
  if (a == 0 && b < 0) fail("ZeroDivisionError", "0.0 cannot be raised to a negative power");
  if (a < 0 && b != std::floor(b)) fail("TypeError", "complex numbers are not supported");
  const double out = std::pow(a, b);
  if (std::isinf(out) && std::isfinite(a) && std::isfinite(b))
    fail("OverflowError", "(34, 'Numerical result out of range')");
  return Value::number(out);
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) return float_power(static_cast<double>(base), static_cast<double>(exponent));
  int64_t out = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(out, base, &out)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return Value::integer(out);
}

Value integer_arithmetic(Op op, int64_t a, int64_t b) {
  int64_t out = 0;
  switch (op) {
    case Op::kAdd:
      if (__builtin_add_overflow(a, b, &out)) overflow();
      return Value::integer(out);
    case Op::kSub:
      if (__builtin_sub_overflow(a, b, &out)) overflow();
      return Value::integer(out);
    case Op::kMul:
      if (__builtin_mul_overflow(a, b, &out)) overflow();
      return Value::integer(out);
    case Op::kPow:
      return integer_power(a, b);
    case Op::kDiv:
      if (b == 0) fail("ZeroDivisionError", "division by zero");
      return Value::number(static_cast<double>(a) / static_cast<double>(b));
    default:
      break;
  }
  if (b == 0)
    fail("ZeroDivisionError", "{}",
         op == Op::kMod ? "integer modulo by zero" : "integer division or modulo by zero");
  if (b == -1) {  // the one quotient that can overflow
    if (op == Op::kMod) return Value::integer(0);
    if (__builtin_sub_overflow(int64_t{0}, a, &out)) overflow();
    return Value::integer(out);
  }
  // Python rounds the quotient down; the remainder has the sign of the divisor.
  int64_t quotient = a / b, remainder = a % b;
  if (remainder != 0 && (remainder < 0) != (b < 0)) {
    --quotient;
    remainder += b;
  }
  return Value::integer(op == Op::kMod ? remainder : quotient);
}

Value float_arithmetic(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::number(a + b);
    case Op::kSub:
      return Value::number(a - b);
    case Op::kMul:
      return Value::number(a * b);
    case Op::kPow:
      return float_power(a, b);
    case Op::kDiv:
      if (b == 0) fail("ZeroDivisionError", "float division by zero");
      return Value::number(a / b);
    default:
      break;
  }
  if (b == 0)
    fail("ZeroDivisionError", "{}",
         op == Op::kMod ? "float modulo" : "float floor division by zero");
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1.0;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == Op::kMod) return Value::number(remainder);
  if (quotient == 0) return Value::number(std::copysign(0.0, a / b));
  double floor = std::floor(quotient);
  if (quotient - floor > 0.5) floor += 1.0;
  return Value::number(floor);
}

}  // namespace

Value binary(Interp& interp, Op op, const Value& a, const Value& b) {
  // A string on the left of % formats, whatever is on the right.
  if (op == Op::kMod && a.is_string()) return percent_format(interp, a, b);
  require_defined(a);
  require_defined(b);
  if (a.is_numeric() && b.is_numeric()) {
    if (a.is(Kind::kFloat) || b.is(Kind::kFloat))
      return float_arithmetic(op, a.as_float(), b.as_float());
    return integer_arithmetic(op, a.as_int(), b.as_int());
  }
  if (is_number(a) && is_number(b)) overflow();
  if (op == Op::kAdd) {
    if (a.is_string() && b.is_string()) return concat_strings(interp, a, b);
    if (a.is_sequence() && a.kind() == b.kind()) {
      std::vector<Value> items = a.as<Sequence>().items;
      const auto& more = b.as<Sequence>().items;
      interp.budget().step(items.size() + more.size());
      items.insert(items.end(), more.begin(), more.end());
      return make_sequence(interp.budget(), a.kind(), std::move(items));
    }
    if (a.is_string() || a.is_sequence())
      fail("TypeError", "can only concatenate {} (not \"{}\") to {}", type_name(a), type_name(b),
           type_name(a));
  }
  if (op == Op::kMul) {
    if ((a.is_string() || a.is_sequence()) && b.is_integral()) return repeat(interp, a, b);
    if ((b.is_string() || b.is_sequence()) && a.is_integral()) return repeat(interp, b, a);
  }
  bad_operands(op, a, b);
}

Value negate(const Value& value) {
  require_defined(value);
  if (value.is(Kind::kFloat)) return Value::number(-value.as_float());
  if (value.is(Kind::kBigInt)) {
    auto out = std::make_shared<BigInt>();
    const std::string& digits = value.as<BigInt>().digits;
    out->digits = digits[0] == '-' ? digits.substr(1) : "-" + digits;
    if (out->digits == "-9223372036854775808") return Value::integer(INT64_MIN);
    return Value::object(Kind::kBigInt, std::move(out));
  }
  if (!value.is_integral())
    fail("TypeError", "bad operand type for unary -: '{}'", type_name(value));
  return integer_arithmetic(Op::kSub, 0, value.as_int());
}

Value positive(const Value& value) {
  require_defined(value);
  if (value.is(Kind::kFloat) || value.is(Kind::kBigInt)) return value;
  if (!value.is_integral())
    fail("TypeError", "bad operand type for unary +: '{}'", type_name(value));
  return Value::integer(value.as_int());
}

}  // namespace decant::jinja
