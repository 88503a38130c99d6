#include <algorithm>
#include <array>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/altup.h"
#include "ops/binary.h"
#include "ops/mlp.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/unary.h"

namespace decant::cpu {
namespace {

class UnaryKernel final : public RowKernel {
 public:
  explicit UnaryKernel(const BindContext& c)
      : RowKernel(c),
        kind_(c.node.as<UnaryParams>().kind),
        constant_(c.node.as<UnaryParams>().constant) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    vector_.unary(kind_, in_[0].row(n), constant_, out_[0].width, out_[0].row(n));
  }

 private:
  Unary kind_;
  float constant_;
};

class BinaryKernel final : public RowKernel {
 public:
  explicit BinaryKernel(const BindContext& c)
      : RowKernel(c),
        kind_(c.node.as<BinaryParams>().kind),
        weight_(weight_floats(c.node)),
        broadcast_((weight_ != nullptr ? c.node.weights[0]->shape.count() : in_[1].width) == 1) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    const float* b = weight_ != nullptr ? weight_ : in_[1].row(n);
    if (broadcast_)
      vector_.binary_scalar(kind_, in_[0].row(n), b[0], out_[0].width, out_[0].row(n));
    else
      vector_.binary(kind_, in_[0].row(n), b, out_[0].width, out_[0].row(n));
  }

 private:
  Binary kind_;
  const float* weight_;
  bool broadcast_;
};

class ConcatKernel final : public RowKernel {
 public:
  using RowKernel::RowKernel;
  void row(const StepContext&, int64_t n, Scratch&) override {
    float* out = out_[0].row(n);
    for (const TensorRef& part : in_) out = std::copy_n(part.row(n), part.width, out);
  }
};

class NormKernel final : public RowKernel {
 public:
  explicit NormKernel(const BindContext& c)
      : RowKernel(c),
        eps_(c.node.as<NormParams>().eps),
        weight_(weight_floats(c.node)),
        size_(in_[0].shape.back()) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    for (int64_t at = 0; at < out_[0].width; at += size_)
      vector_.rms_norm(in_[0].row(n) + at, weight_, eps_, size_, out_[0].row(n) + at);
  }

 private:
  float eps_;
  const float* weight_;
  int64_t size_;
};

class LayerNormKernel final : public RowKernel {
 public:
  explicit LayerNormKernel(const BindContext& c)
      : RowKernel(c),
        params_(c.node.as<LayerNormParams>()),
        weight_(params_.has_weight ? weight_floats(c.node) : nullptr),
        bias_(params_.has_bias ? weight_floats(c.node, params_.has_weight ? 1 : 0) : nullptr),
        size_(in_[0].shape.back()) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    for (int64_t at = 0; at < out_[0].width; at += size_)
      vector_.layer_norm(in_[0].row(n) + at, weight_, bias_, params_.eps, size_,
                         out_[0].row(n) + at);
  }

 private:
  const LayerNormParams& params_;
  const float *weight_, *bias_;
  int64_t size_;
};

class BoundKernel final : public RowKernel {
 public:
  explicit BoundKernel(const BindContext& c)
      : RowKernel(c), lo_(weight_floats(c.node, 0)[0]), hi_(weight_floats(c.node, 1)[0]) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    vector_.bound(in_[0].row(n), lo_, hi_, out_[0].width, out_[0].row(n));
  }

 private:
  float lo_, hi_;
};

class AddNormKernel final : public RowKernel {
 public:
  explicit AddNormKernel(const BindContext& c)
      : RowKernel(c), eps_(c.node.as<NormParams>().eps), weight_(weight_floats(c.node)) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    vector_.add_rms_norm(in_[0].row(n), in_[1].row(n), weight_, eps_, out_[0].width, out_[0].row(n),
                         out_[1].row(n));
  }

 private:
  float eps_;
  const float* weight_;
};

class L2NormKernel final : public RowKernel {
 public:
  explicit L2NormKernel(const BindContext& c)
      : RowKernel(c), params_(c.node.as<L2NormParams>()), size_(in_[0].shape.back()) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    for (int64_t at = 0; at < out_[0].width; at += size_)
      vector_.l2_norm(in_[0].row(n) + at, params_.eps, params_.factor, size_, out_[0].row(n) + at);
  }

 private:
  const L2NormParams& params_;
  int64_t size_;
};

