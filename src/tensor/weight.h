#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tensor/format.h"
#include "tensor/shape.h"

namespace decant {

/// Planes of one matrix where they lie (usually in a mapped file): any alignment, row-major, rows
/// unpadded.
struct MatrixView {
  const std::byte* data = nullptr;
  const std::byte* scales = nullptr;
  const std::byte* biases = nullptr;
  Format format;
  int64_t rows = 0;
  int64_t cols = 0;
  float tensor_scale = 1.0f;  // nvfp4: second-level scale of the whole matrix

  /// The rows [begin, begin + count) of this matrix.
  MatrixView slice_rows(int64_t begin, int64_t count) const;
};

/// Values of row `row`, decoded to float exactly as the format defines: the reference of every
/// kernel. `out` holds cols floats. Affine: float32 scale * q + bias, product rounded before the
/// sum (as MLX's dequantize in float32). Micro formats: element * scale, where the scale of nvfp4
/// is e4m3 * tensor_scale, rounded first.
void dequantize_row(const MatrixView& matrix, int64_t row, float* out);

/// A parameter of a model: a vector, a matrix, or a table of equally shaped expert matrices.
///
/// shape is what the family asked for: [n], [out, in] or [experts, out, in]; views has one entry,
/// or one per expert. The bytes belong to `owners` (mapped files, converted copies) and are never
/// written.
struct Weight {
  std::string name;
  Shape shape;
  Format format;
  std::vector<MatrixView> views;
  std::vector<std::shared_ptr<const void>> owners;
  std::string source;      // how the file has it where another tool quantised it, else empty
  int64_t made_bytes = 0;  // of planes that were made at load; the others are mapped from files

  const MatrixView& view() const { return views.front(); }
  int64_t experts() const { return static_cast<int64_t>(views.size()); }
  /// All planes of all views.
  int64_t bytes() const;
};

}  // namespace decant
