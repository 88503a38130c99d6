#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"

namespace decant {

/// Which rows each row of a result is a weighted sum of: of row i those at [first[i], first[i + 1])
/// of `rows` and `weights`.
struct RowBlend {
  std::vector<int64_t> first{0};
  std::vector<int64_t> rows;
  std::vector<float> weights;

  int64_t count() const { return static_cast<int64_t>(first.size()) - 1; }
  void take(int64_t row, float weight) {
    rows.push_back(row);
    weights.push_back(weight);
  }
  void end_row() { first.push_back(static_cast<int64_t>(rows.size())); }

  // Of pictures whose pixels are rows, [height * width, C] -> [to_height * to_width, C].
  /// Means of blocks; sides are multiples of the results'. Source  torch, avg_pool2d.
  static RowBlend average_pool(int64_t height, int64_t width, int64_t to_height, int64_t to_width);
  /// Source  torch, interpolate(mode="nearest").
  static RowBlend nearest(int64_t height, int64_t width, int64_t to_height, int64_t to_width);
  /// Between the centres of pixels, without a filter. Source  torch, interpolate(mode="bilinear").
  static RowBlend bilinear(int64_t height, int64_t width, int64_t to_height, int64_t to_width);
};
struct BlendRowsParams : OpParams {
  RowBlend blend;
  std::string text() const override;
};

/// Rows that are weighted sums of a few rows: y[i] = sum of weights * x[rows]. What resizing and
/// pooling of pictures are.
/// Shapes  x [R, C] of fixed rows; y [blend.count(), C]. Dtypes  f32.
Value blend_rows(Value x, RowBlend blend);
const Op& blend_rows_op();

}  // namespace decant
