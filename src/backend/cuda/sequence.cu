// Kernels that know which sequence a row belongs to: cache append, attention, recurrent state.

#include "backend/cuda/device.cuh"

namespace decant::cuda {
namespace {

constexpr int kPage = 64;        // kPageSize of graph/batch.h, checked where they are launched
constexpr int kSplitPages = 16;  // kAttentionSplit of ops/attention.h
constexpr int kParts = 2;        // threads that share one score
constexpr int kThreads = kPage * kParts;

__device__ inline void store(void* data, bool bf16, int64_t index, float value) {
  if (bf16)
    static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value);
  else
    static_cast<float*>(data)[index] = value;
}
__device__ inline float load(const void* data, bool bf16, int64_t index) {
  return bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index])
              : static_cast<const float*>(data)[index];
}
__device__ inline const int32_t* pages_of(const BatchView& batch, int32_t group, int64_t token) {
  return batch.pages + batch.page_begin[group * batch.sequences + batch.sequence_of[token]];
}
__device__ inline int64_t head_offset(const KvView& kv, int32_t page, int32_t head) {
  return (int64_t{page} * kv.kv_heads + head) * kPage * kv.head_dim;
}

__global__ void kv_append_kernel(BatchView batch, KvView kv, Tensor k, Tensor v) {
  const int64_t n = blockIdx.y;
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= *batch.live_tokens || column >= k.width) return;
  const int32_t position = batch.positions[n];
  const int32_t page = pages_of(batch, kv.group, n)[position / kPage];
  const int64_t head = head_offset(kv, page, static_cast<int32_t>(column / kv.head_dim));
  const int64_t slot = position % kPage, d = column % kv.head_dim;
  store(kv.keys, kv.bf16, head + d * kPage + slot, row_of(k, n)[column]);
  store(kv.values, kv.bf16, head + slot * kv.head_dim + d, row_of(v, n)[column]);
}

/// One block per (row, head). It walks the row's splits in ascending order; each split starts from
/// nothing and is merged when it is done, as if it had run on its own: nothing here depends on the
/// other rows, and splits may move to blocks of their own without changing a bit.
__global__ void __launch_bounds__(kThreads)
    attention_kernel(BatchView batch, KvView kv, bool narrowed, Tensor q, float scale,
                     float softcap, Tensor y) {
  const int64_t row = blockIdx.x;
  if (row >= live_rows(q)) return;
  const int64_t token = narrowed ? batch.outputs[row] : row;
  const int32_t dim = kv.head_dim;
  const int32_t head = static_cast<int32_t>(blockIdx.y);
  const int32_t kv_head = head / (static_cast<int32_t>(gridDim.y) / kv.kv_heads);
  const int32_t position = batch.positions[token];
  const int32_t first = kv.window > 0 && position >= kv.window ? position - kv.window + 1 : 0;
  const int32_t first_page = first / kPage, last_page = position / kPage;
  const int32_t* pages = pages_of(batch, kv.group, token);

  extern __shared__ float shared[];
  float* query = shared;               // [dim]
  float* split_sum = query + dim;      // [dim] of the split at hand; a thread touches only its own
  float* total_sum = split_sum + dim;  // [dim] of the splits before it
  __shared__ float partial[kParts][kPage];
  __shared__ float scores[kPage];
  const int thread = static_cast<int>(threadIdx.x), slot = thread % kPage, part = thread / kPage;
  for (int32_t d = thread; d < dim; d += kThreads) {
    query[d] = row_of(q, row)[int64_t{head} * dim + d];
    total_sum[d] = 0;
  }
  float total_top = -INFINITY, total_weight = 0;
  const int32_t part_begin = dim * part / kParts, part_end = dim * (part + 1) / kParts;

  for (int32_t split = first_page / kSplitPages; split <= last_page / kSplitPages; ++split) {
    float top = -INFINITY, weight = 0;
    for (int32_t d = thread; d < dim; d += kThreads) split_sum[d] = 0;
    const int32_t begin = max(split * kSplitPages, first_page);
    const int32_t end = min(split * kSplitPages + kSplitPages - 1, last_page);
    for (int32_t page = begin; page <= end; ++page) {
      const int64_t at = head_offset(kv, pages[page], kv_head);
      __syncthreads();  // query is written; the last page's scores are read
      float dot = 0;
      for (int32_t d = part_begin; d < part_end; ++d)
        dot = fmaf(query[d], load(kv.keys, kv.bf16, at + int64_t{d} * kPage + slot), dot);
      partial[part][slot] = dot;
      __syncthreads();
      if (part == 0) {
        float s = 0;
        for (int i = 0; i < kParts; ++i) s += partial[i][slot];
        s *= scale;
        if (softcap > 0) s = softcap * tanhf(s / softcap);
        const int32_t j = page * kPage + slot;
        scores[slot] = j >= first && j <= position ? s : -INFINITY;
      }
      __syncthreads();
      float new_top = top;
      for (int i = 0; i < kPage; ++i) new_top = fmaxf(new_top, scores[i]);
      const float correction = expf(top - new_top);
      __syncthreads();
      if (part == 0) scores[slot] = expf(scores[slot] - new_top);
      __syncthreads();
      float page_weight = 0;
      for (int i = 0; i < kPage; ++i) page_weight += scores[i];
      weight = fmaf(weight, correction, page_weight);
      top = new_top;
      for (int32_t d = thread; d < dim; d += kThreads) {
        float sum = 0;
        // A slot that was never written may hold anything: only visible positions are read.
        const int32_t lowest = max(first - page * kPage, 0);
        const int32_t highest = min(position - page * kPage, kPage - 1);
        for (int32_t i = lowest; i <= highest; ++i)
          sum = fmaf(scores[i], load(kv.values, kv.bf16, at + int64_t{i} * dim + d), sum);
        split_sum[d] = fmaf(split_sum[d], correction, sum);
      }
    }
    const float new_top = fmaxf(total_top, top);
    const float before = expf(total_top - new_top), now = expf(top - new_top);
    total_weight = fmaf(total_weight, before, weight * now);
    total_top = new_top;
    for (int32_t d = thread; d < dim; d += kThreads)
      total_sum[d] = fmaf(total_sum[d], before, split_sum[d] * now);
  }
  for (int32_t d = thread; d < dim; d += kThreads)
    row_of(y, row)[int64_t{head} * dim + d] = total_sum[d] / total_weight;
}

