#pragma once

#include <optional>

#include "checkpoint/config_reader.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"

namespace decant::layers {

/// Tokens a slot's log holds: the last one and up to three drafts after it.
inline constexpr int kUncommittedTokens = 4;

struct GatedDeltaNetConfig {
  int64_t hidden_size = 0;
  int64_t key_heads = 0, value_heads = 0;
  int64_t key_dim = 0, value_dim = 0;  // of a head
  int taps = 4;                        // of the convolution
  float eps = 1e-6f;
  /// in_proj_qkvz and in_proj_ba, whose rows are grouped by key head, instead of a projection each
  /// for qkv, z, b and a.
  bool fused = false;

  /// The `linear_*` keys; absent ones mean 16 and 32 heads of 128, 4 taps.
  /// Errors: ConfigError for sizes out of range or that do not divide.
  static GatedDeltaNetConfig read(const ConfigReader& config, int64_t hidden_size, float eps);
  /// q, k and v side by side: what the convolution runs over.
  int64_t channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
  StateSpec conv_state() const { return causal_conv_state(channels(), taps, kUncommittedTokens); }
  StateSpec delta_state() const {
    return GatedDeltaShape{value_heads, key_dim, value_dim}.state(kUncommittedTokens);
  }
};

/// Gated DeltaNet mixer: convolution of q, k and v, the gated delta rule, a gated norm per head.
/// Weights  in_proj_* (above), conv1d [channels, 1, taps] or, where MLX wrote the file, [channels,
/// taps, 1]; A_log, dt_bias [value_heads]; norm [value_dim], never stored around zero; out_proj
/// [hidden, value_heads value_dim].
/// Source  transformers, Qwen3NextGatedDeltaNet; qwen3_5.md sections 2 and 3.3.
struct GatedDeltaNet {
  GatedDeltaNetConfig config;
  std::optional<Linear> in_proj_qkv, in_proj_z, in_proj_b, in_proj_a;
  std::optional<Linear> in_proj_qkvz, in_proj_ba;
  const Weight *conv1d, *a_log, *dt_bias;
  RmsNorm norm;
  Linear out_proj;

  GatedDeltaNet(const GatedDeltaNetConfig& config, bool moved_axis, const WeightScope& scope);
  /// x [N, hidden] pass through the states; `asking` [M, hidden] are the rows that get an answer,
  /// all of x or what narrow_rows leaves of it; y [M, hidden].
  Value operator()(Value x, Value asking, Value conv_state, Value delta_state) const;

 private:
  struct Projected {
    Value qkv, z, b, a;  // z of the asking rows
  };
  Projected project(Value x, Value asking) const;
};

}  // namespace decant::layers
