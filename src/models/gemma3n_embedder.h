#pragma once

#include <cmath>

#include "layers/embedding.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "ops/norm.h"
#include "ops/unary.h"

namespace decant {

/// How features of a tower, or ids of its medium, become rows of Gemma 3n's text model.
/// Source  transformers, Gemma3nMultimodalEmbedder; gemma3n.md section 4.5.
struct Gemma3nEmbedder {
  layers::Embedding embedding;
  layers::RmsNorm hard_norm, soft_norm;
  layers::Linear projection;

  /// `width` are the columns of the tower's features, `hidden` those of the text model.
  Gemma3nEmbedder(const WeightScope& w, int64_t vocab, int64_t width, int64_t hidden, float eps)
      : embedding(w / "embedding", vocab, width),
        hard_norm(w / "hard_embedding_norm", width, eps),
        soft_norm(w / "soft_embedding_norm", width, eps),
        projection(w / "embedding_projection", hidden, width) {}

  /// Features [rows, width] -> [rows, hidden].
  Value soft(Value features) const { return project(soft_norm(features)); }
  /// The batch's ids, counted from the first of the medium, -> [N, hidden].
  Value hard(Graph& graph) const { return project(hard_norm(embedding(graph))); }

 private:
  Value project(Value x) const { return rms_norm(projection(x), nullptr, soft_norm.eps); }
};

}  // namespace decant
