// Choices: the experts of a token, the token of a row of logits. Scores are doubles, as in the
// reference, so that both choose alike.

#include "backend/cuda/device.cuh"

namespace decant::cuda {
namespace {

/// a comes before b: the larger score, the lower index among equals.
__device__ inline bool before(double a, int32_t i, double b, int32_t j) {
  return a > b || (a == b && i < j);
}

/// One warp per row; shared: score[E], choice[E], group sums [groups].
__global__ void top_k_route_kernel(RouteView route, Tensor logits, Tensor ids, Tensor weights) {
  const int64_t n = blockIdx.x;
  if (n >= live_rows(logits)) return;
  extern __shared__ double scratch[];
  const int lane = static_cast<int>(threadIdx.x);
  const auto experts = static_cast<int32_t>(logits.width);
  double* score = scratch;
  double* choice = score + experts;
  double* group_sum = choice + experts;
  const float* x = row_of(logits, n);

  float top = -INFINITY;
  for (int32_t e = lane; e < experts; e += 32) top = fmaxf(top, x[e]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  for (int32_t e = lane; e < experts; e += 32) {
    const auto logit = static_cast<double>(x[e]);
    score[e] = route.sigmoid ? 1 / (1 + exp(-logit)) : exp(logit - static_cast<double>(top));
  }
  __syncwarp();
  double total = 1;
  if (!route.sigmoid) {
    total = 0;
    for (int32_t e = 0; e < experts; ++e) total += score[e];  // every lane the same sum
  }
  __syncwarp();
  for (int32_t e = lane; e < experts; e += 32) {
    score[e] /= total;
    choice[e] = score[e] + (route.bias != nullptr ? static_cast<double>(route.bias[e]) : 0.0);
  }
  __syncwarp();
  if (route.groups > 1) {
    const int32_t size = experts / route.groups;
    for (int32_t g = lane; g < route.groups; g += 32) {
      double best = -INFINITY, second = -INFINITY;
      for (int32_t e = g * size; e < (g + 1) * size; ++e) {
        if (choice[e] > best) {
          second = best;
          best = choice[e];
        } else if (choice[e] > second) {
          second = choice[e];
        }
      }
      group_sum[g] = best + (size > 1 ? second : 0.0);
    }
    __syncwarp();
    for (int32_t e = lane; e < experts; e += 32) {
      const int32_t own = e / size;
      int32_t rank = 0;
      for (int32_t g = 0; g < route.groups; ++g)
        if (g != own && before(group_sum[g], g, group_sum[own], own)) ++rank;
      if (rank >= route.top_groups) choice[e] = -INFINITY;
    }
    __syncwarp();
  }

  // The k-th choice is the first in order behind the one chosen last.
  double last = INFINITY, chosen = 0;
  int32_t last_id = -1;
  for (int32_t k = 0; k < route.top_k; ++k) {
    double best = -INFINITY;
    int32_t best_id = experts;
    for (int32_t e = lane; e < experts; e += 32)
      if (before(last, last_id, choice[e], e) && before(choice[e], e, best, best_id)) {
        best = choice[e];
        best_id = e;
      }
    for (int step = 16; step > 0; step /= 2) {
      const double other = __shfl_xor_sync(~0u, best, step);
      const int32_t other_id = __shfl_xor_sync(~0u, best_id, step);
      if (before(other, other_id, best, best_id)) {
        best = other;
        best_id = other_id;
      }
    }
    // NaN logits order before nothing: such a row still names experts, and its weights are NaN.
    if (best_id >= experts) best_id = k;
    if (lane == 0) int_row_of(ids, n)[k] = best_id;
    chosen += score[best_id];
    last = best;
    last_id = best_id;
  }
  __syncwarp();
  for (int32_t k = lane; k < route.top_k; k += 32) {
    const int32_t id = int_row_of(ids, n)[k];
    double weight = score[id] / (route.normalize ? chosen : 1.0);
    if (route.expert_scale != nullptr) weight *= static_cast<double>(route.expert_scale[id]);
    row_of(weights, n)[k] = static_cast<float>(weight * static_cast<double>(route.scale));
  }
}

constexpr int kThreads = 1024;

/// Philox4x32-10 of (seed, counter) as a number in [0, 1): sampling/sampler.h, uniform_at.
__device__ double uniform_at(uint64_t seed, uint64_t counter) {
  uint32_t block[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * block[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * block[2];
    block[0] = static_cast<uint32_t>(b >> 32) ^ block[1] ^ key0;
    block[1] = static_cast<uint32_t>(b);
    block[2] = static_cast<uint32_t>(a >> 32) ^ block[3] ^ key1;
    block[3] = static_cast<uint32_t>(a);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const uint64_t bits = static_cast<uint64_t>(block[0]) << 32 | block[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// Probabilities of one row, unnormalised, the largest exactly 1. Doubles that are not negative
/// order like their bits, so thresholds are found by bisecting bit patterns.
struct Distribution {
  double* p;
  int32_t size;

  __device__ static uint64_t key(double value) {
    return static_cast<uint64_t>(__double_as_longlong(value));
  }
  /// How many probabilities, or which sum of them, have at least this key.
  __device__ double measure(uint64_t at_least, bool by_count) const {
    double sum = 0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < size; i += kThreads)
      if (key(p[i]) >= at_least) sum += by_count ? 1.0 : p[i];
    return block_sum(sum);
  }
  /// Keeps the first in the order (larger p, lower id) until their measure reaches `target`, at
  /// least one; zeroes the others.
  __device__ void keep_first(double target, bool by_count, int32_t* tie_counts) {
    uint64_t low = 1, high = key(1.0);
    if (measure(low, by_count) < target) return;
    while (low < high) {  // the largest key that still reaches the target
      const uint64_t middle = low + (high - low + 1) / 2;
      if (measure(middle, by_count) >= target)
        low = middle;
      else
        high = middle - 1;
    }
    const double above = measure(low + 1, by_count);
    const double each = by_count ? 1.0 : __longlong_as_double(static_cast<long long>(low));
    double ties = ceil((target - above) / each);
    while (ties > 0 && above + (ties - 1) * each >= target) --ties;
    if (above == 0 && ties < 1) ties = 1;
    // Ties are kept by ascending id: each thread counts those of its own run of ids.
    const int32_t run = (size + kThreads - 1) / kThreads;
    const int32_t begin = min(static_cast<int32_t>(threadIdx.x) * run, size);
    const int32_t end = min(begin + run, size);
    int32_t own = 0;
    for (int32_t i = begin; i < end; ++i) own += key(p[i]) == low ? 1 : 0;
    __syncthreads();
    tie_counts[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
      int32_t sum = 0;
      for (int t = 0; t < kThreads; ++t) {
        const int32_t count = tie_counts[t];
        tie_counts[t] = sum;
        sum += count;
      }
    }
    __syncthreads();
    int32_t rank = tie_counts[threadIdx.x];
    for (int32_t i = begin; i < end; ++i) {
      if (key(p[i]) < low) {
        p[i] = 0;
      } else if (key(p[i]) == low) {
        if (static_cast<double>(rank) >= ties) p[i] = 0;
        ++rank;
      }
    }
    __syncthreads();
  }
};

__global__ void __launch_bounds__(kThreads)
    sample_kernel(BatchView batch, Tensor logits, double* probabilities, Tensor ids) {
  const int64_t row = blockIdx.x;
  if (row >= live_rows(logits)) return;
  __shared__ float best_value[kThreads];
  __shared__ int32_t best_id[kThreads];
  __shared__ double run_sum[kThreads];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto size = static_cast<int32_t>(logits.width);
  const float* x = row_of(logits, row);
  const SampleParams params = batch.sampling[row];

  float value = -INFINITY;
  int32_t id = size;
  int32_t nan = 0;
  for (int32_t i = thread; i < size; i += kThreads) {
    nan |= isnan(x[i]) ? 1 : 0;
    if (x[i] > value || id == size) {
      value = x[i];
      id = i;
    }
  }
  best_value[thread] = value;
  best_id[thread] = id;
  nan = __syncthreads_or(nan);
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) {
      const float other = best_value[thread + half];
      const int32_t other_id = best_id[thread + half];
      if (other > best_value[thread] ||
          (other == best_value[thread] && other_id < best_id[thread])) {
        best_value[thread] = other;
        best_id[thread] = other_id;
      }
    }
    __syncthreads();
  }
  const float top = best_value[0];
  const int32_t best = best_id[0];
  if (nan != 0 || !isfinite(top) || params.temperature <= 0) {
    // The causes of sampling/sampler.h: kNanLogits, kInfiniteLogits.
    if (thread == 0) int_row_of(ids, row)[0] = nan != 0 ? -1 : !isfinite(top) ? -2 : best;
    return;
  }

  Distribution all{probabilities + row * size, size};
  for (int32_t i = thread; i < size; i += kThreads)
    all.p[i] = exp((static_cast<double>(x[i]) - static_cast<double>(top)) /
                   static_cast<double>(params.temperature));
  __syncthreads();
  if (params.top_k > 0 && params.top_k < size)
    all.keep_first(static_cast<double>(params.top_k), true, best_id);
  if (params.top_p < 1)
    all.keep_first(static_cast<double>(params.top_p) * all.measure(1, false), false, best_id);

  // The inverse of the cumulative distribution: each thread sums a run of ids, then one walks.
  const int32_t run = (size + kThreads - 1) / kThreads;
  const int32_t begin = min(thread * run, size), end = min(begin + run, size);
  double sum = 0;
  for (int32_t i = begin; i < end; ++i) {
    if (all.p[i] < static_cast<double>(params.min_p)) all.p[i] = 0;
    sum += all.p[i];
  }
  run_sum[thread] = sum;
  __syncthreads();
  if (thread != 0) return;
  double total = 0;
  for (int t = 0; t < kThreads; ++t) total += run_sum[t];
  const double target = uniform_at(params.seed, params.counter) * total;
  double reached = 0, reached_before = 0;
  int at = 0;  // the run the number falls into, or the last that is not empty
  for (int t = 0; t < kThreads; ++t) {
    if (run_sum[t] == 0) continue;
    at = t;
    reached_before = reached;
    reached += run_sum[t];
    if (reached > target) break;
  }
  reached = reached_before;
  int32_t chosen = best;
  for (int32_t i = at * run; i < min((at + 1) * run, size); ++i) {
    if (all.p[i] == 0) continue;
    reached += all.p[i];
    chosen = i;
    if (reached > target) break;
  }
  int_row_of(ids, row)[0] = chosen;
}

}  // namespace

void launch_top_k_route(Stream stream, const RouteView& route, const Tensor& logits,
                        const Tensor& ids, const Tensor& weights) {
  const size_t bytes =
      (2 * static_cast<size_t>(logits.width) + static_cast<size_t>(route.groups)) * sizeof(double);
  top_k_route_kernel<<<static_cast<unsigned>(logits.capacity), 32, bytes, stream>>>(route, logits,
                                                                                    ids, weights);
}

void launch_sample(Stream stream, const BatchView& batch, const Tensor& logits,
                   double* probabilities, const Tensor& ids) {
  sample_kernel<<<static_cast<unsigned>(logits.capacity), kThreads, 0, stream>>>(
      batch, logits, probabilities, ids);
}

}  // namespace decant::cuda
