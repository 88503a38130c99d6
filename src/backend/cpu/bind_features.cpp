#include <algorithm>
#include <vector>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/features.h"

namespace decant::cpu {
namespace {

class MergeKernel final : public RowKernel {
 public:
  using RowKernel::RowKernel;
  void row(const StepContext& context, int64_t n, Scratch&) override {
    const auto& places = context.batch.feature_of;
    const int32_t from = places.empty() ? -1 : places[static_cast<size_t>(n)];
    std::copy_n(from < 0 ? in_[0].row(n) : in_[1].row(from), out_[0].width, out_[0].row(n));
  }
};

class FoldKernel final : public RowKernel {
 public:
  explicit FoldKernel(const BindContext& c) : RowKernel(c), params_(c.node.as<FoldParams>()) {
    share_.assign(static_cast<size_t>(params_.count), 1.0f / static_cast<float>(params_.count));
  }
  void row(const StepContext&, int64_t n, Scratch&) override {
    const int64_t first = n * params_.count;
    float* y = out_[0].row(n);
    if (params_.kind == Fold::kMean) {
      vector_.weighted_sum(nullptr, share_.data(), in_[0].row(first), in_[0].row_stride,
                           params_.count, out_[0].width, y);
      return;
    }
    for (int64_t k = 0; k < params_.count; ++k)
      y = std::copy_n(in_[0].row(first + k), in_[0].width, y);
  }

 private:
  const FoldParams& params_;
  std::vector<float> share_;
};

class WeightedRowsKernel final : public RowKernel {
 public:
  explicit WeightedRowsKernel(const BindContext& c)
      : RowKernel(c), table_(c.node.weights[0]->view()) {
    DECANT_ASSERT(4 * out_[0].width <= Scratch::kBytes, "a row of the table fits the scratch");
  }
  void row(const StepContext&, int64_t n, Scratch& scratch) override {
    auto* decoded = reinterpret_cast<float*>(scratch.data);
    std::fill_n(out_[0].row(n), out_[0].width, 0.0f);
    for (int64_t k = 0; k < in_[0].width; ++k) {
      const int32_t id = in_[0].int_row(n)[k];
      if (id < 0) continue;
      DECANT_ASSERT(id < table_.rows, "ids of a table of positions lie in it");
      dequantize_row(table_, id, decoded);
      vector_.weighted_sum(out_[0].row(n), in_[1].row(n) + k, decoded, out_[0].width, 1,
                           out_[0].width, out_[0].row(n));
    }
  }

 private:
  const MatrixView& table_;
};

}  // namespace

std::vector<Binding> feature_bindings() {
  return {{&merge_features_op(), make<MergeKernel>},
          {&fold_rows_op(), make<FoldKernel>},
          {&weighted_rows_op(), make<WeightedRowsKernel>}};
}

}  // namespace decant::cpu
