#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"

namespace decant::cpu {
namespace {

/// A task takes some channels of one sequence through all its tokens, state and log included:
/// channels do not meet, so nothing is read after another task has written it.
class CausalConvKernel final : public CpuKernel {
 public:
  explicit CausalConvKernel(const BindContext& c)
      : vector_(c.vector),
        params_(c.node.as<CausalConvParams>()),
        u_(c.inputs[0]),
        y_(c.outputs[0]),
        pool_(c.inputs[1].external),
        channels_(u_.width) {
    // [tap][channel], so that neighbouring channels are neighbouring lanes.
    const float* w = weight_floats(c.node);
    for (int j = 0; j < params_.taps; ++j)
      for (int64_t i = 0; i < channels_; ++i) weight_.push_back(w[i * params_.taps + j]);
  }
  int64_t tiles(const StepContext& context, int) override {
    return context.batch.num_sequences() * blocks();
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const Batch::Sequence& sequence = context.batch.sequences[static_cast<size_t>(tile / blocks())];
    const StatePool& pool = context.states[static_cast<size_t>(pool_)];
    const int64_t first = tile % blocks() * kBlock, size = std::min(kBlock, channels_ - first);
    const int64_t past = params_.taps - 1;
    DECANT_ASSERT(sequence.slot >= 0 && sequence.slot < pool.slots, "a sequence has a slot");
    float* state = pool.state + sequence.slot * pool.spec.width + first;
    float* log = pool.log + sequence.slot * pool.spec.log_tokens * channels_ + first;
    // Row i of the state, then what followed it.
    const auto copy_row = [&](int64_t to, const float* from) {
      std::copy_n(from, size, state + to * channels_);
    };
    DECANT_ASSERT(sequence.commit <= pool.spec.log_tokens, "the log holds what is committed");
    if (sequence.commit > 0)
      for (int64_t j = 0; j < past; ++j) {
        const int64_t from = j + sequence.commit;
        copy_row(j, from < past ? state + from * channels_ : log + (from - past) * channels_);
      }
    const auto row = [&](int64_t i) -> const float* {
      return i < past ? state + i * channels_ : u_.row(sequence.first + i - past) + first;
    };
    auto** taps = reinterpret_cast<const float**>(scratch.data);
    for (int64_t t = 0; t < sequence.count; ++t) {
      for (int64_t j = 0; j <= past; ++j) taps[j] = row(t + j);
      vector_.convolve(taps, weight_.data() + first, channels_, params_.taps, params_.act, 0, size,
                       y_.row(sequence.first + t) + first);
    }
    if (context.batch.phase == Phase::kPrefill) {
      for (int64_t j = 0; j < past; ++j) copy_row(j, row(sequence.count + j));
    } else {
      DECANT_ASSERT(sequence.count <= pool.spec.log_tokens, "the log holds a step's tokens");
      for (int64_t t = 0; t < sequence.count; ++t)
        std::copy_n(u_.row(sequence.first + t) + first, size, log + t * channels_);
    }
  }

 private:
  static constexpr int64_t kBlock = 512;
  int64_t blocks() const { return div_up(channels_, kBlock); }
  const VectorKernels& vector_;
  const CausalConvParams& params_;
  TensorRef u_, y_;
  int pool_;
  int64_t channels_;
  std::vector<float> weight_;
};

/// A task takes one head of one sequence through all its tokens, state and log included.
class GatedDeltaKernel final : public CpuKernel {
 public:
  explicit GatedDeltaKernel(const BindContext& c)
      : vector_(c.vector),
        q_(c.inputs[0]),
        k_(c.inputs[1]),
        v_(c.inputs[2]),
        g_(c.inputs[3]),
        beta_(c.inputs[4]),
        y_(c.outputs[0]),
        pool_(c.inputs[5].external),
        heads_(v_.shape[1]),
        group_(heads_ / k_.shape[1]),
        dk_(k_.shape[2]),
        dv_(v_.shape[2]) {
    static_assert(4 * delta_chunk_floats(kMaxDeltaDim, kMaxDeltaDim, kDeltaTile) <=
                  Scratch::kBytes);
  }
  int64_t tiles(const StepContext& context, int) override {
    return context.batch.num_sequences() * heads_;
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const Batch::Sequence& sequence = context.batch.sequences[static_cast<size_t>(tile / heads_)];
    const int64_t head = tile % heads_;
    const StatePool& pool = context.states[static_cast<size_t>(pool_)];
    DECANT_ASSERT(sequence.slot >= 0 && sequence.slot < pool.slots, "a sequence has a slot");
    DECANT_ASSERT(sequence.commit <= pool.spec.log_tokens, "the log holds what is committed");
    float* state = pool.state + sequence.slot * pool.spec.width + head * dk_ * dv_;
    float* log =
        pool.log + sequence.slot * pool.spec.log_tokens * pool.spec.log_width + head * entry();
    if (context.batch.phase == Phase::kDecode)
      decode(sequence, head, state, log, pool.spec, scratch);
    else
      prefill(sequence, head, state, log, pool.spec, scratch);
  }

