#pragma once

// Two products with 4-bit affine weights in groups of 64, for cuda_products: y[n] = W x[n]. Both
// read the codes and the bf16 scales and biases of an MLX checkpoint, each in a layout of its own.

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

namespace decant::cuda_bench {

inline constexpr int kGroup = 64;
inline constexpr int kMaxRows = 64;

/// Codes [rows][cols / 8] u32, lowest bits first; scales and biases [rows][cols / 64] bf16.
struct HostMatrix {
  int rows = 0, cols = 0;
  std::vector<uint32_t> codes;
  std::vector<uint16_t> scales, biases;
  int groups() const { return cols / kGroup; }
};

/// Bytes of a matrix in either layout.
constexpr int64_t matrix_bytes(int64_t rows, int64_t cols) {
  return rows * cols / 2 + rows * cols / kGroup * 4;
}

// mma_product.cu: one accumulation order for 1 to 64 rows. Weights are the 16-row operand of the
// tensor cores, tokens its N side in tiles of 8; the columns of a 16-row tile are cut into slices
// that depend on the shape alone, and the slices' sums are added in ascending order.

/// The matrix as the kernel streams it (see mma_product.cu); matrix_bytes long.
std::vector<uint8_t> pack_for_mma(const HostMatrix& matrix);
/// Activations as the kernel reads them: bf16 [64][cols] and, per group, their sums [groups][64].
struct MmaInput {
  const uint16_t* x;
  const float* sums;
};
/// Fills `sums` from x on the device.
cudaError_t launch_group_sums(const uint16_t* x, int cols, int n, float* sums, cudaStream_t stream);
/// y [n][rows]. Errors: cudaErrorInvalidValue where rows or cols have no plan.
cudaError_t launch_mma_product(const uint8_t* packed, MmaInput input, float* y, int rows, int cols,
                               int n, int multiprocessors, cudaStream_t stream);

// row_product.cu: the plain kernel for one row. A warp makes one output with 16-byte loads of the
// codes and f32 multiply-adds of the decoded weights.

/// Codes, then scales and biases side by side, as they lie in memory; matrix_bytes long.
std::vector<uint8_t> pack_for_rows(const HostMatrix& matrix);
cudaError_t launch_row_product(const uint8_t* packed, const uint16_t* x, float* y, int rows,
                               int cols, cudaStream_t stream);

/// Reads `bytes` with 16-byte loads that pass the caches by: what memory can give.
cudaError_t launch_read_probe(const void* data, int64_t bytes, int blocks, uint32_t* sink,
                              cudaStream_t stream);

}  // namespace decant::cuda_bench
