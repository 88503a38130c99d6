#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels/linear_kernels.h"

namespace decant::bench {

/// A weight of bf16 scales and group 64 with 16 rows interleaved. A block of 16 rows holds, group
/// after group: 16 scales, 16 biases, then the codes. 4 bits: for each 8 columns 4 bytes a row, the
/// first four columns in the low halves. 8 bits: for each 4 columns 4 bytes a row.
struct Interleaved {
  const std::byte* data = nullptr;
  int bits = 4;
  int64_t rows = 0;  // a multiple of 16
  int64_t cols = 0;  // a multiple of 64
};

constexpr int64_t interleaved_group_bytes(int bits) { return 64 + 16 * 64 * bits / 8; }

/// y[i * y_stride + r] for the rows r in [row_begin, row_end), multiples of 16, of `count` rows of
/// x, in the product kernels' order of sums. Null where this build has no such set.
using InterleavedProduct = void (*)(const Interleaved& w, const cpu::QuantizedRows& x,
                                    int64_t count, float* y, int64_t y_stride, int64_t row_begin,
                                    int64_t row_end);
InterleavedProduct interleaved_avx2();
InterleavedProduct interleaved_avx512();

}  // namespace decant::bench
