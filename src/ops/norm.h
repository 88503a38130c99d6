#pragma once

#include "graph/graph.h"

namespace decant {

struct NormParams : OpParams {
  float eps = 1e-6f;
  std::string text() const override;
};

/// y = x / sqrt(mean(x^2) + eps) * w over the last dimension; without w where it is null.
/// Shapes  x, y [N, ..., D]; w [D] f32, shared by all heads of a row.
/// Dtypes  mean and product in f32, one result. Source  transformers, RMSNorm modules; qwen3.md
/// section 3.
Value rms_norm(Value x, const Weight* weight, float eps);

/// y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b over the last dimension (population
/// variance); w and b may be null. Shapes  x, y [N, ..., D]; w, b [D] f32. Dtypes  mean, variance
/// and product in f32, one result. Source  transformers, nn.LayerNorm.
Value layer_norm(Value x, const Weight* weight, const Weight* bias, float eps);

/// s = a + b;  y = rms_norm(s): what an addition followed by a norm fuses to. Composite. Returns
/// {s, y}.
std::pair<Value, Value> add_rms_norm(Value a, Value b, const Weight* weight, float eps);

/// y = u * sqrt(mean(ref^2)) / sqrt(max(mean(u^2), floor)): u scaled to the magnitude of ref, row
/// by row. Shapes  u, ref, y [N, D]. Source  gemma3n.md sections 3.3 and 3.7.
Value match_magnitude(Value u, Value ref, float floor = 1e-5f);

struct LayerNormParams : OpParams {
  float eps = 1e-5f;
  bool has_weight = false, has_bias = false;
  std::string text() const override;
};

struct L2NormParams : OpParams {
  float eps = 1e-6f;
  float factor = 1.0f;
  std::string text() const override;
};

/// y = x / sqrt(sum(x^2) + eps) * factor over the last dimension.
/// Shapes  x, y [N, ..., D]. Dtypes  sum and product in f32, one result. Source
/// flash-linear-attention, modules/l2norm; qwen3_5.md section 3.3.
Value l2_norm(Value x, float eps, float factor = 1.0f);

/// y = rms_norm(x, w) * silu(gate): the norm of a head's output before its gate. Composite.
/// Shapes  x, gate, y [N, H, D]; w [D]. Source  transformers, Qwen3NextRMSNormGated.
Value gated_rms_norm(Value x, Value gate, const Weight* weight, float eps);

const Op& rms_norm_op();
const Op& layer_norm_op();
const Op& add_rms_norm_op();
const Op& match_magnitude_op();
const Op& l2_norm_op();
const Op& gated_rms_norm_op();

}  // namespace decant
