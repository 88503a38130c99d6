#pragma once

#include <cstdint>

#include "backend/cpu/kernels/linear_kernels.h"
#include "graph/external.h"
#include "ops/binary.h"
#include "ops/unary.h"

namespace decant::cpu {

/// One query of an attention: one head of one token.
struct AttentionQuery {
  const float* q = nullptr;  // [head_dim]
  int64_t position = 0;      // absolute; sees keys from max(0, position - window + 1) on
  int64_t last = -1;         // up to this one, at least its own; -1: the query sees nothing
};

/// One token of one head of the gated delta rule (ops/gated_delta.h).
struct DeltaToken {
  const float* q = nullptr;  // [dk]
  const float* k = nullptr;  // [dk]
  const float* v = nullptr;  // [dv]
  float g = 0;
  float beta = 0;
  float* y = nullptr;  // [dv]; null: it only advances the state, q is not read
};

/// Consecutive tokens of one head, rows `stride` floats apart.
struct DeltaChunk {
  const float *q, *k, *v, *g, *beta;
  int64_t q_stride, k_stride, v_stride, g_stride, beta_stride;
  float* y;
  int64_t y_stride;
  int64_t count;  // 1 to kDeltaTile
};

/// Up to 64 rows of a latent cache, wherever they lie.
struct LatentTile {
  const std::byte* const* rows = nullptr;
  int64_t count = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  DType dtype = DType::kBF16;
};

/// One head of consecutive frames of ops/relative_attention.h; rows `stride` floats apart.
struct RelativeBlock {
  const float *q, *k, *v;  // of the first query's frame
  const float* r;          // by distance
  const float* q_factor;   // [dim] q_scale softplus(w)
  int64_t q_stride, k_stride, v_stride, r_stride;
  float* y;
  int64_t y_stride;
  int64_t queries;  // 1 to kRelativeQueries
  int64_t past;     // frames before the first query that exist and that it sees: at most span - 1
  int64_t span, dim;
  float k_scale, softcap;
};
inline constexpr int64_t kRelativeQueries = 16;

/// What the product kernels leave: row-wise functions of one instruction set, on contiguous f32
/// rows. A result depends on its own row only, never on how rows are grouped into calls. y may be x
/// where both are whole rows.
struct VectorKernels {
  Isa isa;
  // y = x / sqrt(mean(x^2) + eps) * w; w null: no weight.
  void (*rms_norm)(const float* x, const float* w, float eps, int64_t size, float* y);
  // sum = a + b; y = rms_norm(sum)
  void (*add_rms_norm)(const float* a, const float* b, const float* w, float eps, int64_t size,
                       float* sum, float* y);
  // y = (x - mean) / sqrt(variance + eps) * w + b; w and b may be null
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps, int64_t size,
                     float* y);
  // y = min(max(x, lo), hi), NaN stays
  void (*bound)(const float* x, float lo, float hi, int64_t size, float* y);
  // ops/norm.h, match_magnitude
  void (*match_magnitude)(const float* u, const float* ref, float floor, int64_t size, float* y);
  // cos and sin of float(position * inv_freq[i]) times factor, accurate to 1e-7 for |angle| up to
  // 2^20
  void (*angles)(float position, const float* inv_freq, float factor, int64_t half, float* cos,
                 float* sin);
  // One head of dim floats; the first 2 * half are rotated, the rest copied.
  void (*rotate)(const float* x, const float* cos, const float* sin, int64_t half, int64_t dim,
                 bool interleaved, float* y);
  void (*unary)(Unary kind, const float* x, float constant, int64_t size, float* y);
  void (*binary)(Binary kind, const float* a, const float* b, int64_t size, float* y);
  void (*binary_scalar)(Binary kind, const float* a, float b, int64_t size, float* y);
  // y = act(gate) * up
  void (*act_mul)(Unary act, const float* gate, const float* up, int64_t size, float* y);
  // ops/mlp.h, gelu_topk
  void (*gelu_topk)(const float* gate, const float* up, float quantile, int64_t size, float* y);
  float (*mean)(const float* x, int64_t size);
  float (*variance)(const float* x, int64_t size);
  // y = x + sum over i ascending of c[i] * rows[i * stride], one fma per term; x may be null (0)
  void (*weighted_sum)(const float* x, const float* c, const float* rows, int64_t stride,
                       int64_t count, int64_t size, float* y);
  // softmax or sigmoid scores are formed by the caller; this is exp(x - max) and its sum, for
  // routers
  float (*softmax_exp)(const float* x, int64_t size, float* y);

