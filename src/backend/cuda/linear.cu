// Products with weights of any format: decoded to f32, multiplied and added in f32. One warp makes
// one output column of up to kTile rows; a row's sum takes the same steps in every tile, so it does
// not depend on how many rows there are.

#include "backend/cuda/device.cuh"

namespace decant::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTile = 8;
constexpr int kBlock = 32;  // elements a lane takes at once; no group is smaller

__global__ void embed_kernel(Matrix table, bool clamp, BatchView batch, Tensor y) {
  const int64_t n = blockIdx.y;
  if (n >= live_rows(y)) return;
  int64_t id = batch.tokens[n];
  if (clamp && id >= table.rows) id = 0;
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k < table.cols) row_of(y, n)[k] = decode_element(table, id, k);
}

/// Code i of 32 codes packed lowest bits first into Bits words; i is known when compiled.
template <int Bits>
__device__ inline float unpack(const uint32_t (&words)[Bits], int i) {
  const int bit = i * Bits, word = bit / 32, shift = bit % 32;
  uint32_t code = words[word] >> shift;
  if (shift + Bits > 32) code |= words[word + 1] << (32 - shift);
  return static_cast<float>(code & ((1u << Bits) - 1u));
}

/// sum[i] += W[row] . x[i] over this lane's share of the columns. Bits 0: dense.
template <int Bits, int Tile>
__device__ inline void accumulate(const Matrix& w, int64_t row, const float* const (&x)[Tile],
                                  int count, float (&sum)[Tile]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if constexpr (Bits == 0) {
    for (int64_t k = lane; k < w.cols; k += 32) {
      const float value = load_element(w.data, w.element, row * w.cols + k);
#pragma unroll
      for (int i = 0; i < Tile; ++i)
        if (i < count) sum[i] = fmaf(value, x[i][k], sum[i]);
    }
  } else {
    const int64_t blocks = w.cols / kBlock;
    const auto* data = reinterpret_cast<const uint32_t*>(w.data) + row * blocks * Bits;
    const int64_t groups = w.cols / w.group, per_group = w.group / kBlock;
    for (int64_t b = lane; b < blocks; b += 32) {
      uint32_t words[Bits];
#pragma unroll
      for (int i = 0; i < Bits; ++i) words[i] = data[b * Bits + i];
      const int64_t group = row * groups + b / per_group;
      const float scale = load_element(w.scales, w.element, group);
      const float bias = load_element(w.biases, w.element, group);
#pragma unroll
      for (int j = 0; j < kBlock; ++j) {
        const float value = affine(scale, unpack<Bits>(words, j), bias);
#pragma unroll
        for (int i = 0; i < Tile; ++i)
          if (i < count) sum[i] = fmaf(value, x[i][b * kBlock + j], sum[i]);
      }
    }
  }
}

template <int Bits>
__global__ void linear_kernel(Matrix w, Tensor x, Matrix bias, Tensor residual, Tensor y) {
  const int64_t out = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int64_t first = int64_t{blockIdx.y} * kTile;
  const int64_t live = live_rows(x);
  if (out >= w.rows || first >= live) return;
  const int count = static_cast<int>(live - first < kTile ? live - first : kTile);
  const float* rows[kTile];
  float sum[kTile] = {};
#pragma unroll
  for (int i = 0; i < kTile; ++i) rows[i] = row_of(x, first + i);
  accumulate<Bits>(w, out, rows, count, sum);
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float value = warp_sum(sum[i]);
    if (i >= count || threadIdx.x % 32 != 0) continue;
    if (bias.data != nullptr) value += load_element(bias.data, bias.element, out);
    if (residual.data != nullptr) value = row_of(residual, first + i)[out] + value;
    row_of(y, first + i)[out] = value;
  }
}

/// One (token, slot) per block column; the expert is read on the device.
template <int Bits>
__global__ void expert_kernel(Matrix w, Tensor x, bool per_slot, Tensor ids, Tensor y) {
  const int64_t out = int64_t{blockIdx.y} * kWarps + threadIdx.x / 32;
  const int64_t n = blockIdx.x / ids.width, k = blockIdx.x % ids.width;
  if (out >= w.rows || n >= live_rows(x)) return;
  const float* rows[1] = {row_of(x, n) + (per_slot ? k * w.cols : 0)};
  float sum[1] = {};
  accumulate<Bits>(w, int_row_of(ids, n)[k] * w.rows + out, rows, 1, sum);
  const float value = warp_sum(sum[0]);
  if (threadIdx.x % 32 == 0) row_of(y, n)[k * w.rows + out] = value;
}

/// Calls f with the bits of the format as a compile-time constant.
template <typename F>
void with_bits(int bits, F&& f) {
  switch (bits) {
    case 0:
      return f.template operator()<0>();
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    case 6:
      return f.template operator()<6>();
    default:
      return f.template operator()<8>();
  }
}

}  // namespace

void launch_embed(Stream stream, const Matrix& table, bool out_of_range_is_row_zero,
                  const BatchView& batch, const Tensor& y) {
  const dim3 grid(blocks_for(table.cols, 256), static_cast<unsigned>(y.capacity));
  embed_kernel<<<grid, 256, 0, stream>>>(table, out_of_range_is_row_zero, batch, y);
}

void launch_linear(Stream stream, const Matrix& w, const Tensor& x, const Matrix& bias,
                   const Tensor& residual, const Tensor& y) {
  const dim3 grid(blocks_for(w.rows, kWarps), blocks_for(x.capacity, kTile));
  with_bits(w.bits, [&]<int Bits>() {
    linear_kernel<Bits><<<grid, kWarps * 32, 0, stream>>>(w, x, bias, residual, y);
  });
}

void launch_expert_linear(Stream stream, const Matrix& table, const Tensor& x, bool per_slot,
                          const Tensor& ids, const Tensor& y) {
  const dim3 grid(static_cast<unsigned>(x.capacity * ids.width), blocks_for(table.rows, kWarps));
  with_bits(table.bits, [&]<int Bits>() {
    expert_kernel<Bits><<<grid, kWarps * 32, 0, stream>>>(table, x, per_slot, ids, y);
  });
}

}  // namespace decant::cuda
