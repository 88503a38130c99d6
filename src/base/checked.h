#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "base/errors.h"

namespace decant {

/// a * b, or nothing on overflow. Used wherever a file or a request gives a number.
template <std::integral T>
std::optional<T> checked_mul(T a, T b) {
  T out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

/// a + b, or nothing on overflow.
template <std::integral T>
std::optional<T> checked_add(T a, T b) {
  T out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

/// The value as type To, or nothing if To cannot hold it.
template <std::integral To, std::integral From>
std::optional<To> checked_cast(From value) {
  if (!std::in_range<To>(value)) return std::nullopt;
  return static_cast<To>(value);
}

/// The value as type To; InternalError if To cannot hold it (for values we made ourselves).
template <std::integral To, std::integral From>
To narrow(From value) {
  DECANT_ASSERT(std::in_range<To>(value), "an integer must fit the narrower type");
  return static_cast<To>(value);
}

/// Integer division rounding up; a >= 0, b > 0.
template <std::integral T>
constexpr T div_up(T a, T b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// a rounded up to a multiple of b; a >= 0, b > 0.
template <std::integral T>
constexpr T round_up(T a, T b) {
  return div_up(a, b) * b;
}

}  // namespace decant
