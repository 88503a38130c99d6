#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "backend/cpu/cpu_kernel.h"
#include "base/checked.h"

namespace decant::cpu {

/// Kernels that treat each row on its own: a task is a block of rows of the first result.
class RowKernel : public CpuKernel {
 public:
  explicit RowKernel(const BindContext& c)
      : vector_(c.vector),
        in_(c.inputs),
        out_(c.outputs),
        per_task_(std::max<int64_t>(1, (32 << 10) / std::max<int64_t>(1, out_[0].width))) {}
  int64_t tiles(const StepContext& context, int) override {
    return div_up(context.live(out_[0]), per_task_);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const int64_t end = std::min(context.live(out_[0]), (tile + 1) * per_task_);
    for (int64_t n = tile * per_task_; n < end; ++n) row(context, n, scratch);
  }

 protected:
  virtual void row(const StepContext& context, int64_t n, Scratch& scratch) = 0;
  const VectorKernels& vector_;
  std::vector<TensorRef> in_, out_;

 private:
  int64_t per_task_;
};

/// The vector a node has as its weight `index`; null where it has fewer.
inline const float* weight_floats(const Node& node, size_t index = 0) {
  if (node.weights.size() <= index) return nullptr;
  DECANT_ASSERT(node.weights[index]->format == Format::dense(DType::kF32),
                "vectors are loaded as f32");
  return reinterpret_cast<const float*>(node.weights[index]->view().data);
}

/// What a Binding makes its kernel with.
template <typename Kernel>
std::unique_ptr<CpuKernel> make(const BindContext& c) {
  return std::make_unique<Kernel>(c);
}

}  // namespace decant::cpu
