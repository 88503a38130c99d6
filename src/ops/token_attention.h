#pragma once

#include "graph/graph.h"

namespace decant {

struct TokenAttentionParams : OpParams {
  float scale = 1.0f;
  std::string text() const override;
};

/// Attention of each row of q over all rows of k and v, without order, mask or cache:
/// y = softmax(q k^T * scale) v. Query head h reads KV head h / (H / Hkv).
/// Shapes  q, y [M, H, D]; k, v [S, Hkv, D]; all of fixed rows.
/// Dtypes  f32; never [M, S] scores at once.
/// Source  timm, MultiQueryAttention2d.
Value token_attention(Value q, Value k, Value v, float scale);
const Op& token_attention_op();

}  // namespace decant