  // Attention over one split of kAttentionSplit pages: keys [split * 1024, split * 1024 + 1024)
  // that the query sees. partial of query i, at partial + i * (head_dim + 2): {max, sum of exp,
  // weighted values...}; {-inf, 0, 0...} if it sees none. Pages are walked ascending with an online
  // softmax, 64 keys at a time.
  void (*attention_split)(const KvPool& pool, const int32_t* pages, int kv_head, int64_t split,
                          const AttentionQuery* queries, int64_t count, float scale, float softcap,
                          float* partial);
  // Merges the partials of one query (count of them, `stride` floats apart) in ascending order into
  // y [head_dim].
  void (*attention_merge)(const float* partials, int64_t stride, int64_t count, int64_t head_dim,
                          float* y);
  // Stores one head of one token into its page.
  void (*kv_store)(const KvPool& pool, int64_t page, int slot, int kv_head, const float* k,
                   const float* v);

  // y = x / sqrt(sum(x^2) + eps) * factor
  void (*l2_norm)(const float* x, float eps, float factor, int64_t size, float* y);
  // y[i] = act(sum over j ascending of w[j * stride + i] * rows[j][i]); constant: the activation's
  void (*convolve)(const float* const* rows, const float* w, int64_t stride, int64_t taps,
                   Unary act, float constant, int64_t size, float* y);
  // The gated delta rule token by token on state [dk][dv]: the first `stored` advance it, the
  // others are answered as if they had. scratch: dk * 64 floats.
  void (*delta_steps)(float* state, int64_t dk, int64_t dv, const DeltaToken* tokens,
                      int64_t stored, int64_t count, float* scratch);
  // The same rule for up to kDeltaTile tokens at once; all advance the state. scratch:
  // delta_chunk_floats.
  void (*delta_chunk)(float* state, int64_t dk, int64_t dv, const DeltaChunk& chunk,
                      float* scratch);
  // The same for a cache of rows or of keys only.
  void (*row_store)(const KvPool& pool, int64_t page, int slot, int head, const float* x);
  // Queries (heads of one token, each of tile.key_dim floats, scaled) over one tile of rows, whose
  // first tile.value_dim columns are the values. Continues `partial`, of each query at i *
  // (value_dim + 2): {max, sum of exp, weighted values...}; {-inf, 0, 0...} before the first tile.
  void (*latent_tile)(const LatentTile& tile, const float* q, int64_t queries, float* partial);
  // acc = acc and part together, both of dim values as latent_tile leaves them.
  void (*latent_merge)(const float* part, int64_t dim, float* acc);
  // y = values / sum
  void (*latent_finish)(const float* acc, int64_t dim, float* y);
  // scores[s] = sum over h ascending of weights[h] * relu(q[h] . key of slot s) for the 64 slots of
  // a page; slots past what is stored give anything. q [heads, head_dim].
  void (*index_scores)(const KvPool& pool, int64_t page, const float* q, const float* weights,
                       int64_t heads, float* scores);

  // y[i] = sum over j ascending of w[j * size + i] * rows[j][i]
  void (*depthwise)(const float* const* rows, const float* w, int64_t taps, int64_t size, float* y);
  // y[i] = sum over j ascending of c[j] * rows[j][i]
  void (*blend)(const float* const* rows, const float* c, int64_t count, int64_t size, float* y);

  // Products with dense weights for many rows of x wherever they lie. A panel holds the weights of
  // up to panel_width outputs column by column: panel[k * panel_width + i] = rows[i * stride + k],
  // at most kMostPanel of them.
  int64_t panel_width;
  void (*pack_panel)(const float* rows, int64_t stride, int64_t count, int64_t cols, float* panel);
  // y[i * y_stride + o] = sum over k ascending of x[i][k] * panel[k * panel_width + o] for o <
  // outputs, one sum after the other from what y held or, with `first`, from 0.
  void (*panel_product)(const float* const* x, int64_t count, const float* panel, int64_t cols,
                        int64_t outputs, bool first, float* y, int64_t y_stride);
  static constexpr int64_t kMostPanel = 32;

  // Queries of one head over the frames they see. A result depends on its own query alone, not on
  // where blocks are cut. scratch: relative_floats.
  void (*relative_block)(const RelativeBlock& block, float* scratch);
};

/// Scratch of delta_chunk, in floats.
constexpr int64_t delta_chunk_floats(int64_t dk, int64_t dv, int64_t rows) {
  return rows * (dk + 2 * rows + dv + 2);
}

/// Scratch of relative_block, in floats.
constexpr int64_t relative_floats(int64_t span, int64_t dim) {
  const int64_t keys = (kRelativeQueries + span + 15) / 16 * 16, distances = (span + 15) / 16 * 16;
  return kRelativeQueries * (dim + keys + distances) + (keys + distances) * dim;
}

/// Kernels of one instruction set; `isa` must be available.
const VectorKernels& vector_kernels(Isa isa);

}  // namespace decant::cpu
