#pragma once

#include "graph/graph.h"

namespace decant {

struct RelativeAttentionParams : OpParams {
  int span = 1;       // frames a query sees: its own and span - 1 before it
  float q_scale = 1;  // of queries, beside softplus(w)
  float k_scale = 1;  // of keys
  float softcap = 0;  // 0: none
  std::string text() const override;
};

/// Attention of each frame of a sound to itself and the few frames before it, with a learned vector
/// for each distance:
///   q' = q_scale softplus(w) q;  z(t, s) = k_scale q'_t . k_s + q'_t . r_(t - s)
///   y_t = sum over s of softmax(c tanh(z / c))_s v_s,  0 <= t - s < span, 0 <= s.
/// What the references call a chunk and its context is how they cut this up, not what it means.
/// Shapes  q, k, v, y [T, H, D]; r [P, H, D] with P >= span, row d for distance d; w [D]. Rows are
/// fixed. Dtypes  f32. Source  transformers, Gemma3nAudioAttention, Gemma4AudioAttention;
/// gemma3n.md section 5.4, gemma4.md section 6.3.
Value relative_attention(Value q, Value k, Value v, Value r, const Weight* per_dim_scale,
                         const RelativeAttentionParams& params);

const Op& relative_attention_op();

}  // namespace decant
