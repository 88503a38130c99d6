#pragma once

#include "graph/graph.h"

namespace decant {

/// Largest key or value width of a head.
inline constexpr int64_t kMaxDeltaDim = 256;

/// Sizes of a gated delta state: what the op infers from its inputs, for making the StateSpec.
struct GatedDeltaShape {
  int64_t value_heads = 0, key_dim = 0, value_dim = 0;
  /// State [heads][key_dim][value_dim]; the log holds {k, v, g, beta} per head.
  StateSpec state(int log_tokens) const {
    return {value_heads * key_dim * value_dim, value_heads * (key_dim + value_dim + 2), log_tokens};
  }
};

/// The gated delta rule. Per value head h, with key head h / (H / Hk) and state S [Dk, Dv]:
///   S <- e^g S;  d = beta (v - S^T k);  S <- S + k d^T;  y = S^T q
/// (decay, then delta, then the read of the updated state). The state keeps the rewind contract of
/// leaky_sum: in prefill the step's tokens advance it at once; in decode their k, v, g, beta fill
/// the log and `commit` of them advance it before the next step.
///
/// Prefill is formed in tiles that end at absolute multiples of kDeltaTile positions, so that cuts
/// of a prompt at such multiples change no bit; other cuts change rounding.
/// Shapes  q, k [N, Hk, Dk], already normalised and scaled; v, y [N, H, Dv]; g (at most 0), beta
/// [N, H]; state: GatedDeltaShape, at most log_tokens tokens of a sequence in a decode step.
/// Dtypes  f32 throughout, g as a logarithm. Returns {y, the state's new version}.
/// Source  flash-linear-attention, ops/gated_delta_rule; qwen3_5.md sections 3.3 and 3.4.
std::pair<Value, Value> gated_delta(Value q, Value k, Value v, Value g, Value beta, Value state);
inline constexpr int64_t kDeltaTile = 64;

/// g = -e^A_log softplus(a + dt_bias): the log of what a token leaves of the state.
/// Shapes  a, g [N, H]; A_log, dt_bias [H]. Dtypes  f32.
Value delta_decay(Value a, const Weight* a_log, const Weight* dt_bias);

const Op& gated_delta_op();
const Op& delta_decay_op();

}  // namespace decant
