#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace decant {

/// How a weight matrix is stored: dense floats or a packed kind (qwen3.md, appendix Q).
struct Format {
  enum class Kind : uint8_t { kDense, kAffine, kMxfp4, kMxfp8, kNvfp4 };
  Kind kind = Kind::kDense;
  DType dtype = DType::kBF16;  // of dense elements, or of scales and biases
  int bits = 16;               // bits of a packed element
  int group = 0;               // elements sharing a scale; 0 for dense

  static Format dense(DType dtype);
  /// w = scale * q + bias; bits in {1,2,3,4,5,6,8}, group in {32,64,128}.
  static Format affine(int bits, int group, DType scale_dtype = DType::kBF16);
  /// w = e2m1 * 2^(s - 127), groups of 32.
  static Format mxfp4();
  /// w = e4m3 * 2^(s - 127), groups of 32.
  static Format mxfp8();
  /// w = e2m1 * (e4m3 * tensor scale), groups of 16.
  static Format nvfp4();

  bool is_dense() const { return kind == Kind::kDense; }
  /// True for the kinds with one byte of scale per group and no biases.
  bool is_micro() const { return !is_dense() && kind != Kind::kAffine; }
  /// Bytes of the packed data, scales and biases of `rows` rows of `cols` elements each.
  int64_t data_row_bytes(int64_t cols) const { return cols * bits / 8; }
  int64_t scale_row_bytes(int64_t cols) const;
  int64_t bias_row_bytes(int64_t cols) const {
    return kind == Kind::kAffine ? scale_row_bytes(cols) : 0;
  }
  /// All planes of one row.
  int64_t row_bytes(int64_t cols) const {
    return data_row_bytes(cols) + scale_row_bytes(cols) + bias_row_bytes(cols);
  }
  /// "bf16", "4bit-g64", "mxfp4", ...
  std::string name() const;
  bool operator==(const Format&) const = default;
};

/// True for a combination of bits and group that MLX's affine mode has.
bool affine_supported(int bits, int group);

}  // namespace decant
