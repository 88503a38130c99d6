#pragma once

// What the host side and the kernels share: plain structs of device pointers and one launch
// function per kernel. No CUDA header is needed to include it. A launch function only enqueues; its
// caller asks for the error. Every grid is sized by capacities; blocks beyond the live counts,
// which lie in device memory, return at once, so that one captured launch serves every step.

#include <cstdint>

struct CUstream_st;

namespace decant::cuda {

using Stream = CUstream_st*;

/// Rows of f32 or i32 in device memory; row r begins at data + r * stride (in elements).
struct Tensor {
  void* data = nullptr;
  int64_t stride = 0;
  int64_t width = 0;
  int32_t capacity = 0;
  const int32_t* live = nullptr;  // live rows; null: all of them
};

enum class Element : uint8_t { kF32, kF16, kBF16 };

/// A weight: `tables` matrices of one format, plane by plane, rows unpadded.
struct Matrix {
  const uint8_t* data = nullptr;
  const uint8_t* scales = nullptr;
  const uint8_t* biases = nullptr;
  Element element = Element::kF32;  // of dense data, or of scales and biases
  int32_t bits = 0;                 // of a packed element; 0: dense
  int32_t group = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

struct SampleParams {
  float temperature, top_p, min_p;
  int32_t top_k;
  uint64_t seed, counter;
};

/// The step's Batch in device memory, refilled before each replay at the same addresses.
struct BatchView {
  const int32_t* live_tokens;
  const int32_t* live_sequences;
  const int32_t* live_outputs;
  const int32_t* prefill;  // 1 in a prefill step
  const int32_t* tokens;
  const int32_t* positions;
  const int32_t* sequence_of;
  const int32_t* outputs;
  const int32_t* first;   // by sequence
  const int32_t* count;   // by sequence
  const int32_t* slot;    // by sequence
  const int32_t* commit;  // by sequence
  const SampleParams* sampling;
  const int32_t* page_begin;  // [group * sequences + s]: where its page table begins in `pages`
  const int32_t* pages;
  int32_t sequences;  // capacity
};

/// KvPool in device memory, the same layout.
struct KvView {
  void* keys;
  void* values;
  bool bf16;
  int32_t kv_heads, head_dim, window, group;
};

struct StateView {
  float* state;
  float* log;
  int32_t width, log_tokens;
};

/// The kinds of ops/unary.h and ops/binary.h, in their order.
enum class UnaryKind : uint8_t {
  kSilu,
  kGeluTanh,
  kGeluErf,
  kSigmoid,
  kTanh,
  kRelu,
  kExp,
  kSqrt,
  kSoftplus,
  kSoftcap,
  kClamp,
  kScale
};
enum class BinaryKind : uint8_t { kAdd, kSub, kMul };

struct RopeView {
  const float* inv_freq;
  int32_t half;
  float attention_factor;
  bool interleaved;
};

struct RouteView {
  const float* bias;  // or null
  int32_t top_k, groups, top_groups;
  bool sigmoid, normalize;
  float scale;
  const float* expert_scale;  // or null
};

// linear.cu
void launch_embed(Stream, const Matrix& table, bool out_of_range_is_row_zero, const BatchView&,
                  const Tensor& y);
/// y = (residual +) x W^T (+ bias); bias.data and residual.data may be null.
void launch_linear(Stream, const Matrix& w, const Tensor& x, const Matrix& bias,
                   const Tensor& residual, const Tensor& y);
void launch_expert_linear(Stream, const Matrix& table, const Tensor& x, bool per_slot,
                          const Tensor& ids, const Tensor& y);

// tokenwise.cu
void launch_unary(Stream, UnaryKind, float constant, const Tensor& x, const Tensor& y);
void launch_act_mul(Stream, UnaryKind, float constant, const Tensor& gate, const Tensor& up,
                    const Tensor& y);
/// b of a's width, or one column broadcast along the row; or one row for all (`weight`, f32, of
/// `weight_width` values: a's width or 1).
void launch_binary(Stream, BinaryKind, const Tensor& a, const Tensor& b, const float* weight,
                   int64_t weight_width, const Tensor& y);
void launch_copy_columns(Stream, const Tensor& x, const Tensor& y, int64_t column);
void launch_narrow_rows(Stream, const BatchView&, const Tensor& x, const Tensor& y);
/// Norm of every `size` columns; weight may be null.
void launch_rms_norm(Stream, const Tensor& x, int64_t size, const float* weight, float eps,
                     const Tensor& y);
void launch_add_rms_norm(Stream, const Tensor& a, const Tensor& b, int64_t size,
                         const float* weight, float eps, const Tensor& sum, const Tensor& y);
void launch_norm_rope(Stream, const BatchView&, const RopeView&, const Tensor& x, int64_t size,
                      const float* weight, float eps, const Tensor& y);
void launch_rope(Stream, const BatchView&, const RopeView&, const Tensor& x, int64_t size,
                 const Tensor& y);
void launch_match_magnitude(Stream, const Tensor& u, const Tensor& ref, float floor,
                            const Tensor& y);
void launch_reduce(Stream, bool variance, const Tensor& x, const Tensor& y);
void launch_combine_experts(Stream, const Tensor& x, const Tensor& weights, const Tensor& y);
void launch_altup_mix(Stream, const Tensor& x, const Tensor& coefs, int64_t streams,
                      const Tensor& y);
void launch_altup_update(Stream, const Tensor& x, const Tensor& coefs, const Tensor& delta,
                         int64_t streams, const Tensor& y);
void launch_add_to_inactive(Stream, const Tensor& x, const Tensor& t, int64_t streams,
                            const Tensor& y);

// sequence.cu
void launch_kv_append(Stream, const BatchView&, const KvView&, const Tensor& k, const Tensor& v);
/// `narrowed`: row r of q is the token outputs[r].
void launch_attention(Stream, const BatchView&, const KvView&, bool narrowed, const Tensor& q,
                      int64_t heads, float scale, float softcap, const Tensor& y);
void launch_leaky_sum(Stream, const BatchView&, const StateView&, const Tensor& x,
                      const float* gate, const Tensor& y);

// choose.cu
void launch_top_k_route(Stream, const RouteView&, const Tensor& logits, const Tensor& ids,
                        const Tensor& weights);
/// `probabilities` has room for capacity x width doubles.
void launch_sample(Stream, const BatchView&, const Tensor& logits, double* probabilities,
                   const Tensor& ids);

}  // namespace decant::cuda
