#pragma once

#include "graph/graph.h"

namespace decant {

struct LinearParams : OpParams {
  bool has_bias = false;
  bool has_residual = false;
  std::string text() const override;
};

/// y = x W^T (+ bias).
/// Shapes  x [N, in]; W [out, in] in any format; bias [out]; y [N, out], f32.
/// Dtypes  accumulated in f32. The default route of a backend may quantise x (int8 in groups of 32
/// on the CPU).
Value linear(Value x, const Weight* weight, const Weight* bias = nullptr);

/// y = r + x W^T: what `add(r, linear(x, W))` fuses to. Composite; expands to that pair.
/// Shapes  r [N, out]; the rest as linear.
Value linear_add(Value residual, Value x, const Weight* weight);

const Op& linear_op();
const Op& linear_add_op();

}  // namespace decant
