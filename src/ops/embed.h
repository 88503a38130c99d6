#pragma once

#include "graph/graph.h"

namespace decant {

struct EmbedParams : OpParams {
  bool out_of_range_is_row_zero = false;
};

/// Rows of a table by token id:  y[n] = W[tokens[n]].
/// Shapes  W [V, D] in any format; y [N, D].
/// Dtypes  rows are decoded exactly, returned f32.
/// Errors  ids are checked by the engine; with out_of_range_is_row_zero ids >= V read row 0 (Gemma
/// 3n's per-layer table). Source  transformers, nn.Embedding; gemma3n.md section 3.2.
Value embed(Graph& graph, const Weight* table, bool out_of_range_is_row_zero = false);
const Op& embed_op();

}  // namespace decant
