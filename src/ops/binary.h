#pragma once

#include "graph/graph.h"

namespace decant {

enum class Binary : uint8_t { kAdd, kSub, kMul };

struct BinaryParams : OpParams {
  Binary kind = Binary::kAdd;
  std::string text() const override;
};

/// Element-wise a (op) b. b is a value of a's width, a value of one column per row (broadcast along
/// the row), or a weight vector of a's width or of one value (the same for every row). Shapes  a, y
/// [N, ...]; f32.
Value binary(Value a, Value b, Binary kind);
Value binary(Value a, const Weight* b, Binary kind);
inline Value add(Value a, Value b) { return binary(a, b, Binary::kAdd); }
inline Value sub(Value a, Value b) { return binary(a, b, Binary::kSub); }
inline Value mul(Value a, Value b) { return binary(a, b, Binary::kMul); }
inline Value mul(Value a, const Weight* b) { return binary(a, b, Binary::kMul); }

/// Rows of several values side by side: y[n] = [a[n], b[n], ...]. Shapes  parts [N, Wi]; y as
/// `inner` ([N, sum Wi] or e.g. [N, A, D]).
Value concat(std::span<const Value> parts, const Shape& inner);

const Op& binary_op();
const Op& concat_op();

}  // namespace decant
