#pragma once

#include "graph/graph.h"

namespace decant {

struct FrameConvParams : OpParams {
  int taps = 1;     // K, the frame's own included
  float bound = 0;  // 0: none
  std::string text() const override;
};

/// Causal depthwise convolution over the frames of one sound, then a clamp to [-bound, bound]:
///   y_t[c] = clamp(sum over j ascending of w[c, j] x_(t-K+1+j)[c]),  zeros before the first frame.
/// causal_conv1d is the same over a sequence's tokens, with what it remembers of earlier steps.
/// Shapes  x, y [T, C], rows are fixed; w of C K elements, [C, K] in order (files write [C, 1, K]
/// or [C, K, 1]). Dtypes  f32. Source  transformers, Gemma3nAudioConformerLightConv1d,
/// Gemma4AudioCausalConv1d.
Value frame_conv(Value x, const Weight* weight, float bound = 0);

struct CumulativeNormParams : OpParams {
  int64_t rows = 1;  // of a frame
  float eps = 1e-3f;
  std::string text() const override;
};

/// Normalises the frames of one sound by what came up to each of them, all rows and channels of a
/// frame together. With S_t and N_t the sum and the number of the elements of frames 0 to t:
///   mu_t = S_t / N_t;  var_t = (sum over s <= t of sum (x_s - mu_s)^2) / N_t
///   y_t = (x_t - mu_t) / sqrt(var_t + eps) * w[c].
/// Each frame deviates from its own running mean, not from the last one.
/// Shapes  x, y [T rows, C], rows are fixed, those of a frame follow each other; w [C].
/// Dtypes  f32, running sums in double. Source  transformers, Gemma3nAudioCumulativeGroupNorm;
/// gemma3n.md section 5.2.
Value cumulative_norm(Value x, const Weight* weight, int64_t rows, float eps);

struct PickRowsParams : OpParams {
  std::vector<int64_t> rows;
  std::string text() const override;
};

/// Rows of several values below each other, known when the graph is recorded: with P = [parts[0];
/// parts[1]; ...], y[i] = P[rows[i]]. Shapes  parts [Ni, inner], of fixed rows, or of tokens in a
/// program whose steps fill its capacity; y [rows, inner], fixed.
Value pick_rows(std::span<const Value> parts, std::vector<int64_t> rows);

const Op& frame_conv_op();
const Op& cumulative_norm_op();
const Op& pick_rows_op();

}  // namespace decant
