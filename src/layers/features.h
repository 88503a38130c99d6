#pragma once

#include "ops/features.h"

namespace decant::layers {

/// h [N, hidden], the embeddings, with the features of the step in place of their tokens'; h itself
/// where a step has none.
inline Value with_features(Value h) {
  Graph& graph = h.graph();
  if (!graph.capacity().features) return h;
  return merge_features(h, graph.input(kFeatureInput, h.type()));
}

}  // namespace decant::layers