class GatedNormKernel final : public RowKernel {
 public:
  explicit GatedNormKernel(const BindContext& c)
      : RowKernel(c),
        eps_(c.node.as<NormParams>().eps),
        weight_(weight_floats(c.node)),
        size_(in_[0].shape.back()) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    float* y = out_[0].row(n);
    for (int64_t at = 0; at < out_[0].width; at += size_)
      vector_.rms_norm(in_[0].row(n) + at, weight_, eps_, size_, y + at);
    vector_.act_mul(Unary::kSilu, in_[1].row(n), y, out_[0].width, y);
  }

 private:
  float eps_;
  const float* weight_;
  int64_t size_;
};

class GatherKernel final : public RowKernel {
 public:
  explicit GatherKernel(const BindContext& c)
      : RowKernel(c), params_(c.node.as<GatherColumnsParams>()) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    float* y = out_[0].row(n);
    for (const ColumnRun& run : params_.runs)
      y = std::copy_n(in_[0].row(n) + run.first, run.count, y);
  }

 private:
  const GatherColumnsParams& params_;
};

class MatchKernel final : public RowKernel {
 public:
  explicit MatchKernel(const BindContext& c) : RowKernel(c), floor_(c.node.as<NormParams>().eps) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    vector_.match_magnitude(in_[0].row(n), in_[1].row(n), floor_, out_[0].width, out_[0].row(n));
  }

 private:
  float floor_;
};

/// rope, and norm_rope where eps is set.
class RopeKernel final : public RowKernel {
 public:
  RopeKernel(const BindContext& c, const RopeParams& rope, bool norm, float eps)
      : RowKernel(c), rope_(rope), norm_(norm), eps_(eps), weight_(weight_floats(c.node)) {}
  void row(const StepContext& context, int64_t n, Scratch& scratch) override {
    const int64_t heads = out_[0].shape[1], dim = out_[0].shape[2];
    const auto half = static_cast<int64_t>(rope_.inv_freq.size());
    float* cos = reinterpret_cast<float*>(scratch.data);
    float* sin = cos + half;
    float* normed = sin + half;
    angles(context.batch, static_cast<size_t>(context.token_of(out_[0], n)), cos, sin, normed);
    for (int64_t h = 0; h < heads; ++h) {
      const float* x = in_[0].row(n) + h * dim;
      if (norm_) {
        vector_.rms_norm(x, weight_, eps_, dim, normed);
        x = normed;
      }
      vector_.rotate(x, cos, sin, half, dim, rope_.interleaved, out_[0].row(n) + h * dim);
    }
  }

 private:
  void angles(const Batch& batch, size_t token, float* cos, float* sin, float* spare) const {
    const auto half = static_cast<int64_t>(rope_.inv_freq.size());
    const auto turn = [&](int32_t position, float* c, float* s) {
      vector_.angles(static_cast<float>(position), rope_.inv_freq.data(), rope_.attention_factor,
                     half, c, s);
    };
    if (rope_.axes.empty() || batch.rope_positions.empty())
      return turn(batch.positions[token], cos, sin);
    for (uint8_t axis = 0; axis < 3; ++axis) {
      turn(batch.rope_positions[token][axis], spare, spare + half);
      for (int64_t i = 0; i < half; ++i)
        if (rope_.axes[static_cast<size_t>(i)] == axis) cos[i] = spare[i], sin[i] = spare[half + i];
    }
  }
  const RopeParams& rope_;
  bool norm_;
  float eps_;
  const float* weight_;
};

class NarrowKernel final : public RowKernel {
 public:
  using RowKernel::RowKernel;
  void row(const StepContext& context, int64_t n, Scratch&) override {
    std::copy_n(in_[0].row(context.batch.outputs[static_cast<size_t>(n)]), out_[0].width,
                out_[0].row(n));
  }
};

