#pragma once

#include "graph/graph.h"

namespace decant {

/// Writes the step's keys and values into the pages of their sequences; returns the cache's new
/// version, which is what readers of this step must take. Shapes  k, v [N, Hkv, D]. Dtypes  stored
/// as the pool's dtype (bf16 rounded to nearest even, or f32).
Value kv_append(Value k, Value v, Value cache);

struct AttentionParams : OpParams {
  float scale = 1.0f;
  float softcap = 0.0f;    // 0: none; else c tanh(s / c) on the scaled scores
  bool both_ways = false;  // up to Batch::last_seen instead of the token's own position
  std::string text() const override;
};

/// Causal attention of each token over the cached positions of its sequence, the step's own
/// included: y = softmax(softcap(q k^T * scale)) v over positions p - window < j <= p (window of
/// the cache; 0: all). With `both_ways`, tokens in spans see to the end of theirs, which this step
/// must hold: p - window < j <= last_seen. Query head h reads KV head h / (H / Hkv). Shapes  q, y
/// [N, H, D]. Dtypes scores, softmax and sums in f32; never [N, S] scores at once. A row's result
/// depends on its sequence only: keys are walked in pages of 64 at absolute positions, in splits of
/// kAttentionSplit pages whose partial results are merged in ascending order.
/// Source  transformers, eager_attention_forward; gemma3n.md section 3.5.
Value attention(Value q, Value cache, float scale, float softcap = 0.0f, bool both_ways = false);
inline constexpr int kAttentionSplit = 16;

const Op& kv_append_op();
const Op& attention_op();

}  // namespace decant
