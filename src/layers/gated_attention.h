#pragma once

#include "layers/attention.h"

namespace decant::layers {

/// Grouped-query attention whose output is multiplied by sigmoid of a gate before o_proj. Weights
/// as Attention's, but q_proj [H 2 D, hidden] holds [query | gate] per head, not one half each.
/// Source  transformers, Qwen3NextAttention; qwen3_5.md section 3.2.
struct GatedAttention {
  Linear q_proj, k_proj, v_proj, o_proj;
  RmsNorm q_norm, k_norm;
  int64_t num_heads, num_kv_heads, head_dim;
  float scale;

  /// `norm_offset` is added to the norms' weights as stored.
  GatedAttention(const AttentionConfig& config, float norm_offset, const WeightScope& scope);
  /// x, asking, cache as in Attention.
  Value operator()(Value x, Value asking, Value cache,
                   const std::shared_ptr<const RopeParams>& rotation) const;
};

}  // namespace decant::layers
