#pragma once

#include "graph/graph.h"
#include "ops/unary.h"

namespace decant {

struct CausalConvParams : OpParams {
  int taps = 4;  // K, the token's own included
  Unary act = Unary::kSilu;
  std::string text() const override;
};

/// Causal depthwise convolution over a sequence's tokens, then an activation:
///   y_t[c] = act(sum over j ascending of w[c, j] u_{t-K+1+j}[c]),  zeros before the first token.
/// The state is the last K - 1 inputs (not outputs), oldest first; it keeps the rewind contract of
/// leaky_sum: in prefill the step's tokens advance it at once, in decode they fill the log, and
/// `commit` of them advance it before the next step.
/// Shapes  u, y [N, C]; w of C K elements, [C, K] in order (files write [C, 1, K] or [C, K, 1]);
/// state: StateSpec{width (K - 1) C, log_width C, log_tokens D}, at most D tokens of a sequence in
/// a decode step. Dtypes  f32. Returns {y, the state's new version}. Source  transformers,
/// modeling_qwen3_next.py (causal_conv1d); qwen3_5.md section 3.3.
std::pair<Value, Value> causal_conv1d(Value u, const Weight* weight, Value state, Unary act);
StateSpec causal_conv_state(int64_t channels, int taps, int log_tokens);

const Op& causal_conv1d_op();

}  // namespace decant