 private:
  int64_t entry() const { return dk_ + dv_ + 2; }
  DeltaToken logged(const float* entry) const {
    return {nullptr, entry, entry + dk_, entry[dk_ + dv_], entry[dk_ + dv_ + 1], nullptr};
  }
  void decode(const Batch::Sequence& sequence, int64_t head, float* state, float* log,
              const StateSpec& spec, Scratch& scratch) const {
    DECANT_ASSERT(sequence.count <= spec.log_tokens, "the log holds a step's tokens");
    auto* tokens = reinterpret_cast<DeltaToken*>(scratch.data);
    const int64_t count = sequence.commit + sequence.count;
    for (int64_t t = 0; t < sequence.commit; ++t) tokens[t] = logged(log + t * spec.log_width);
    for (int64_t t = 0; t < sequence.count; ++t) {
      const int64_t n = sequence.first + t;
      tokens[sequence.commit + t] = {q_.row(n) + head / group_ * dk_,
                                     k_.row(n) + head / group_ * dk_,
                                     v_.row(n) + head * dv_,
                                     g_.row(n)[head],
                                     beta_.row(n)[head],
                                     y_.row(n) + head * dv_};
    }
    vector_.delta_steps(state, dk_, dv_, tokens, sequence.commit, count,
                        reinterpret_cast<float*>(tokens + count));
    for (int64_t t = 0; t < sequence.count; ++t) {
      const DeltaToken& token = tokens[sequence.commit + t];
      float* to = log + t * spec.log_width;
      to = std::copy_n(token.k, dk_, to);
      to = std::copy_n(token.v, dv_, to);
      to[0] = token.g;
      to[1] = token.beta;
    }
  }
  void prefill(const Batch::Sequence& sequence, int64_t head, float* state, const float* log,
               const StateSpec& spec, Scratch& scratch) const {
    for (int64_t t = 0; t < sequence.commit; ++t) {
      const DeltaToken token = logged(log + t * spec.log_width);
      vector_.delta_steps(state, dk_, dv_, &token, 1, 1, reinterpret_cast<float*>(scratch.data));
    }
    for (int64_t t = 0; t < sequence.count;) {
      const int64_t left = kDeltaTile - (sequence.past + t) % kDeltaTile;
      const int64_t n = sequence.first + t;
      const DeltaChunk chunk{.q = q_.row(n) + head / group_ * dk_,
                             .k = k_.row(n) + head / group_ * dk_,
                             .v = v_.row(n) + head * dv_,
                             .g = g_.row(n) + head,
                             .beta = beta_.row(n) + head,
                             .q_stride = q_.row_stride,
                             .k_stride = k_.row_stride,
                             .v_stride = v_.row_stride,
                             .g_stride = g_.row_stride,
                             .beta_stride = beta_.row_stride,
                             .y = y_.row(n) + head * dv_,
                             .y_stride = y_.row_stride,
                             .count = std::min<int64_t>(left, sequence.count - t)};
      vector_.delta_chunk(state, dk_, dv_, chunk, reinterpret_cast<float*>(scratch.data));
      t += chunk.count;
    }
  }

  const VectorKernels& vector_;
  TensorRef q_, k_, v_, g_, beta_, y_;
  int pool_;
  int64_t heads_, group_, dk_, dv_;
};

class DeltaDecayKernel final : public CpuKernel {
 public:
  explicit DeltaDecayKernel(const BindContext& c)
      : vector_(c.vector), a_(c.inputs[0]), g_(c.outputs[0]), bias_(weight_floats(c.node, 1)) {
    const float* a_log = weight_floats(c.node);
    for (int64_t h = 0; h < a_.width; ++h)
      rate_.push_back(static_cast<float>(-std::exp(static_cast<double>(a_log[h]))));
  }
  int64_t tiles(const StepContext& context, int) override {
    return div_up(context.live(g_), kPerTask);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch&) override {
    const int64_t end = std::min(context.live(g_), (tile + 1) * kPerTask), size = a_.width;
    for (int64_t n = tile * kPerTask; n < end; ++n) {
      float* g = g_.row(n);
      vector_.binary(Binary::kAdd, a_.row(n), bias_, size, g);
      vector_.unary(Unary::kSoftplus, g, 0, size, g);
      vector_.binary(Binary::kMul, g, rate_.data(), size, g);
    }
  }

 private:
  static constexpr int64_t kPerTask = 64;
  const VectorKernels& vector_;
  TensorRef a_, g_;
  const float* bias_;
  std::vector<float> rate_;
};

}  // namespace

std::vector<Binding> recurrent_bindings() {
  return {{&causal_conv1d_op(), make<CausalConvKernel>},
          {&gated_delta_op(), make<GatedDeltaKernel>},
          {&delta_decay_op(), make<DeltaDecayKernel>}};
}

}  // namespace decant::cpu
