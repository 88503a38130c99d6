#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels/vector_kernels.h"
#include "backend/reference/reference_backend.h"

namespace decant::cpu {

/// A value of a program at its fixed address. Row r begins at data + r * row_stride elements.
struct TensorRef {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  Rows rows = Rows::kTokens;
  Shape shape;
  int64_t width = 0;
  int64_t row_stride = 0;
  int external = -1;  // caches and states: index into the pools
  float* row(int64_t r) const { return reinterpret_cast<float*>(data) + r * row_stride; }
  int32_t* int_row(int64_t r) const { return reinterpret_cast<int32_t*>(data) + r * row_stride; }
  bool contiguous() const { return row_stride == width; }
};

/// What every task of a step may read.
struct StepContext {
  const Batch& batch;
  std::span<const KvPool> kv;
  std::span<const StatePool> states;

  int64_t live(const TensorRef& tensor) const {
    switch (tensor.rows) {
      case Rows::kTokens:
        return batch.num_tokens();
      case Rows::kOutputs:
        return batch.num_outputs();
      case Rows::kFixed:
        break;
    }
    return tensor.shape[0];
  }
  /// The token behind row r of a tensor of token or output rows.
  int64_t token_of(const TensorRef& tensor, int64_t r) const {
    return tensor.rows == Rows::kOutputs ? batch.outputs[static_cast<size_t>(r)] : r;
  }
};

/// A node bound to its kernel. A step runs its stages one after the other, the tiles of a stage in
/// any order on any thread; tiles depend on live counts only, and no result depends on how the work
/// was cut.
class CpuKernel {
 public:
  virtual ~CpuKernel() = default;
  virtual int stages() const { return 1; }
  /// Called once per step by one thread before any tile runs; may prepare for the step without
  /// allocating.
  virtual int64_t tiles(const StepContext& context, int stage) = 0;
  virtual void run(const StepContext& context, int stage, int64_t tile, Scratch& scratch) = 0;
  /// Distinct experts of the last step, -1 if this is no expert node.
  virtual int64_t distinct_experts() const { return -1; }
};

/// What a binder knows when it makes a kernel.
struct BindContext {
  const Graph& graph;
  const Node& node;
  std::vector<TensorRef> inputs;
  std::vector<TensorRef> outputs;
  std::byte* workspace = nullptr;  // as asked for by workspace_bytes
  const PoolSpec& pools;
  const LinearKernels& linear;
  const VectorKernels& vector;
  int threads = 1;  // that share the tasks
};

/// How one op is bound on the CPU.
struct Binding {
  const Op* op;
  std::unique_ptr<CpuKernel> (*make)(const BindContext& context);
  int64_t (*workspace_bytes)(const Graph& graph, const Node& node, const PoolSpec& pools) = nullptr;
};

/// The binding of an op, or null: then composites are expanded and a primitive is an error.
const Binding* find_binding(const Op& op);

/// Rows worth giving to one task when a row costs about `bytes_per_row` to touch.
inline int64_t rows_per_tile(int64_t bytes_per_row, int64_t granule,
                             int64_t target_bytes = 64 << 10) {
  const int64_t rows = target_bytes / std::max<int64_t>(bytes_per_row, 1);
  return std::max<int64_t>(granule, rows / granule * granule);
}

}  // namespace decant::cpu
