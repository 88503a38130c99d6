#pragma once

#include "checkpoint/weight_scope.h"
#include "ops/linear.h"
#include "ops/unary.h"

namespace decant::layers {

/// y = x W^T (+ b): the matrix `scope`.weight [out, in] and, where the model has one, the vector
/// `scope`.bias [out].
struct Linear {
  const Weight* weight;
  const Weight* bias;

  Linear(const WeightScope& scope, int64_t out, int64_t in, bool has_bias = false)
      : weight(scope.matrix(out, in)),
        bias(has_bias ? scope.vector("bias", Shape{out}) : nullptr) {}
  Value operator()(Value x) const { return linear(x, weight, bias); }
};

/// A projection whose input and output are kept within stored bounds:
///   y = bound(W bound(x, input_min, input_max), output_min, output_max)
/// Weights  `scope`.linear.weight [out, in]; the four bounds, one value each, where the file has
/// them. Source  transformers, Gemma4ClippableLinear; gemma4.md section 4.2.
struct ClippedLinear {
  Linear linear;
  const Weight *input_min = nullptr, *input_max = nullptr;
  const Weight *output_min = nullptr, *output_max = nullptr;
  ClippedLinear(const WeightScope& scope, int64_t out, int64_t in)
      : linear(scope / "linear", out, in) {
    if (!scope.has("input_min")) return;
    // A scalar has no dimensions in files of transformers, one of size 1 in others.
    const Shape one = scope.dims("input_min").empty() ? Shape{} : Shape{1};
    input_min = scope.vector("input_min", one);
    input_max = scope.vector("input_max", one);
    output_min = scope.vector("output_min", one);
    output_max = scope.vector("output_max", one);
  }
  Value operator()(Value x) const {
    if (input_min == nullptr) return linear(x);
    return bound(linear(bound(x, input_min, input_max)), output_min, output_max);
  }
};

}  // namespace decant::layers
