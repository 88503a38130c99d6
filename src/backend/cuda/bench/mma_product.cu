// y[n] = W x[n] for 1 to 64 rows in one accumulation order.
//
// Layout: an item is a tile of 16 weight rows by a slice of 8 groups (512 columns): codes
// [8 groups][32 lanes][4 u32], then [8 groups][8 rows]{s_r, b_r, s_r+8, b_r+8} bf16; the items of a
// tile follow each other by slice. A code q enters the tensor core as the bf16 number 128 + q, made
// by one lop3 for two codes; the offset is taken off with the group's sum of x:
//   sum of (s q + b) x  =  s * sum of (128 + q) x  +  (b - 128 s) * sum of x.
// Within a group the columns are permuted so that the 16 activations a lane needs are contiguous.
//
// One warp works on one slice; the warps of a tile's slices stand side by side and their sums are
// added in ascending order. What a (row, token) sum takes depends on cols alone, so neither n nor
// the grid changes a bit. Each warp has one stage of shared memory that the bulk copy engine fills;
// the other warps of the block compute meanwhile.

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>

#include "backend/cuda/bench/product.h"

namespace decant::cuda_bench {
namespace {

constexpr int kWarps = 24;
constexpr int kSliceGroups = 8;
constexpr int kSlice = kSliceGroups * kGroup;
constexpr int kCodeBytes = kSliceGroups * 512;
constexpr int kItemBytes = kCodeBytes + kSliceGroups * 64;
constexpr int kTileSums = 16 * 8;  // of one warp: 16 weight rows by 8 tokens
constexpr int kSharedBytes = kWarps * (kItemBytes + kTileSums * 4 + 8);

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void barrier_init(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
}

__device__ inline void start_copy(void* to, const void* from, int bytes, uint64_t* barrier) {
  const uint32_t at = shared_address(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(at)
      : "memory");
}

__device__ inline void wait_for_copy(uint64_t* barrier, uint32_t phase) {
  uint32_t done = 0;
  while (done == 0)
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(phase)
        : "memory");
}

/// Waits for the `threads` threads that share this barrier number.
__device__ inline void part_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Adds one slice's product of a 16-row tile and Tiles tiles of 8 tokens to sum.
template <int Tiles>
__device__ inline void slice_product(const uint8_t* item, const uint16_t* x, const float* sums,
                                     int cols, int slice, int first_token, int n,
                                     float (&sum)[Tiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4, quarter = lane % 4;
  const auto* codes = reinterpret_cast<const uint4*>(item) + lane;
  const auto* affine = reinterpret_cast<const uint2*>(item + kCodeBytes) + row;
#pragma unroll(Tiles == 1 ? 2 : 1)
  for (int u = 0; u < kSliceGroups; ++u) {
    const int group = slice * kSliceGroups + u;
    const uint4 packed = codes[u * 32];
    const uint2 rows = affine[u * 8];
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
    const float scale0 = __uint_as_float(rows.x << 16);
    const float scale1 = __uint_as_float(rows.y << 16);
    const float rest0 = fmaf(-128.0f, scale0, __uint_as_float(rows.x & 0xFFFF0000u));
    const float rest1 = fmaf(-128.0f, scale1, __uint_as_float(rows.y & 0xFFFF0000u));
    uint32_t a[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        asm("lop3.b32 %0, %1, 0x000f000f, 0x43004300, 0xEA;"
            : "=r"(a[k][i])
            : "r"(words[k] >> (4 * i)));
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
      const int token = first_token + tile * 8 + row;
      uint4 low = make_uint4(0, 0, 0, 0), high = low;
      if (token < n) {
        const auto* from = reinterpret_cast<const uint4*>(x + int64_t{token} * cols +
                                                          group * kGroup + quarter * 16);
        low = __ldg(from);
        high = __ldg(from + 1);
      }
      const uint32_t b[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      float product[4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) mma(product, a[k], b[2 * k], b[2 * k + 1]);
      const float2 total = __ldg(reinterpret_cast<const float2*>(
          sums + group * kMaxRows + first_token + tile * 8 + quarter * 2));
      sum[tile][0] = fmaf(scale0, product[0], fmaf(rest0, total.x, sum[tile][0]));
      sum[tile][1] = fmaf(scale0, product[1], fmaf(rest0, total.y, sum[tile][1]));
      sum[tile][2] = fmaf(scale1, product[2], fmaf(rest1, total.x, sum[tile][2]));
      sum[tile][3] = fmaf(scale1, product[3], fmaf(rest1, total.y, sum[tile][3]));
    }
  }
}

template <int Tiles>
__global__ void __launch_bounds__(kWarps * 32, 1)
    mma_kernel(const uint8_t* packed, const uint16_t* x, const float* sums, float* y, int rows,
               int cols, int n) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int slices = cols / kSlice;   // warps of one tile
  const int parts = kWarps / slices;  // tiles at work in this block
  const int part = warp / slices, slice = warp % slices;
  const int tiles = rows / 16;
  uint8_t* stage = shared + warp * kItemBytes;
  auto* part_sums =
      reinterpret_cast<float*>(shared + kWarps * kItemBytes) + part * slices * kTileSums;
  float* own_sums = part_sums + slice * kTileSums;
  auto* barrier =
      reinterpret_cast<uint64_t*>(shared + kWarps * (kItemBytes + kTileSums * 4)) + warp;

  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  const int first = static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) * part;
  const int step = static_cast<int>(gridDim.x) * parts;
  const auto fetch = [&](int tile) {
    start_copy(stage, packed + (int64_t{tile} * slices + slice) * kItemBytes, kItemBytes, barrier);
  };
  // Weights never change: their copies may start while the kernel before still writes x.
  if (lane == 0) {
    barrier_init(barrier);
    if (first < tiles) fetch(first);
  }
  __syncwarp();
  asm volatile("griddepcontrol.wait;" ::: "memory");

  uint32_t phase = 0;
  for (int tile = first; tile < tiles; tile += step) {
    wait_for_copy(barrier, phase);
    phase ^= 1;
    for (int token = 0; token < n; token += Tiles * 8) {
      float sum[Tiles][4] = {};
      slice_product<Tiles>(stage, x, sums, cols, slice, token, n, sum);
      if (token + Tiles * 8 >= n) {  // the stage is read for the last time
        __syncwarp();
        if (lane == 0 && tile + step < tiles) fetch(tile + step);
      }
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
        if (token + t * 8 >= n) break;
        const int row = lane / 4, column = lane % 4 * 2;
        own_sums[row * 8 + column] = sum[t][0];
        own_sums[row * 8 + column + 1] = sum[t][1];
        own_sums[(row + 8) * 8 + column] = sum[t][2];
        own_sums[(row + 8) * 8 + column + 1] = sum[t][3];
        part_sync(part + 1, slices * 32);
        for (int i = slice * 32 + lane; i < kTileSums; i += slices * 32) {
          float total = 0;
          for (int s = 0; s < slices; ++s) total += part_sums[s * kTileSums + i];
          const int at = token + t * 8 + i % 8;
          if (at < n) y[int64_t{at} * rows + tile * 16 + i / 8] = total;
        }
        part_sync(part + 1, slices * 32);
      }
    }
  }
}

