// Kernels of what a sound's tower does beside products: all of them on fixed rows.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/frames.h"
#include "ops/relative_attention.h"

namespace decant::cpu {
namespace {

/// A task takes one head of a block of frames.
class RelativeAttentionKernel final : public CpuKernel {
 public:
  explicit RelativeAttentionKernel(const BindContext& c)
      : vector_(c.vector),
        params_(c.node.as<RelativeAttentionParams>()),
        q_(c.inputs[0]),
        k_(c.inputs[1]),
        v_(c.inputs[2]),
        r_(c.inputs[3]),
        y_(c.outputs[0]),
        frames_(y_.shape[0]),
        heads_(y_.shape[1]),
        dim_(y_.shape[2]) {
    DECANT_ASSERT(relative_floats(params_.span, dim_) * 4 <= Scratch::kBytes,
                  "a block of frames fits the scratch");
    const float* scale = weight_floats(c.node);
    for (int64_t d = 0; d < dim_; ++d) {
      const double softplus = apply(Unary::kSoftplus, static_cast<double>(scale[d]), 0);
      q_factor_.push_back(static_cast<float>(params_.q_scale * softplus));
    }
  }
  int64_t tiles(const StepContext&, int) override {
    return div_up(frames_, kRelativeQueries) * heads_;
  }
  void run(const StepContext&, int, int64_t tile, Scratch& scratch) override {
    const int64_t first = tile / heads_ * kRelativeQueries, head = tile % heads_ * dim_;
    vector_.relative_block({.q = q_.row(first) + head,
                            .k = k_.row(first) + head,
                            .v = v_.row(first) + head,
                            .r = r_.row(0) + head,
                            .q_factor = q_factor_.data(),
                            .q_stride = q_.row_stride,
                            .k_stride = k_.row_stride,
                            .v_stride = v_.row_stride,
                            .r_stride = r_.row_stride,
                            .y = y_.row(first) + head,
                            .y_stride = y_.row_stride,
                            .queries = std::min(kRelativeQueries, frames_ - first),
                            .past = std::min<int64_t>(first, params_.span - 1),
                            .span = params_.span,
                            .dim = dim_,
                            .k_scale = params_.k_scale,
                            .softcap = params_.softcap},
                           reinterpret_cast<float*>(scratch.data));
  }

 private:
  const VectorKernels& vector_;
  const RelativeAttentionParams& params_;
  TensorRef q_, k_, v_, r_, y_;
  int64_t frames_, heads_, dim_;
  std::vector<float> q_factor_;
};

class FrameConvKernel final : public RowKernel {
 public:
  explicit FrameConvKernel(const BindContext& c)
      : RowKernel(c),
        taps_(c.node.as<FrameConvParams>().taps),
        none_(static_cast<size_t>(in_[0].width)) {
    const float bound = c.node.as<FrameConvParams>().bound;
    bound_ = bound > 0 ? bound : std::numeric_limits<float>::infinity();
    const float* weight = weight_floats(c.node);
    for (int64_t j = 0; j < taps_; ++j)
      for (int64_t i = 0; i < in_[0].width; ++i) weight_.push_back(weight[i * taps_ + j]);
    DECANT_ASSERT(taps_ * int64_t{sizeof(float*)} <= Scratch::kBytes, "the taps fit the scratch");
  }
  void row(const StepContext&, int64_t n, Scratch& scratch) override {
    auto** rows = reinterpret_cast<const float**>(scratch.data);
    for (int64_t j = 0; j < taps_; ++j) {
      const int64_t from = n - taps_ + 1 + j;
      rows[j] = from < 0 ? none_.data() : in_[0].row(from);
    }
    vector_.convolve(rows, weight_.data(), in_[0].width, taps_, Unary::kClamp, bound_, in_[0].width,
                     out_[0].row(n));
  }