class ReduceKernel final : public RowKernel {
 public:
  explicit ReduceKernel(const BindContext& c)
      : RowKernel(c), kind_(c.node.as<ReduceParams>().kind) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    out_[0].row(n)[0] = kind_ == Reduce::kMean ? vector_.mean(in_[0].row(n), in_[0].width)
                                               : vector_.variance(in_[0].row(n), in_[0].width);
  }

 private:
  Reduce kind_;
};

class ActMulKernel final : public RowKernel {
 public:
  explicit ActMulKernel(const BindContext& c) : RowKernel(c), act_(c.node.as<UnaryParams>().kind) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    vector_.act_mul(act_, in_[0].row(n), in_[1].row(n), out_[0].width, out_[0].row(n));
  }

 private:
  Unary act_;
};

class GeluTopkKernel final : public RowKernel {
 public:
  explicit GeluTopkKernel(const BindContext& c)
      : RowKernel(c), quantile_(c.node.as<UnaryParams>().constant) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    vector_.gelu_topk(in_[0].row(n), in_[1].row(n), quantile_, out_[0].width, out_[0].row(n));
  }

 private:
  float quantile_;
};

class MixKernel final : public RowKernel {
 public:
  using RowKernel::RowKernel;
  void row(const StepContext&, int64_t n, Scratch&) override {
    const int64_t streams = out_[0].shape[1], size = out_[0].shape[2];
    const float* x = in_[0].row(n);
    for (int64_t i = 0; i < streams; ++i)
      vector_.weighted_sum(x + i * size, in_[1].row(n) + i * streams, x, size, streams, size,
                           out_[0].row(n) + i * size);
  }
};

class UpdateKernel final : public RowKernel {
 public:
  using RowKernel::RowKernel;
  void row(const StepContext&, int64_t n, Scratch&) override {
    const int64_t streams = out_[0].shape[1], size = out_[0].shape[2];
    for (int64_t i = 0; i < streams; ++i) {
      const float factor = in_[1].row(n)[i] + 1.0f;
      vector_.weighted_sum(in_[0].row(n) + i * size, &factor, in_[2].row(n), size, 1, size,
                           out_[0].row(n) + i * size);
    }
  }
};

class AddInactiveKernel final : public RowKernel {
 public:
  using RowKernel::RowKernel;
  void row(const StepContext&, int64_t n, Scratch&) override {
    const int64_t streams = out_[0].shape[1], size = out_[0].shape[2];
    std::copy_n(in_[0].row(n), size, out_[0].row(n));
    for (int64_t i = 1; i < streams; ++i)
      vector_.binary(Binary::kAdd, in_[0].row(n) + i * size, in_[1].row(n), size,
                     out_[0].row(n) + i * size);
  }
};

}  // namespace

std::vector<Binding> row_bindings() {
  return {
      {&unary_op(), make<UnaryKernel>},
      {&binary_op(), make<BinaryKernel>},
      {&concat_op(), make<ConcatKernel>},
      {&rms_norm_op(), make<NormKernel>},
      {&add_rms_norm_op(), make<AddNormKernel>},
      {&layer_norm_op(), make<LayerNormKernel>},
      {&bound_op(), make<BoundKernel>},
      {&match_magnitude_op(), make<MatchKernel>},
      {&l2_norm_op(), make<L2NormKernel>},
      {&gated_rms_norm_op(), make<GatedNormKernel>},
      {&gather_columns_op(), make<GatherKernel>},
      {&rope_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<RopeKernel>(c, c.node.as<RopeParams>(), false, 0.0f);
       }},
      {&norm_rope_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         const auto& params = c.node.as<NormRopeParams>();
         return std::make_unique<RopeKernel>(c, *params.rope, true, params.eps);
       }},
      {&narrow_rows_op(), make<NarrowKernel>},
      {&reduce_op(), make<ReduceKernel>},
      {&act_mul_op(), make<ActMulKernel>},
      {&gelu_topk_op(), make<GeluTopkKernel>},
      {&altup_mix_op(), make<MixKernel>},
      {&altup_update_op(), make<UpdateKernel>},
      {&add_to_inactive_op(), make<AddInactiveKernel>},
  };
}

}  // namespace decant::cpu
