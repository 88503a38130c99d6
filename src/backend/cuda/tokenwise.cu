// Kernels that see one row at a time: element-wise functions, norms, rotations, AltUp.

#include "backend/cuda/device.cuh"

namespace decant::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kNormThreads = 128;

__device__ float apply(UnaryKind kind, float x, float constant) {
  switch (kind) {
    case UnaryKind::kSilu:
      return x / (1 + expf(-x));
    case UnaryKind::kGeluTanh:
      return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case UnaryKind::kGeluErf:
      return 0.5f * x * (1 + erff(x * 0.7071067811865476f));
    case UnaryKind::kSigmoid:
      return 1 / (1 + expf(-x));
    case UnaryKind::kTanh:
      return tanhf(x);
    case UnaryKind::kRelu:
      return x > 0 ? x : 0;
    case UnaryKind::kExp:
      return expf(x);
    case UnaryKind::kSqrt:
      return sqrtf(x);
    case UnaryKind::kSoftplus:
      return x > 20 ? x : log1pf(expf(x));
    case UnaryKind::kSoftcap:
      return constant * tanhf(x / constant);
    case UnaryKind::kClamp:
      return fminf(fmaxf(x, -constant), constant);
    case UnaryKind::kScale:
      return constant * x;
  }
  return 0;
}

/// y[n][i] = f(n, i) for every live row of y.
template <typename F>
__global__ void each_element(Tensor y, F f) {
  const int64_t n = blockIdx.y;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n < live_rows(y) && i < y.width) row_of(y, n)[i] = f(n, i);
}

template <typename F>
void launch_each(Stream stream, const Tensor& y, F f) {
  const dim3 grid(blocks_for(y.width, kThreads), static_cast<unsigned>(y.capacity));
  each_element<<<grid, kThreads, 0, stream>>>(y, f);
}

/// 1 / sqrt(mean(x^2) + eps) of `size` elements, by one block.
template <typename Load>
__device__ float inverse_rms(int64_t size, float eps, Load load) {
  float squares = 0;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    const float x = load(i);
    squares = fmaf(x, x, squares);
  }
  const double mean = static_cast<double>(block_sum(squares)) / static_cast<double>(size);
  return static_cast<float>(1 / sqrt(mean + static_cast<double>(eps)));
}

__device__ inline float scaled(float x, float inverse, const float* weight, int64_t i) {
  return x * inverse * (weight != nullptr ? weight[i] : 1.0f);
}

__global__ void rms_norm_kernel(Tensor x, int64_t size, const float* weight, float eps, Tensor y) {
  const int64_t n = blockIdx.y, begin = blockIdx.x * size;
  if (n >= live_rows(y)) return;
  const float* from = row_of(x, n) + begin;
  float* to = row_of(y, n) + begin;
  const float inverse = inverse_rms(size, eps, [&](int64_t i) { return from[i]; });
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x)
    to[i] = scaled(from[i], inverse, weight, i);
}

__global__ void add_rms_norm_kernel(Tensor a, Tensor b, int64_t size, const float* weight,
                                    float eps, Tensor sum, Tensor y) {
  const int64_t n = blockIdx.y, begin = blockIdx.x * size;
  if (n >= live_rows(y)) return;
  const float* first = row_of(a, n) + begin;
  const float* second = row_of(b, n) + begin;
  float* total = row_of(sum, n) + begin;
  float* to = row_of(y, n) + begin;
  const float inverse =
      inverse_rms(size, eps, [&](int64_t i) { return total[i] = first[i] + second[i]; });
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x)
    to[i] = scaled(total[i], inverse, weight, i);
}

/// Rotation of one head by its token's position, by one block; `load` gives the element to rotate.
template <typename Load>
__device__ void rotate(const RopeView& rope, float position, int64_t size, float* y, Load load) {
  for (int64_t i = threadIdx.x; i < rope.half; i += blockDim.x) {
    // The angle is formed in f32 as the official code does; its cosine may then be exact.
    const float angle = __fmul_rn(position, rope.inv_freq[i]);
    double s, c;
    sincos(static_cast<double>(angle), &s, &c);
    s *= static_cast<double>(rope.attention_factor);
    c *= static_cast<double>(rope.attention_factor);
    const int64_t first = rope.interleaved ? 2 * i : i;
    const int64_t second = rope.interleaved ? 2 * i + 1 : i + rope.half;
    const double a = static_cast<double>(load(first)), b = static_cast<double>(load(second));
    y[first] = static_cast<float>(a * c - b * s);
    y[second] = static_cast<float>(b * c + a * s);
  }
  for (int64_t i = 2 * rope.half + threadIdx.x; i < size; i += blockDim.x) y[i] = load(i);
}

