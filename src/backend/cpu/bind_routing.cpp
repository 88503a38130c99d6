#include <algorithm>
#include <cmath>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/experts.h"
#include "ops/leaky_sum.h"
#include "ops/sample.h"
#include "sampling/sampler.h"

namespace decant::cpu {
namespace {

class RouteKernel final : public CpuKernel {
 public:
  explicit RouteKernel(const BindContext& c)
      : vector_(c.vector),
        params_(c.node.as<RouteParams>()),
        x_(c.inputs[0]),
        ids_(c.outputs[0]),
        weights_(c.outputs[1]) {
    const auto floats = [](const Weight* w) {
      return reinterpret_cast<const float*>(w->view().data);
    };
    if (params_.has_bias) bias_ = floats(c.node.weights.front());
    if (params_.has_expert_scale) expert_scale_ = floats(c.node.weights.back());
  }
  int64_t tiles(const StepContext& context, int) override {
    return div_up(context.live(x_), kPerTask);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const int64_t end = std::min(context.live(x_), (tile + 1) * kPerTask);
    for (int64_t n = tile * kPerTask; n < end; ++n) row(n, scratch);
  }

 private:
  static constexpr int64_t kPerTask = 16;
  void row(int64_t n, Scratch& scratch) const {
    const int64_t experts = x_.width;
    float* score = reinterpret_cast<float*>(scratch.data);
    float* choice = score + experts;
    const float* logits = x_.row(n);
    if (params_.score == RouteScore::kSoftmax) {
      const float total = vector_.softmax_exp(logits, experts, score);
      for (int64_t e = 0; e < experts; ++e) score[e] /= total;
    } else {
      vector_.unary(Unary::kSigmoid, logits, 0.0f, experts, score);
    }
    for (int64_t e = 0; e < experts; ++e)
      choice[e] = score[e] + (bias_ != nullptr ? bias_[e] : 0.0f);
    if (params_.groups > 1) keep_best_groups(choice, choice + experts);
    float total = 0;
    for (int k = 0; k < params_.top_k; ++k) {
      int64_t best = 0;
      for (int64_t e = 1; e < experts; ++e)
        if (choice[e] > choice[best]) best = e;
      ids_.int_row(n)[k] = static_cast<int32_t>(best);
      weights_.row(n)[k] = score[best];
      total += score[best];
      choice[best] = -INFINITY;
    }
    for (int k = 0; k < params_.top_k; ++k) {
      float& weight = weights_.row(n)[k];
      weight = (params_.normalize ? weight / total : weight) * params_.scale;
      if (expert_scale_ != nullptr) weight *= expert_scale_[ids_.int_row(n)[k]];
    }
  }
  void keep_best_groups(float* choice, float* strength) const {
    const int64_t groups = params_.groups, size = x_.width / groups;
    for (int64_t g = 0; g < groups; ++g) {
      float first = -INFINITY, second = -INFINITY;
      for (int64_t e = g * size; e < (g + 1) * size; ++e) {
        if (choice[e] > first) {
          second = first;
          first = choice[e];
        } else {
          second = std::max(second, choice[e]);
        }
      }
      strength[g] = first + (size > 1 ? second : 0.0f);
    }
    for (int64_t dropped = 0; dropped < groups - params_.top_groups; ++dropped) {
      // Of equal groups the later one goes first.
      int64_t worst = -1;
      for (int64_t g = 0; g < groups; ++g)
        if (!std::isnan(strength[g]) && (worst < 0 || strength[g] <= strength[worst])) worst = g;
      strength[worst] = NAN;
      std::fill_n(choice + worst * size, size, -INFINITY);
    }
  }
  const VectorKernels& vector_;
  const RouteParams& params_;
  TensorRef x_, ids_, weights_;
  const float* bias_ = nullptr;
  const float* expert_scale_ = nullptr;
};

class CombineKernel final : public CpuKernel {
 public:
  explicit CombineKernel(const BindContext& c)
      : vector_(c.vector), x_(c.inputs[0]), weights_(c.inputs[1]), y_(c.outputs[0]) {}
  int64_t tiles(const StepContext& context, int) override { return context.live(y_); }
  void run(const StepContext&, int, int64_t n, Scratch&) override {
    vector_.weighted_sum(nullptr, weights_.row(n), x_.row(n), y_.width, weights_.width, y_.width,
                         y_.row(n));
  }

