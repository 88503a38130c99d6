#pragma once

// Device helpers of all kernels here. Sums have one order that depends on shapes alone; products
// that must round like the reference are written with the _rn intrinsics so that nothing is
// contracted.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backend/cuda/launch.h"

namespace decant::cuda {

__device__ inline int32_t live_rows(const Tensor& t) { return t.live ? *t.live : t.capacity; }
__device__ inline float* row_of(const Tensor& t, int64_t r) {
  return static_cast<float*>(t.data) + r * t.stride;
}
__device__ inline int32_t* int_row_of(const Tensor& t, int64_t r) {
  return static_cast<int32_t*>(t.data) + r * t.stride;
}

__device__ inline float load_element(const uint8_t* data, Element element, int64_t index) {
  switch (element) {
    case Element::kF32:
      return reinterpret_cast<const float*>(data)[index];
    case Element::kF16:
      return __half2float(reinterpret_cast<const __half*>(data)[index]);
    case Element::kBF16:
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[index]);
  }
  return 0;
}

/// scale * q + bias, the product rounded before the sum.
__device__ inline float affine(float scale, float code, float bias) {
  return __fadd_rn(__fmul_rn(scale, code), bias);
}

/// One element of a matrix of any format: what embed reads. `row` counts through all tables.
__device__ inline float decode_element(const Matrix& w, int64_t row, int64_t k) {
  if (w.bits == 0) return load_element(w.data, w.element, row * w.cols + k);
  const int64_t bit = k * w.bits;
  const uint8_t* data = w.data + row * (w.cols * w.bits / 8) + bit / 8;
  uint32_t word = data[0];
  if (bit % 8 + w.bits > 8) word |= static_cast<uint32_t>(data[1]) << 8;
  const uint32_t code = word >> (bit % 8) & ((1u << w.bits) - 1u);
  const int64_t group = row * (w.cols / w.group) + k / w.group;
  return affine(load_element(w.scales, w.element, group), static_cast<float>(code),
                load_element(w.biases, w.element, group));
}

template <typename T>
__device__ inline T warp_sum(T value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  return value;
}

/// Sum over the threads of a block (a multiple of 32), given to all of them.
template <typename T>
__device__ inline T block_sum(T value) {
  __shared__ T part[32];
  value = warp_sum(value);
  __syncthreads();  // the last use of `part` is over
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += part[w];
  return total;
}

__host__ __device__ inline unsigned blocks_for(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace decant::cuda
