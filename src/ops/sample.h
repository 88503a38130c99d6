#pragma once

#include "graph/graph.h"

namespace decant {

/// One token per output row, as its SamplingRow of the batch asks; where there is none, the
/// negative cause of sampling/sampler.h. The logits stay as they are. Shapes  logits [outputs, V];
/// y [outputs, 1] i32. Source  sampling/sampler.h, sample_token.
Value sample(Value logits);
const Op& sample_op();

}  // namespace decant
