#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/format.h"

namespace decant {

/// Where the planes of quantised rows go.
struct QuantizedPlanes {
  std::byte* data = nullptr;
  std::byte* scales = nullptr;
  std::byte* biases = nullptr;  // affine only
};

/// Rows of dense values where they lie.
struct SourceRows {
  const std::byte* data = nullptr;
  DType dtype = DType::kBF16;
  DType rounded = DType::kBF16;  // values are rounded to this type first
  int64_t rows = 0;
  int64_t cols = 0;
};

/// Sums of squares over quantised values, for the relative error of a conversion.
struct QuantizeError {
  double values = 0;   // of the values themselves
  double nearest = 0;  // of the errors of rounding to nearest with the standard scales
  double found = 0;    // of what was written

  QuantizeError& operator+=(const QuantizeError& other);
};

/// Quantises rows as MLX does, bit for bit. Affine: per group, the bias is the edge of larger
/// magnitude and the scale is set so that zero is a code (one bit: the codes are the edges); scales
/// and biases have the type `format.dtype`, which is also the type values are rounded to. Micro
/// formats: the scale is the largest magnitude over that of an element, in the type of the values,
/// rounded to its own type. Returns false if a value is not finite.
/// Shapes  cols % format.group == 0; planes as Format sizes them.
/// Source  mlx/backend/cpu/quantized.cpp and mlx/ops.cpp, fp_quantize.
bool quantize_rows(const SourceRows& source, const Format& format, const QuantizedPlanes& out);

/// As quantize_rows, but every group takes, among scales (and biases) around those, the ones of the
/// least squared error, measured on what will be decoded; never worse than rounding to nearest.
/// Adds what it found to `error`.
bool search_rows(const SourceRows& source, const Format& format, const QuantizedPlanes& out,
                 QuantizeError& error);

}  // namespace decant
