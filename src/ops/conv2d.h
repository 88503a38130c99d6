#pragma once

#include "graph/graph.h"

namespace decant {

/// How a window moves over a picture whose pixels are rows: row r * width + c of the value is the
/// pixel in row r and column c, its columns are channels.
struct Window2d {
  int64_t height = 0, width = 0;  // of the picture
  int64_t rows = 1, columns = 1;  // of the window
  int64_t row_stride = 1, column_stride = 1;
  int64_t top = 0, bottom = 0, left = 0, right = 0;  // zeros around the picture

  int64_t out_height() const { return (height + top + bottom - rows) / row_stride + 1; }
  int64_t out_width() const { return (width + left + right - columns) / column_stride + 1; }
  int64_t out_pixels() const { return out_height() * out_width(); }
  int64_t taps() const { return rows * columns; }
  /// A square window padded as TensorFlow's "SAME": ceil(side / stride) results a side, of an odd
  /// number of zeros the larger half after the picture.
  static Window2d same(int64_t height, int64_t width, int64_t size, int64_t stride);
  bool operator==(const Window2d&) const = default;
};
struct Window2dParams : OpParams {
  Window2d window;
  std::string text() const override;
};

/// The pixels under each place of the window, side by side: zeros where it leaves the picture.
/// Shapes  x [height * width, C]; y [out_height * out_width, taps, C], taps row by row.
Value patch_rows(Value x, const Window2d& window);

/// A dense convolution. Composite: patch_rows and linear (linear alone where the window is a
/// pixel). Shapes  x [height * width, I]; W [O, taps * I], columns (row, column, channel), dense;
/// bias [O]; y [out_height * out_width, O]. Source  WeightScope::kernel gives such a W.
Value conv2d(Value x, const Weight* weight, const Window2d& window, const Weight* bias = nullptr);

/// Each channel convolved with its own kernel.
/// Shapes  x [height * width, C]; W [taps, C] f32; y [out_height * out_width, C].
/// Source  WeightScope::taps gives such a W.
Value depthwise_conv2d(Value x, const Weight* weight, const Window2d& window);

const Op& patch_rows_op();
const Op& conv2d_op();
const Op& depthwise_conv2d_op();

}  // namespace decant
