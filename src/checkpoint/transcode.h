#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace decant {

/// Scales of fp8 matrices of `matrix_rows` rows each, one per block of block_rows x block_cols
/// elements; blocks at the edges may be partial. Matrices and their grids lie one after the other.
struct ScaleGrid {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;  // F32, F16, BF16 or F8_E8M0
  int64_t matrix_rows = 0;
  int64_t block_rows = 1;
  int64_t block_cols = 1;
};

/// Rows [begin, end) of `cols` E4M3 elements: out = bf16(element * scale), the product in float32
/// and rounded once, to nearest even. `in` is row 0 of all matrices, `out` where row `begin` goes.
void fp8_rows_to_bf16(const std::byte* in, const ScaleGrid& grid, int64_t begin, int64_t end,
                      int64_t cols, std::byte* out);

/// GPTQ's codes [words, total] of 32 bits, each of consecutive inputs of one output, to rows of
/// outputs [end - begin, words]: a transposition of words.
void transpose_words(const std::byte* in, int64_t words, int64_t total, int64_t begin, int64_t end,
                     std::byte* out);

/// The bits in an AWQ word of output `index` of its eight.
int awq_shift(int64_t index);
/// AWQ's codes [cols, total / 8] of 32 bits, each the 4-bit codes of eight outputs in the order 0,
/// 2, 4, 6, 1, 3, 5, 7 for one input, to rows of outputs [end - begin, cols / 8] with the first
/// input in the lowest bits. cols, begin and end are multiples of 8.
void transpose_awq(const std::byte* in, int64_t cols, int64_t total, int64_t begin, int64_t end,
                   std::byte* out);

}  // namespace decant