/// The position of row n: output rows stand for the tokens the batch names.
__device__ float position_of(const BatchView& batch, const Tensor& x, int64_t n) {
  const int64_t token = x.live == batch.live_outputs ? batch.outputs[n] : n;
  return static_cast<float>(batch.positions[token]);
}

__global__ void rope_kernel(BatchView batch, RopeView rope, Tensor x, int64_t size, Tensor y) {
  const int64_t n = blockIdx.y, begin = blockIdx.x * size;
  if (n >= live_rows(y)) return;
  const float* from = row_of(x, n) + begin;
  rotate(rope, position_of(batch, x, n), size, row_of(y, n) + begin,
         [&](int64_t i) { return from[i]; });
}

__global__ void norm_rope_kernel(BatchView batch, RopeView rope, Tensor x, int64_t size,
                                 const float* weight, float eps, Tensor y) {
  const int64_t n = blockIdx.y, begin = blockIdx.x * size;
  if (n >= live_rows(y)) return;
  const float* from = row_of(x, n) + begin;
  const float inverse = inverse_rms(size, eps, [&](int64_t i) { return from[i]; });
  rotate(rope, position_of(batch, x, n), size, row_of(y, n) + begin,
         [&](int64_t i) { return scaled(from[i], inverse, weight, i); });
}

__global__ void match_magnitude_kernel(Tensor u, Tensor ref, float floor, Tensor y) {
  const int64_t n = blockIdx.x;
  if (n >= live_rows(y)) return;
  const float* x = row_of(u, n);
  const float* target = row_of(ref, n);
  float own = 0, wanted = 0;
  for (int64_t i = threadIdx.x; i < y.width; i += blockDim.x) {
    own = fmaf(x[i], x[i], own);
    wanted = fmaf(target[i], target[i], wanted);
  }
  const double size = static_cast<double>(y.width);
  const double mean = static_cast<double>(block_sum(own)) / size;
  const double goal = static_cast<double>(block_sum(wanted)) / size;
  const auto factor = static_cast<float>(sqrt(goal) / sqrt(fmax(mean, static_cast<double>(floor))));
  for (int64_t i = threadIdx.x; i < y.width; i += blockDim.x) row_of(y, n)[i] = x[i] * factor;
}

__global__ void reduce_kernel(bool variance, Tensor x, Tensor y) {
  const int64_t n = blockIdx.x;
  if (n >= live_rows(y)) return;
  const float* from = row_of(x, n);
  const double size = static_cast<double>(x.width);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < x.width; i += blockDim.x) sum += static_cast<double>(from[i]);
  const double mean = block_sum(sum) / size;
  double squares = 0;
  for (int64_t i = threadIdx.x; i < x.width; i += blockDim.x) {
    const double difference = static_cast<double>(from[i]) - mean;
    squares += difference * difference;
  }
  squares = block_sum(squares) / size;
  if (threadIdx.x == 0) row_of(y, n)[0] = static_cast<float>(variance ? squares : mean);
}

__global__ void copy_columns_kernel(Tensor x, Tensor y, int64_t column) {
  const int64_t n = blockIdx.y;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n < live_rows(x) && i < x.width) row_of(y, n)[column + i] = row_of(x, n)[i];
}

__global__ void narrow_rows_kernel(BatchView batch, Tensor x, Tensor y) {
  const int64_t n = blockIdx.y;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  // Moved as bits: the rows may hold ids.
  if (n < live_rows(y) && i < y.width) int_row_of(y, n)[i] = int_row_of(x, batch.outputs[n])[i];
}

dim3 heads_grid(const Tensor& x, int64_t size) {
  return dim3(static_cast<unsigned>(x.width / size), static_cast<unsigned>(x.capacity));
}

}  // namespace

void launch_unary(Stream stream, UnaryKind kind, float constant, const Tensor& x, const Tensor& y) {
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    return apply(kind, row_of(x, n)[i], constant);
  });
}

void launch_act_mul(Stream stream, UnaryKind kind, float constant, const Tensor& gate,
                    const Tensor& up, const Tensor& y) {
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    return __fmul_rn(apply(kind, row_of(gate, n)[i], constant), row_of(up, n)[i]);
  });
}