/// One warp per (token, group); two elements a lane, then a tree: the same for every n.
__global__ void group_sums_kernel(const uint16_t* x, int cols, int n, float* sums) {
  const int group = static_cast<int>(blockIdx.x), token = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int at = token; at < kMaxRows; at += static_cast<int>(blockDim.x) / 32) {
    float sum = 0;
    if (at < n) {
      const uint32_t pair =
          reinterpret_cast<const uint32_t*>(x + int64_t{at} * cols + group * kGroup)[lane];
      sum = __uint_as_float(pair << 16) + __uint_as_float(pair & 0xFFFF0000u);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) sums[group * kMaxRows + at] = sum;
  }
}

template <int Tiles>
cudaError_t launch(const uint8_t* packed, MmaInput input, float* y, int rows, int cols, int n,
                   int multiprocessors, cudaStream_t stream) {
  const cudaError_t raised = cudaFuncSetAttribute(
      mma_kernel<Tiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (raised != cudaSuccess) return raised;
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(std::min(multiprocessors, rows / 16));
  config.blockDim = kWarps * 32;
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  cudaLaunchAttribute overlap[1];
  overlap[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap[0].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, mma_kernel<Tiles>, packed, input.x, input.sums, y, rows, cols,
                            n);
}

}  // namespace

