#include "layers/gated_delta_net.h"

#include <fmt/format.h>

#include <cmath>

#include "ops/rows.h"
#include "ops/unary.h"

namespace decant::layers {
namespace {

constexpr float kNormEps = 1e-6f;  // of q and k, on their sums of squares

}  // namespace

GatedDeltaNetConfig GatedDeltaNetConfig::read(const ConfigReader& c, int64_t hidden_size,
                                              float eps) {
  constexpr int64_t kMaxHeads = 4096, kMaxTaps = 64;
  GatedDeltaNetConfig out;
  out.hidden_size = hidden_size;
  out.eps = eps;
  out.key_heads = c.in_range_or("linear_num_key_heads", 16, 1, kMaxHeads);
  out.value_heads = c.in_range_or("linear_num_value_heads", 32, 1, kMaxHeads);
  if (out.value_heads % out.key_heads != 0)
    c.fail("linear_num_value_heads", fmt::format("a multiple of {} key heads", out.key_heads));
  out.key_dim = c.in_range_or("linear_key_head_dim", 128, 1, kMaxDeltaDim);
  out.value_dim = c.in_range_or("linear_value_head_dim", 128, 1, kMaxDeltaDim);
  out.taps = static_cast<int>(c.in_range_or("linear_conv_kernel_dim", 4, 2, kMaxTaps));
  return out;
}

GatedDeltaNet::GatedDeltaNet(const GatedDeltaNetConfig& c, bool moved_axis, const WeightScope& w)
    : config(c),
      conv1d((w / "conv1d")
                 .vector("weight", moved_axis ? Shape{c.channels(), c.taps, 1}
                                              : Shape{c.channels(), 1, c.taps})),
      a_log(w.vector("A_log", Shape{c.value_heads})),
      dt_bias(w.vector("dt_bias", Shape{c.value_heads})),
      norm(w / "norm", c.value_dim, c.eps),
      out_proj(w / "out_proj", c.hidden_size, c.value_heads * c.value_dim) {
  const int64_t values = c.value_heads * c.value_dim;
  if (c.fused) {
    in_proj_qkvz.emplace(w / "in_proj_qkvz", c.channels() + values, c.hidden_size);
    in_proj_ba.emplace(w / "in_proj_ba", 2 * c.value_heads, c.hidden_size);
  } else {
    in_proj_qkv.emplace(w / "in_proj_qkv", c.channels(), c.hidden_size);
    in_proj_z.emplace(w / "in_proj_z", values, c.hidden_size);
    in_proj_b.emplace(w / "in_proj_b", c.value_heads, c.hidden_size);
    in_proj_a.emplace(w / "in_proj_a", c.value_heads, c.hidden_size);
  }
}

GatedDeltaNet::Projected GatedDeltaNet::project(Value x, Value asking) const {
  if (!config.fused)
    return {(*in_proj_qkv)(x), (*in_proj_z)(asking), (*in_proj_b)(x), (*in_proj_a)(x)};
  // Rows lie by key head: [q | k | v of its heads | z of its heads] and [b | a] of its heads.
  const int64_t groups = config.key_heads, dk = config.key_dim;
  const int64_t each = config.value_heads / groups, values = each * config.value_dim;
  const int64_t stride = 2 * dk + 2 * values;
  Value qkvz = (*in_proj_qkvz)(x), ba = (*in_proj_ba)(x);
  std::vector<ColumnRun> qkv = column_runs(groups, stride, 0, dk);
  for (const auto& part :
       {column_runs(groups, stride, dk, dk), column_runs(groups, stride, 2 * dk, values)})
    qkv.insert(qkv.end(), part.begin(), part.end());
  Value z = gather_columns(qkvz, column_runs(groups, stride, 2 * dk + values, values),
                           {config.value_heads * config.value_dim});
  if (asking.type().rows != x.type().rows) z = narrow_rows(z);
  const auto half = [&](int64_t first) {
    return gather_columns(ba, column_runs(groups, 2 * each, first, each), {config.value_heads});
  };
  return {gather_columns(qkvz, std::move(qkv), {config.channels()}), z, half(0), half(each)};
}

Value GatedDeltaNet::operator()(Value x, Value asking, Value conv_state, Value delta_state) const {
  const Graph::ScopeGuard guard(x.graph(), "linear_attn");
  const GatedDeltaNetConfig& c = config;
  const auto [qkv, z, b, a] = project(x, asking);
  Value mixed = causal_conv1d(qkv, conv1d, conv_state, Unary::kSilu).first;
  const int64_t keys = c.key_heads * c.key_dim;
  Value q = l2_norm(mixed.columns(0, {c.key_heads, c.key_dim}), kNormEps,
                    1 / std::sqrt(static_cast<float>(c.key_dim)));
  Value k = l2_norm(mixed.columns(keys, {c.key_heads, c.key_dim}), kNormEps);
  Value v = mixed.columns(2 * keys, {c.value_heads, c.value_dim});
  Value y =
      gated_delta(q, k, v, delta_decay(a, a_log, dt_bias), unary(b, Unary::kSigmoid), delta_state)
          .first;
  if (asking.type().rows != x.type().rows) y = narrow_rows(y);
  Value gate = z.reshape({c.value_heads, c.value_dim});
  return out_proj(gated_rms_norm(y, gate, norm.weight, norm.eps));
}

}  // namespace decant::layers
