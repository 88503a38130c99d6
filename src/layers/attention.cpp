#include "layers/attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "layers/config.h"

namespace decant::layers {

AttentionConfig AttentionConfig::read(const ConfigReader& config, int64_t hidden_size,
                                      int64_t head_dim, float eps) {
  constexpr int64_t kMaxHeads = 65536, kMaxHeadDim = 65536;
  AttentionConfig out;
  out.hidden_size = hidden_size;
  out.eps = eps;
  out.num_heads = config.in_range("num_attention_heads", 1, kMaxHeads);
  out.num_kv_heads = config.in_range_or("num_key_value_heads", out.num_heads, 1, kMaxHeads);
  if (out.num_heads % out.num_kv_heads != 0)
    config.fail("num_key_value_heads", fmt::format("a divisor of {} heads", out.num_heads));
  if (!config.has("head_dim") && head_dim == 0) {
    if (hidden_size % out.num_heads != 0)
      config.fail("num_attention_heads", fmt::format("a divisor of hidden_size {}", hidden_size));
    head_dim = hidden_size / out.num_heads;
  }
  out.head_dim = config.in_range_or("head_dim", head_dim, 1, kMaxHeadDim);
  if (out.head_dim % 2 != 0) config.fail("head_dim", "an even number");
  if (out.num_heads * out.head_dim > kMaxWidth)
    config.fail("num_attention_heads",
                fmt::format("heads times head_dim of at most {}", kMaxWidth));
  out.bias = config.value_or("attention_bias", false);
  return out;
}

namespace {

std::optional<RmsNorm> head_norm(const AttentionConfig& c, const WeightScope& scope) {
  if (!c.norms) return std::nullopt;
  return RmsNorm(scope, c.head_dim, c.eps);
}

}  // namespace

Attention::Attention(const AttentionConfig& c, const WeightScope& w)
    : q_proj(w / "q_proj", c.num_heads * c.head_dim, c.hidden_size, c.bias),
      k_proj(w / "k_proj", c.num_kv_heads * c.head_dim, c.hidden_size, c.bias),
      v_proj(w / "v_proj", c.num_kv_heads * c.head_dim, c.hidden_size, c.bias),
      o_proj(w / "o_proj", c.hidden_size, c.num_heads * c.head_dim, c.bias && c.o_bias),
      q_norm(head_norm(c, w / "q_norm")),
      k_norm(head_norm(c, w / "k_norm")),
      num_heads(c.num_heads),
      num_kv_heads(c.num_kv_heads),
      head_dim(c.head_dim),
      scale(1 / std::sqrt(static_cast<float>(c.head_dim))) {}

Value Attention::operator()(Value x, Value asking, Value cache,
                            const std::shared_ptr<const RopeParams>& rotation) const {
  const Graph::ScopeGuard guard(x.graph(), "self_attn");
  Value q = q_proj(asking).reshape({num_heads, head_dim});
  Value k = k_proj(x).reshape({num_kv_heads, head_dim});
  Value v = v_proj(x).reshape({num_kv_heads, head_dim});
  if (q_norm) q = (*q_norm)(q);
  if (k_norm) k = (*k_norm)(k);
  q = rope(q, rotation);
  cache = kv_append(rope(k, rotation), v, cache);
  return o_proj(attention(q, cache, scale));
}

int window_group(std::vector<int>& windows, int window) {
  const auto found = std::find(windows.begin(), windows.end(), window);
  if (found != windows.end()) return static_cast<int>(found - windows.begin());
  windows.push_back(window);
  return static_cast<int>(windows.size()) - 1;
}

}  // namespace decant::layers