 private:
  const VectorKernels& vector_;
  TensorRef x_, weights_, y_;
};

class SampleKernel final : public CpuKernel {
 public:
  explicit SampleKernel(const BindContext& c)
      : x_(c.inputs[0]), y_(c.outputs[0]), room_(c.workspace) {}
  int64_t tiles(const StepContext& context, int) override {
    return std::min(context.live(y_), kTasks);
  }
  // Task t takes rows t, t + kTasks ... in a scratch of its own.
  void run(const StepContext& context, int, int64_t task, Scratch&) override {
    const auto width = static_cast<size_t>(x_.width);
    const size_t bytes = scratch_bytes(x_.width);
    const std::span<std::byte> scratch(room_ + static_cast<size_t>(task) * bytes, bytes);
    for (int64_t n = task; n < context.live(y_); n += kTasks)
      y_.int_row(n)[0] =
          sample_token({x_.row(n), width}, context.batch.sampling[static_cast<size_t>(n)], scratch);
  }
  static int64_t workspace_bytes(const Graph& graph, const Node& node, const PoolSpec&) {
    const ValueType& x = graph.value(node.inputs[0]).type;
    return std::min(x.shape[0], kTasks) * static_cast<int64_t>(scratch_bytes(x.width()));
  }

 private:
  static constexpr int64_t kTasks = 16;
  static size_t scratch_bytes(int64_t width) {
    return round_up(sample_scratch_bytes(static_cast<size_t>(width)), size_t{64});
  }
  TensorRef x_, y_;
  std::byte* room_;
};

class LeakySumKernel final : public CpuKernel {
 public:
  explicit LeakySumKernel(const BindContext& c)
      : x_(c.inputs[0]),
        y_(c.outputs[0]),
        state_(c.inputs[1].external),
        gate_(reinterpret_cast<const float*>(c.node.weights[0]->view().data)) {}
  int64_t tiles(const StepContext& context, int) override { return context.batch.num_sequences(); }
  void run(const StepContext& context, int, int64_t tile, Scratch&) override {
    const StatePool& pool = context.states[static_cast<size_t>(state_)];
    const Batch::Sequence& sequence = context.batch.sequences[static_cast<size_t>(tile)];
    const int64_t size = pool.spec.width;
    float* state = pool.state + sequence.slot * size;
    float* log = pool.log + sequence.slot * pool.spec.log_tokens * size;
    for (int64_t i = 0; i < size; ++i) {
      float s = state[i];
      for (int64_t t = 0; t < sequence.commit; ++t) s = gate_[i] * s + log[t * size + i];
      state[i] = s;
      for (int64_t t = 0; t < sequence.count; ++t) {
        const float x = x_.row(sequence.first + t)[i];
        s = gate_[i] * s + x;
        y_.row(sequence.first + t)[i] = s;
        if (context.batch.phase == Phase::kDecode) log[t * size + i] = x;
      }
      if (context.batch.phase == Phase::kPrefill) state[i] = s;
    }
  }

 private:
  TensorRef x_, y_;
  int state_;
  const float* gate_;
};

}  // namespace

std::vector<Binding> routing_bindings() {
  return {{&top_k_route_op(), make<RouteKernel>},
          {&combine_experts_op(), make<CombineKernel>},
          {&sample_op(), make<SampleKernel>, &SampleKernel::workspace_bytes},
          {&leaky_sum_op(), make<LeakySumKernel>}};
}

}  // namespace decant::cpu
