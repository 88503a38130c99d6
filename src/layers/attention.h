#pragma once

#include <memory>
#include <optional>

#include "checkpoint/config_reader.h"
#include "graph/external.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "ops/attention.h"
#include "ops/rope.h"

namespace decant::layers {

struct AttentionConfig {
  int64_t hidden_size = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  bool bias = false;   // on q, k, v and o
  bool o_bias = true;  // false: o has none even where the others do
  bool norms = false;  // of q and k, per head, before the rotation
  float eps = 1e-6f;

  /// `head_dim` 0: hidden_size / num_attention_heads unless the config names one.
  /// Errors: ConfigError for sizes out of range or that do not divide.
  static AttentionConfig read(const ConfigReader& config, int64_t hidden_size, int64_t head_dim,
                              float eps);
  KvSpec kv_spec() const {
    return {static_cast<int>(num_kv_heads), static_cast<int>(head_dim), 0, 0};
  }
};

/// Grouped-query attention of a decoder. Weights  q_proj [H D, hidden], k_proj, v_proj [Hkv D,
/// hidden], o_proj [hidden, H D]; q_norm, k_norm [D].
struct Attention {
  Linear q_proj, k_proj, v_proj, o_proj;
  std::optional<RmsNorm> q_norm, k_norm;
  int64_t num_heads, num_kv_heads, head_dim;
  float scale;

  Attention(const AttentionConfig& config, const WeightScope& scope);
  /// x [N, hidden] are stored in `cache`, which is this layer's; `asking` [M, hidden] are the rows
  /// that attend, all of x or what narrow_rows leaves of it; y [M, hidden].
  Value operator()(Value x, Value asking, Value cache,
                   const std::shared_ptr<const RopeParams>& rotation) const;
};

/// The page-table group of layers with this window (0: full attention); a new one is appended.
int window_group(std::vector<int>& windows, int window);

}  // namespace decant::layers
