#pragma once

#include <cmath>
#include <numbers>

#include "layers/embedding.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "ops/binary.h"
#include "ops/unary.h"

namespace decant::layers {

/// What each of L layers gets of each token: its columns of a second embedding table, and of a
/// projection of the token's embedding. Weights  embed_tokens_per_layer [V', L P],
/// per_layer_model_projection [L P, D], per_layer_projection_norm [P]. Ids beyond V' read row 0.
/// Source  gemma3n.md section 3.2; gemma4.md section 3.2.
struct PerLayerInputs {
  Embedding table;
  Linear projection;
  RmsNorm norm;
  int64_t num_layers, width, hidden;

  PerLayerInputs(const WeightScope& w, int64_t vocab, int64_t layers, int64_t layer_width,
                 int64_t hidden_size, float eps)
      : table(w / "embed_tokens_per_layer", vocab, layers * layer_width),
        projection(w / "per_layer_model_projection", layers * layer_width, hidden_size),
        norm(w / "per_layer_projection_norm", layer_width, eps),
        num_layers(layers),
        width(layer_width),
        hidden(hidden_size) {}
  /// x [N, D], the scaled embeddings -> [N, L P].
  Value operator()(Value x) const {
    const Graph::ScopeGuard guard(x.graph(), "per_layer_inputs");
    Value rows = scale(embed(x.graph(), table.table, true), std::sqrt(static_cast<float>(width)));
    Value projected = scale(projection(x), 1 / std::sqrt(static_cast<float>(hidden)));
    Value normed = norm(projected.reshape({num_layers, width})).reshape({num_layers * width});
    return scale(add(normed, rows), 1 / std::numbers::sqrt2_v<float>);
  }
};

}  // namespace decant::layers
