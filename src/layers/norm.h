#pragma once

#include "checkpoint/weight_scope.h"
#include "ops/norm.h"

namespace decant::layers {

/// y = x / sqrt(mean(x^2) + eps) * w, w = `scope`.weight [width] + offset (1 where a file stores
/// weights around zero).
struct RmsNorm {
  const Weight* weight;
  float eps;

  RmsNorm(const WeightScope& scope, int64_t width, float norm_eps, float offset = 0)
      : weight(scope.vector("weight", Shape{width}, 0, offset)), eps(norm_eps) {}
  Value operator()(Value x) const { return rms_norm(x, weight, eps); }
};

/// y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b. Weights  `scope`.weight, `scope`.bias
/// [width].
struct LayerNorm {
  const Weight *weight, *bias;
  float eps;

  LayerNorm(const WeightScope& scope, int64_t width, float norm_eps)
      : weight(scope.vector("weight", Shape{width})),
        bias(scope.vector("bias", Shape{width})),
        eps(norm_eps) {}
  Value operator()(Value x) const { return layer_norm(x, weight, bias, eps); }
};

}  // namespace decant::layers
