#include "layers/gated_attention.h"

#include <cmath>

#include "ops/rows.h"
#include "ops/unary.h"

namespace decant::layers {

GatedAttention::GatedAttention(const AttentionConfig& c, float norm_offset, const WeightScope& w)
    : q_proj(w / "q_proj", 2 * c.num_heads * c.head_dim, c.hidden_size),
      k_proj(w / "k_proj", c.num_kv_heads * c.head_dim, c.hidden_size),
      v_proj(w / "v_proj", c.num_kv_heads * c.head_dim, c.hidden_size),
      o_proj(w / "o_proj", c.hidden_size, c.num_heads * c.head_dim),
      q_norm(w / "q_norm", c.head_dim, c.eps, norm_offset),
      k_norm(w / "k_norm", c.head_dim, c.eps, norm_offset),
      num_heads(c.num_heads),
      num_kv_heads(c.num_kv_heads),
      head_dim(c.head_dim),
      scale(1 / std::sqrt(static_cast<float>(c.head_dim))) {}

Value GatedAttention::operator()(Value x, Value asking, Value cache,
                                 const std::shared_ptr<const RopeParams>& rotation) const {
  const Graph::ScopeGuard guard(x.graph(), "self_attn");
  Value both = q_proj(asking);
  const auto half = [&](int64_t first, const Shape& inner) {
    return gather_columns(both, column_runs(num_heads, 2 * head_dim, first, head_dim), inner);
  };
  Value q = rope(q_norm(half(0, {num_heads, head_dim})), rotation);
  Value gate = half(head_dim, {num_heads * head_dim});
  Value k = k_norm(k_proj(x).reshape({num_kv_heads, head_dim}));
  Value v = v_proj(x).reshape({num_kv_heads, head_dim});
  cache = kv_append(rope(k, rotation), v, cache);
  Value attended = attention(q, cache, scale).reshape({num_heads * head_dim});
  return o_proj(act_mul(gate, attended, Unary::kSigmoid));
}

}  // namespace decant::layers
