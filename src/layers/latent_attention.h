#pragma once

#include <memory>
#include <optional>

#include "checkpoint/config_reader.h"
#include "graph/external.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "ops/latent.h"
#include "ops/rope.h"

namespace decant::layers {

struct LatentConfig {
  int64_t hidden_size = 0;
  int64_t num_heads = 0;
  int64_t q_rank = 0;   // of the query's latent; 0: queries are projected directly
  int64_t kv_rank = 0;  // of the latent that is cached
  int64_t nope = 0, rotary = 0, value = 0;  // of a head
  bool bias = false;                        // on the projections from and to the hidden state
  float eps = 1e-6f;                        // of the latents' norms
  float scale = 1;
  std::shared_ptr<const RopeParams> rotation;

  /// Errors: ConfigError for values out of range.
  static LatentConfig read(const ConfigReader& config, int64_t hidden_size, float eps);
  KvSpec kv_spec() const { return {1, static_cast<int>(kv_rank + rotary), 0, 0, KvKind::kRows}; }
};

struct IndexerConfig {
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int top_k = 0;
  float eps = 1e-6f;                           // of the keys' layer norm
  std::shared_ptr<const RopeParams> rotation;  // of the first dimensions of a head

  /// Errors: ConfigError for values out of range. The rotation is `latent`'s but for its pairs.
  static IndexerConfig read(const ConfigReader& config, const LatentConfig& latent);
  KvSpec kv_spec() const { return {1, static_cast<int>(head_dim), 0, 0, KvKind::kKeys}; }
};

/// Chooses the positions a layer and those that share its choice attend to. Weights  wq_b [Hi Di,
/// q_rank], wk [Di, hidden], k_norm.weight, k_norm.bias [Di], weights_proj [Hi, hidden].
/// Source  transformers, GlmMoeDsaIndexer; glm_moe_dsa.md section 3.3.
struct Indexer {
  Linear wq_b, wk, weights_proj;
  LayerNorm k_norm;
  IndexerConfig config;

  Indexer(const IndexerConfig& config, const LatentConfig& latent, const WeightScope& scope);
  /// x [N, hidden] are stored in `cache`; `asking` [M, hidden] with their query latents qr [M,
  /// q_rank] choose: [M, top_k] positions (ops/latent.h).
  Value operator()(Value x, Value asking, Value qr, Value cache) const;
};

/// Multi-head latent attention, absorbed: one row [kv_rank + rotary] per position is cached.
/// Weights  q_a_proj [q_rank, hidden], q_a_layernorm [q_rank], q_b_proj [H (nope + rotary), q_rank]
/// (or q_proj from the hidden state), kv_a_proj_with_mqa [kv_rank + rotary, hidden],
/// kv_a_layernorm [kv_rank], o_proj [hidden, H value]; and per head the key and value parts of
/// kv_b_proj [H (nope + value), kv_rank], which MLX files hold as embed_q [H, kv_rank, nope] and
/// unembed_out [H, value, kv_rank]. Source  glm_moe_dsa.md sections 2.2, 3.1 and 3.2.
struct LatentAttention {
  std::optional<Linear> q_proj, q_a_proj, q_b_proj;
  std::optional<RmsNorm> q_a_layernorm;
  Linear kv_a_proj_with_mqa;
  RmsNorm kv_a_layernorm;
  const Weight *embed_q, *unembed_out;
  Linear o_proj;
  std::optional<Indexer> indexer;
  LatentConfig config;

  LatentAttention(const LatentConfig& config, const IndexerConfig* indexer,
                  const WeightScope& scope);
  /// x [N, hidden] are stored in `cache` and, with an indexer, in `index_cache`; `asking` [M,
  /// hidden] attend; y [M, hidden]. `chosen` is what the layers before chose, nothing for all
  /// positions; a layer with an indexer replaces it.
  Value operator()(Value x, Value asking, Value cache, Value index_cache, Value& chosen) const;
};

}  // namespace decant::layers
