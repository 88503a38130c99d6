#pragma once

#include "graph/graph.h"
#include "ops/rope.h"

namespace decant {

// Multi-head latent attention in its absorbed form: a position's keys and values of all heads are
// products of one latent, so the latent is what is stored, and what heads would multiply it with is
// multiplied into the query before and into the result after.

/// y[n, h] = W[h] x[n, h, 0 : in]: a matrix of its own for each head. Heads of x may be wider than
/// the matrix: the rest of them is another reader's.
/// Shapes  x [N, H, >= in]; W [H, out, in]; y [N, H, out]. Dtypes  as linear.
Value head_linear(Value x, const Weight* table);

/// rope() of a part of each head, and nothing but that part: columns [begin, begin + R) with R = 2
/// * inv_freq.size(). Shapes  x [N, H, >= begin + R]; y [N, H, R].
Value rope_columns(Value x, int64_t begin, std::shared_ptr<const RopeParams> params);

/// Writes the step's rows into the pages of their sequences: a cache of keys only or of rows.
/// Returns the cache's new version. Shapes  x [N, heads, D] of the cache.
Value row_append(Value x, Value cache);

struct LatentParams : OpParams {
  float scale = 1.0f;
  std::string text() const override;
};

/// Attention of all heads over one row per position, [latent, rotated key]: scores are those of the
/// whole row, values are its latent part.
///   s[h, j] = scale * (qa[h] . row[j, 0 : C] + qr[h] . row[j, C :]);  y[h] = sum softmax(s[h])[j]
///   row[j, 0 : C]
/// over the positions j <= p of the sequence, or over those that `chosen` lists.
/// Shapes  qa, y [M, H, C]; qr [M, H, R]; cache of rows, one head of C + R; chosen [M, K] i32:
/// min(K, p + 1) positions ascending, then -1.
/// Dtypes  f32; never [M, S] scores at once. A row's result depends on its sequence only: its
/// positions are taken in tiles of 64 with an online softmax, in splits of kLatentSplit whose
/// results are merged in ascending order.
/// Source  transformers, GlmMoeDsaAttention; glm_moe_dsa.md section 3.2.
Value latent_attention(Value qa, Value qr, Value cache, float scale, Value chosen = {});
inline constexpr int kLatentSplit = 1024;

struct IndexParams : OpParams {
  int top_k = 1;
  float scale = 1.0f;
  std::string text() const override;
};

/// The positions a sparse attention reads: those of the K largest
///   score[j] = sum over h ascending of scale * weights[h] * relu(q[h] . key[j]),  j <= p,
/// in f32; of equal scores the lower position. All of them, unscored, where there are no more than
/// K. Shapes  q [M, H, D]; weights [M, H]; cache of keys, one head of D; result [M, K] i32:
/// positions ascending, then -1. Source  transformers, GlmMoeDsaIndexer; glm_moe_dsa.md
/// section 3.3.
Value index_top_k(Value q, Value weights, Value cache, int top_k, float scale);

/// The graph with every latent attention reading all positions, whatever was chosen: the oracle of
/// sparse attention.
Graph without_choice(const Graph& graph);

const Op& head_linear_op();
const Op& rope_columns_op();
const Op& row_append_op();
const Op& latent_attention_op();
const Op& index_top_k_op();

struct RopeColumnsParams : OpParams {
  int64_t begin = 0;
  std::shared_ptr<const RopeParams> rope;
  std::string text() const override;
};

}  // namespace decant
