#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "tensor/weight.h"

namespace decant::cpu {

/// Instruction sets the kernels are written for, weakest first.
enum class Isa { kPortable, kAvx2, kAvx512 };

std::string_view name_of(Isa isa);
/// True if this processor (and this build) can run the kernels of `isa`; avx2 means AVX2+FMA+F16C,
/// avx512 means F+BW+VL+DQ+VNNI.
bool isa_available(Isa isa);
/// The strongest available set, or the one DECANT_CPU_ISA=portable|avx2|avx512 names.
/// Errors: UsageError for an unknown name or one this processor lacks.
Isa selected_isa();

/// Activations of the int8 route: x̂ = scale * value with |value| <= 127, one scale per 32 columns
/// (scale = max|x| / 127, value = round to nearest even of x / scale; scale 0 for a group of
/// zeros).
struct QuantizedRows {
  static constexpr int kGroup = 32;
  int8_t* values = nullptr;  // [rows, cols], natural order
  float* scales = nullptr;   // [rows, cols / 32]
  float* sums = nullptr;     // [rows, cols / 32]: scale * sum of values
  int64_t cols = 0;

  /// Bytes a buffer for `rows` rows needs, and the struct over such a buffer (64-byte aligned
  /// parts).
  static int64_t bytes(int64_t rows, int64_t cols);
  static QuantizedRows over(std::byte* buffer, int64_t rows, int64_t cols);
};

/// Which rows of x are multiplied and where the results go: y[y_row(i) * y_stride + r] for i <
/// count. Null maps mean i itself. Used to gather the tokens of one expert without copying.
struct RowMap {
  int64_t count = 0;
  const int32_t* x_rows = nullptr;
  const int32_t* y_rows = nullptr;
};

/// Per-thread scratch of the blocked products; sized once, at load.
struct Scratch {
  static constexpr int64_t kBytes = 1 << 20;
  std::byte* data = nullptr;  // kBytes bytes, 64-byte aligned
};

/// True if the int8 products take weights of this format with rows of `cols` columns.
bool int8_supported(const Format& format, int64_t cols);

/// The matrix products of one instruction set. All take weights at any alignment.
///
/// int8: y = W x̂ for affine formats, mxfp4 and nvfp4. Bit for bit the same on every instruction
/// set, for every row count and tile: per output, with groups g of the weight ascending and
/// 32-column groups j of the activations inside g ascending,
///   p = 0;  p = fma(float(sum over j of q * value), scales[j], p);  acc = fma(p, w_scale[g], acc);
///   xs = sum over j ascending of sums[j];  acc = fma(xs, w_bias[g], acc)
/// where 8-bit codes are taken as q - 128 and w_bias as fma(128, w_scale, w_bias); integer sums are
/// exact. cols is a multiple of the weight's group. mxfp4 and nvfp4 have no biases and take
/// elements doubled, as integers, and scales halved; with n columns of a group (32 or 16)
/// ascending,
///   p = float(sum over n of 2 * element * value) * scales[j];  acc = fma(p, w_scale[n] / 2, acc)
/// and cols is a multiple of 32.
///
/// f32: y = W x in float32 for every format (a packed weight is decoded as dequantize_row does).
/// One output's order of sums depends on cols and format only, never on row count, tile or
/// neighbours: 16 partial sums, lane l takes columns l, l+16, ... ascending by fma; then lanes fold
/// 8, 4, 2, 1 apart. Bit equal across sets too.
///
/// Both write y for weight rows [row_begin, row_end) and add nothing to what was there.
struct LinearKernels {
  Isa isa;
  void (*quantize_rows)(const float* x, int64_t x_stride, int64_t row_begin, int64_t row_end,
                        const QuantizedRows& out);
  void (*int8)(const MatrixView& w, const QuantizedRows& x, const RowMap& map, float* y,
               int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch);
  void (*f32)(const MatrixView& w, const float* x, int64_t x_stride, const RowMap& map, float* y,
              int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch);
  /// Decodes row `row` exactly as dequantize_row.
  void (*decode_row)(const MatrixView& w, int64_t row, float* out);
};

/// Kernels of one instruction set; `isa` must be available.
const LinearKernels& linear_kernels(Isa isa);

}  // namespace decant::cpu