std::vector<uint8_t> pack_for_mma(const HostMatrix& matrix) {
  const int slices = matrix.cols / kSlice, tiles = matrix.rows / 16;
  std::vector<uint8_t> packed(static_cast<size_t>(tiles) * static_cast<size_t>(slices) *
                              kItemBytes);
  const auto code = [&](int row, int column) {
    const size_t at = static_cast<size_t>(row) * static_cast<size_t>(matrix.cols / 8) +
                      static_cast<size_t>(column / 8);
    return matrix.codes[at] >> (column % 8 * 4) & 0xFu;
  };
  for (int tile = 0; tile < tiles; ++tile)
    for (int group = 0; group < matrix.groups(); ++group) {
      uint8_t* item = packed.data() + (static_cast<size_t>(tile) * static_cast<size_t>(slices) +
                                       static_cast<size_t>(group / kSliceGroups)) *
                                          kItemBytes;
      const int u = group % kSliceGroups;
      for (int lane = 0; lane < 32; ++lane)
        for (int k = 0; k < 4; ++k) {
          uint32_t word = 0;
          for (int i = 0; i < 4; ++i) {  // register i of the fragment: row + 8 (i odd), +2 columns
            const int row = tile * 16 + lane / 4 + i % 2 * 8;
            const int column = group * kGroup + lane % 4 * 16 + k * 4 + i / 2 * 2;
            word |= code(row, column) << (4 * i) | code(row, column + 1) << (16 + 4 * i);
          }
          std::memcpy(item + ((u * 32 + lane) * 4 + k) * 4, &word, 4);
        }
      for (int row = 0; row < 16; ++row) {
        const size_t at =
            static_cast<size_t>(tile * 16 + row) * static_cast<size_t>(matrix.groups()) +
            static_cast<size_t>(group);
        const uint16_t pair[2] = {matrix.scales[at], matrix.biases[at]};
        std::memcpy(item + kCodeBytes + ((u * 8 + row % 8) * 4 + row / 8 * 2) * 2, pair, 4);
      }
    }
  return packed;
}

cudaError_t launch_group_sums(const uint16_t* x, int cols, int n, float* sums,
                              cudaStream_t stream) {
  group_sums_kernel<<<static_cast<unsigned>(cols / kGroup), 256, 0, stream>>>(x, cols, n, sums);
  return cudaGetLastError();
}

cudaError_t launch_mma_product(const uint8_t* packed, MmaInput input, float* y, int rows, int cols,
                               int n, int multiprocessors, cudaStream_t stream) {
  const bool fits = rows > 0 && rows % 16 == 0 && cols > 0 && cols % kSlice == 0 &&
                    cols / kSlice <= kWarps && kWarps % (cols / kSlice) == 0 &&
                    kWarps / (cols / kSlice) <= 15 && n >= 1 && n <= kMaxRows;
  if (!fits) return cudaErrorInvalidValue;
  if (n <= 8) return launch<1>(packed, input, y, rows, cols, n, multiprocessors, stream);
  if (n <= 16) return launch<2>(packed, input, y, rows, cols, n, multiprocessors, stream);
  return launch<4>(packed, input, y, rows, cols, n, multiprocessors, stream);
}

}  // namespace decant::cuda_bench