 private:
  int64_t taps_;
  float bound_ = 0;
  std::vector<float> weight_;  // [taps, channels]
  std::vector<float> none_;    // a frame before the first
};

/// The frames' own moments, then one task for what they add up to, then the frames again.
class CumulativeNormKernel final : public CpuKernel {
 public:
  /// Of one frame, in the workspace.
  struct Frame {
    double mean;
    double variance;
    float centre;   // what its elements are measured from
    float inverse;  // of their deviation up to here
  };
  explicit CumulativeNormKernel(const BindContext& c)
      : vector_(c.vector),
        x_(c.inputs[0]),
        y_(c.outputs[0]),
        rows_(c.node.as<CumulativeNormParams>().rows),
        eps_(c.node.as<CumulativeNormParams>().eps),
        weight_(weight_floats(c.node)),
        frames_(reinterpret_cast<Frame*>(c.workspace)),
        count_(x_.shape[0] / rows_) {
    DECANT_ASSERT(x_.contiguous(), "the rows of a frame lie side by side");
  }
  static int64_t workspace_bytes(const Graph& graph, const Node& node, const PoolSpec&) {
    const int64_t rows = graph.value(node.inputs[0]).type.shape[0];
    return rows / node.as<CumulativeNormParams>().rows * static_cast<int64_t>(sizeof(Frame));
  }
  int stages() const override { return 3; }
  int64_t tiles(const StepContext&, int stage) override {
    per_task_ = std::max<int64_t>(1, (32 << 10) / (rows_ * x_.width));
    return stage == 1 ? 1 : div_up(count_, per_task_);
  }
  void run(const StepContext&, int stage, int64_t tile, Scratch&) override {
    if (stage == 1) return add_up();
    const int64_t end = std::min(count_, (tile + 1) * per_task_);
    for (int64_t t = tile * per_task_; t < end; ++t) {
      if (stage == 0)
        measure(t);
      else
        normalise(t);
    }
  }

 private:
  void measure(int64_t t) const {
    const float* x = x_.row(t * rows_);
    frames_[t].mean = static_cast<double>(vector_.mean(x, rows_ * x_.width));
    frames_[t].variance = static_cast<double>(vector_.variance(x, rows_ * x_.width));
  }
  void add_up() const {
    double means = 0, squares = 0;
    for (int64_t t = 0; t < count_; ++t) {
      Frame& frame = frames_[t];
      const auto so_far = static_cast<double>(t + 1);
      means += frame.mean;
      const double centre = means / so_far, off = frame.mean - centre;
      squares += frame.variance + off * off;
      frame.centre = static_cast<float>(centre);
      frame.inverse =
          static_cast<float>(1 / std::sqrt(squares / so_far + static_cast<double>(eps_)));
    }
  }
  void normalise(int64_t t) const {
    for (int64_t n = t * rows_; n < (t + 1) * rows_; ++n) {
      float* y = y_.row(n);
      vector_.binary_scalar(Binary::kSub, x_.row(n), frames_[t].centre, x_.width, y);
      vector_.binary_scalar(Binary::kMul, y, frames_[t].inverse, x_.width, y);
      vector_.binary(Binary::kMul, y, weight_, x_.width, y);
    }
  }
  const VectorKernels& vector_;
  TensorRef x_, y_;
  int64_t rows_;
  float eps_;
  const float* weight_;
  Frame* frames_;
  int64_t count_;
  int64_t per_task_ = 1;
};

class PickRowsKernel final : public RowKernel {
 public:
  explicit PickRowsKernel(const BindContext& c) : RowKernel(c) {
    for (int64_t row : c.node.as<PickRowsParams>().rows) {
      size_t part = 0;
      while (row >= c.inputs[part].shape[0]) row -= c.inputs[part++].shape[0];
      from_.push_back(c.inputs[part].row(row));
    }
  }
  void row(const StepContext&, int64_t n, Scratch&) override {
    std::copy_n(from_[static_cast<size_t>(n)], out_[0].width, out_[0].row(n));
  }

 private:
  std::vector<const float*> from_;
};

}  // namespace

std::vector<Binding> frame_bindings() {
  return {
      {&relative_attention_op(), make<RelativeAttentionKernel>},
      {&frame_conv_op(), make<FrameConvKernel>},
      {&cumulative_norm_op(), make<CumulativeNormKernel>, CumulativeNormKernel::workspace_bytes},
      {&pick_rows_op(), make<PickRowsKernel>}};
}

}  // namespace decant::cpu