__global__ void leaky_sum_kernel(BatchView batch, StateView pool, Tensor x, const float* gate,
                                 Tensor y) {
  const int64_t sequence = blockIdx.y;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (sequence >= *batch.live_sequences || i >= pool.width) return;
  const int64_t slot = batch.slot[sequence];
  float* state = pool.state + slot * pool.width;
  float* log = pool.log + slot * pool.log_tokens * pool.width;
  const bool prefill = *batch.prefill != 0;
  const float g = gate[i];
  float s = state[i];
  for (int64_t t = 0; t < batch.commit[sequence]; ++t)
    s = __fadd_rn(__fmul_rn(g, s), log[t * pool.width + i]);
  state[i] = s;
  for (int64_t t = 0; t < batch.count[sequence]; ++t) {
    const int64_t n = batch.first[sequence] + t;
    const float value = row_of(x, n)[i];
    s = __fadd_rn(__fmul_rn(g, s), value);
    row_of(y, n)[i] = s;
    if (!prefill) log[t * pool.width + i] = value;
  }
  if (prefill) state[i] = s;
}

}  // namespace

void launch_kv_append(Stream stream, const BatchView& batch, const KvView& kv, const Tensor& k,
                      const Tensor& v) {
  const dim3 grid(blocks_for(k.width, kThreads), static_cast<unsigned>(k.capacity));
  kv_append_kernel<<<grid, kThreads, 0, stream>>>(batch, kv, k, v);
}

void launch_attention(Stream stream, const BatchView& batch, const KvView& kv, bool narrowed,
                      const Tensor& q, int64_t heads, float scale, float softcap, const Tensor& y) {
  const dim3 grid(static_cast<unsigned>(q.capacity), static_cast<unsigned>(heads));
  const size_t bytes = 3 * sizeof(float) * static_cast<size_t>(kv.head_dim);
  attention_kernel<<<grid, kThreads, bytes, stream>>>(batch, kv, narrowed, q, scale, softcap, y);
}

void launch_leaky_sum(Stream stream, const BatchView& batch, const StateView& pool, const Tensor& x,
                      const float* gate, const Tensor& y) {
  const dim3 grid(blocks_for(pool.width, kThreads), static_cast<unsigned>(batch.sequences));
  leaky_sum_kernel<<<grid, kThreads, 0, stream>>>(batch, pool, x, gate, y);
}

}  // namespace decant::cuda
