#pragma once

// Weights, activations and calls of the tests of the linear kernels.

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/linear_kernels.h"

namespace decant::cpu {

inline constexpr Isa kAll[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};
inline constexpr float kSentinel = -12345.5f;

/// Bytes at a chosen offset from a 64-byte boundary, ending where their allocation ends, so that
/// address sanitizers see a load past the end.
class Bytes {
 public:
  Bytes(size_t size, size_t offset)
      : base_(static_cast<std::byte*>(operator new(size + offset, kAlign))), offset_(offset) {}
  std::byte* data() { return base_.get() + offset_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(std::byte* p) const { operator delete(p, kAlign); }
  };
  std::unique_ptr<std::byte, Free> base_;
  size_t offset_;
};

inline void store(std::byte* to, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(to + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? float_to_f16(value) : float_to_bf16(value);
  std::memcpy(to + index * 2, &bits, 2);
}

struct Matrix {
  Bytes data;
  Bytes scales;
  Bytes biases;
  MatrixView view;

  Matrix(const Format& format, int64_t rows, int64_t cols, uint32_t seed, size_t offset = 0,
         bool all_ones = false)
      : data(static_cast<size_t>(format.data_row_bytes(cols) * rows), offset),
        scales(static_cast<size_t>(format.scale_row_bytes(cols) * rows), offset),
        biases(static_cast<size_t>(format.bias_row_bytes(cols) * rows), offset) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    float tensor_scale = 1.0f;
    if (format.is_micro()) {
      const auto bytes = format.data_row_bytes(cols) * rows;
      for (int64_t i = 0; i < bytes; ++i) {
        auto code = static_cast<uint8_t>(random());
        if (format.bits == 8 && (code & 0x7Fu) == 0x7Fu) code ^= 1u;  // no NaN
        data.data()[i] = all_ones ? std::byte{0x77} : static_cast<std::byte>(code);
      }
      const bool nvfp4 = format.kind == Format::Kind::kNvfp4;
      if (nvfp4) tensor_scale = seed % 2 == 0 ? 0.37f : 1.0f;
      for (int64_t i = 0; i < rows * (cols / format.group); ++i)
        scales.data()[i] = static_cast<std::byte>(nvfp4 ? float_to_e4m3(0.3f * normal(random))
                                                        : 119 + random() % 6);
    } else if (format.is_dense()) {
      for (int64_t i = 0; i < rows * cols; ++i) store(data.data(), format.dtype, i, normal(random));
    } else {
      const auto bytes = format.data_row_bytes(cols) * rows;
      for (int64_t i = 0; i < bytes; ++i)
        data.data()[i] = all_ones ? std::byte{0xFF} : static_cast<std::byte>(random());
      for (int64_t i = 0; i < rows * (cols / format.group); ++i) {
        store(scales.data(), format.dtype, i, 0.02f * normal(random));
        store(biases.data(), format.dtype, i, 0.1f * normal(random));
      }
    }
    view = {data.data(), scales.data(), biases.data(), format, rows, cols, tensor_scale};
  }
};

inline std::vector<float> activations(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(rows * cols));
  for (float& value : out) value = normal(random);
  return out;
}

struct Quantized {
  Bytes bytes;
  QuantizedRows rows;
  int64_t count;

  Quantized(const LinearKernels& kernels, const std::vector<float>& x, int64_t live, int64_t cols)
      : bytes(static_cast<size_t>(QuantizedRows::bytes(live, cols)), 0),
        rows(QuantizedRows::over(bytes.data(), live, cols)),
        count(live) {
    kernels.quantize_rows(x.data(), cols, 0, live, rows);
  }
  double value(int64_t row, int64_t col) const {
    return static_cast<double>(rows.scales[row * (rows.cols / 32) + col / 32]) *
           rows.values[row * rows.cols + col];
  }
};

struct ScratchBuffer {
  Bytes bytes{static_cast<size_t>(Scratch::kBytes), 0};
  Scratch scratch{bytes.data()};
  ScratchBuffer() { std::memset(bytes.data(), 0xA5, static_cast<size_t>(Scratch::kBytes)); }
};

using Floats = std::vector<float>;

inline Floats run_int8(const LinearKernels& kernels, const MatrixView& w, const Quantized& x,
                       RowMap map, int64_t begin, int64_t end, int64_t y_rows) {
  ScratchBuffer scratch;
  Floats y(static_cast<size_t>(y_rows * w.rows), kSentinel);
  kernels.int8(w, x.rows, map, y.data(), w.rows, begin, end, scratch.scratch);
  return y;
}

inline Floats run_f32(const LinearKernels& kernels, const MatrixView& w, const Floats& x,
                      RowMap map, int64_t begin, int64_t end, int64_t y_rows) {
  ScratchBuffer scratch;
  Floats y(static_cast<size_t>(y_rows * w.rows), kSentinel);
  kernels.f32(w, x.data(), w.cols, map, y.data(), w.rows, begin, end, scratch.scratch);
  return y;
}

/// Index of the first difference in bits, if there is one.
inline std::optional<size_t> first_difference(const Floats& a, const Floats& b) {
  if (a.size() != b.size()) return std::min(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) return i;
  return std::nullopt;
}

#define EXPECT_SAME_BITS(a, b)                                                                     \
  do {                                                                                             \
    const auto at = first_difference(a, b);                                                        \
    EXPECT_FALSE(at.has_value()) << "first at " << *at << ": " << (a)[*at] << " and " << (b)[*at]; \
  } while (false)

inline std::vector<Format> affine_formats() {
  std::vector<Format> out;
  for (const int bits : {1, 2, 3, 4, 5, 6, 8})
    for (const int group : {32, 64, 128})
      for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
        out.push_back(Format::affine(bits, group, dtype));
  return out;
}

inline std::vector<Format> dense_formats() {
  return {Format::dense(DType::kF32), Format::dense(DType::kF16), Format::dense(DType::kBF16)};
}

inline std::vector<Format> micro_formats() {
  return {Format::mxfp4(), Format::mxfp8(), Format::nvfp4()};
}
inline std::vector<Format> doubled_formats() { return {Format::mxfp4(), Format::nvfp4()}; }

/// The packed formats the int8 products take.
inline std::vector<Format> int8_formats() {
  std::vector<Format> out = affine_formats();
  for (const Format& format : doubled_formats()) out.push_back(format);
  return out;
}

inline std::string describe(const Format& format) {
  return format.name() + "/" + std::string(name_of(format.dtype));
}

}  // namespace decant::cpu
