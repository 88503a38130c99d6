#pragma once

#include "graph/graph.h"

namespace decant {

/// Rotary position embedding of one kind of layer.
struct RopeParams : OpParams {
  std::vector<float> inv_freq;    // [rotary / 2], scaling already applied
  float attention_factor = 1.0f;  // multiplies cos and sin (yarn)
  bool interleaved = false;       // pairs (2i, 2i+1) instead of (i, i + rotary/2)
  /// M-RoPE: which of a token's axes (0 time, 1 height, 2 width) turns pair i; empty: its position.
  std::vector<uint8_t> axes;
  std::string text() const override;
};

/// Rotates the first 2 * inv_freq.size() of the last dimension by position * inv_freq[i], positions
/// from the batch (of rows narrowed to the outputs: row i is token batch.outputs[i]): (a, b) -> (a
/// cos - b sin, b cos + a sin). With `axes`, pair i takes the axis it names of
/// Batch::rope_positions where the batch has them; a text token's axes are all its position. Shapes
/// x, y [N or outputs, H, D]. Dtypes  angle, cos, sin and products in f32. Source  transformers,
/// modeling_rope_utils; qwen3.md sections 3 and 3.1.
Value rope(Value x, std::shared_ptr<const RopeParams> params);

/// y = rope(rms_norm(x, w)): what a head norm followed by a rotation fuses to. Composite. Shapes x,
/// y [N, H, D]; w [D].
Value norm_rope(Value x, const Weight* weight, float eps, std::shared_ptr<const RopeParams> params);

struct NormRopeParams : OpParams {
  float eps = 1e-6f;
  std::shared_ptr<const RopeParams> rope;
  std::string text() const override;
};

const Op& rope_op();
const Op& norm_rope_op();

}  // namespace decant