void launch_binary(Stream stream, BinaryKind kind, const Tensor& a, const Tensor& b,
                   const float* weight, int64_t weight_width, const Tensor& y) {
  const bool broadcast = (weight != nullptr ? weight_width : b.width) == 1;
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    const float left = row_of(a, n)[i];
    const float right =
        weight != nullptr ? weight[broadcast ? 0 : i] : row_of(b, n)[broadcast ? 0 : i];
    return kind == BinaryKind::kAdd   ? left + right
           : kind == BinaryKind::kSub ? left - right
                                      : left * right;
  });
}

void launch_copy_columns(Stream stream, const Tensor& x, const Tensor& y, int64_t column) {
  const dim3 grid(blocks_for(x.width, kThreads), static_cast<unsigned>(x.capacity));
  copy_columns_kernel<<<grid, kThreads, 0, stream>>>(x, y, column);
}

void launch_narrow_rows(Stream stream, const BatchView& batch, const Tensor& x, const Tensor& y) {
  const dim3 grid(blocks_for(y.width, kThreads), static_cast<unsigned>(y.capacity));
  narrow_rows_kernel<<<grid, kThreads, 0, stream>>>(batch, x, y);
}

void launch_rms_norm(Stream stream, const Tensor& x, int64_t size, const float* weight, float eps,
                     const Tensor& y) {
  rms_norm_kernel<<<heads_grid(x, size), kNormThreads, 0, stream>>>(x, size, weight, eps, y);
}

void launch_add_rms_norm(Stream stream, const Tensor& a, const Tensor& b, int64_t size,
                         const float* weight, float eps, const Tensor& sum, const Tensor& y) {
  add_rms_norm_kernel<<<heads_grid(a, size), kNormThreads, 0, stream>>>(a, b, size, weight, eps,
                                                                        sum, y);
}

void launch_norm_rope(Stream stream, const BatchView& batch, const RopeView& rope, const Tensor& x,
                      int64_t size, const float* weight, float eps, const Tensor& y) {
  norm_rope_kernel<<<heads_grid(x, size), kNormThreads, 0, stream>>>(batch, rope, x, size, weight,
                                                                     eps, y);
}

void launch_rope(Stream stream, const BatchView& batch, const RopeView& rope, const Tensor& x,
                 int64_t size, const Tensor& y) {
  rope_kernel<<<heads_grid(x, size), kNormThreads, 0, stream>>>(batch, rope, x, size, y);
}

void launch_match_magnitude(Stream stream, const Tensor& u, const Tensor& ref, float floor,
                            const Tensor& y) {
  match_magnitude_kernel<<<static_cast<unsigned>(y.capacity), kThreads, 0, stream>>>(u, ref, floor,
                                                                                     y);
}

void launch_reduce(Stream stream, bool variance, const Tensor& x, const Tensor& y) {
  reduce_kernel<<<static_cast<unsigned>(y.capacity), kThreads, 0, stream>>>(variance, x, y);
}

void launch_combine_experts(Stream stream, const Tensor& x, const Tensor& weights,
                            const Tensor& y) {
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    float sum = 0;
    for (int64_t k = 0; k < weights.width; ++k)
      sum = fmaf(row_of(weights, n)[k], row_of(x, n)[k * y.width + i], sum);
    return sum;
  });
}

void launch_altup_mix(Stream stream, const Tensor& x, const Tensor& coefs, int64_t streams,
                      const Tensor& y) {
  const int64_t size = y.width / streams;
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    const float* from = row_of(x, n);
    float sum = from[i];
    for (int64_t j = 0; j < streams; ++j)
      sum = fmaf(row_of(coefs, n)[i / size * streams + j], from[j * size + i % size], sum);
    return sum;
  });
}

void launch_altup_update(Stream stream, const Tensor& x, const Tensor& coefs, const Tensor& delta,
                         int64_t streams, const Tensor& y) {
  const int64_t size = y.width / streams;
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    return fmaf(row_of(coefs, n)[i / size] + 1, row_of(delta, n)[i % size], row_of(x, n)[i]);
  });
}

void launch_add_to_inactive(Stream stream, const Tensor& x, const Tensor& t, int64_t streams,
                            const Tensor& y) {
  const int64_t size = y.width / streams;
  launch_each(stream, y, [=] __device__(int64_t n, int64_t i) {
    return row_of(x, n)[i] + (i >= size ? row_of(t, n)[i % size] : 0.0f);
  });
}

}  // namespace decant::cuda
