#pragma once

#include "backend/cuda/device_batch.h"
#include "ops/rope.h"
#include "program/passes.h"
#include "program/schedule.h"

namespace decant::cuda {

/// Which ops have a kernel here: all primitives, and the composites that fuse to one launch.
const BindQuery& bind_cuda();

/// A step as one captured CUDA graph. Everything that changes from step to step lies in device
/// memory, so the graph is captured once per address of the arena and replayed.
class CudaProgram final : public Program {
 public:
  /// Errors: RuntimeError naming the nodes without a kernel.
  CudaProgram(std::shared_ptr<const Device> device, std::shared_ptr<Arena> arena,
              WeightCache& weights, const Graph& graph, DevicePools& pools);
  ~CudaProgram() override;
  const Graph& graph() const override { return graph_; }
  const Capacity& capacity() const override { return graph_.capacity(); }
  int64_t arena_bytes() const override { return plan_.arena_bytes; }
  void set_input(int index, std::span<const float> values) override {
    fill(index, std::as_bytes(values));
  }
  void set_input(int index, std::span<const int32_t> values) override {
    fill(index, std::as_bytes(values));
  }
  void run(const Batch& batch) override;
  std::span<const float> output(int index) const override { return fetch<float>(index); }
  std::span<const int32_t> int_output(int index) const override { return fetch<int32_t>(index); }

 private:
  friend struct Launchers;
  struct Fetched {
    bool valid = false;
    std::vector<std::byte> bytes;
  };
  void fill(int index, std::span<const std::byte> bytes);
  template <typename T>
  std::span<const T> fetch(int index) const;
  /// Enqueues every node in the order of the phases.
  void launch_all() const;
  void capture();
  /// The rows that ask for more than the sampling kernel does: bias, penalties, typical_p.
  void sample_on_host(const Batch& batch);
  void drop_graph();

  Tensor tensor(int id) const;
  Tensor input(const Node& node, size_t i) const { return tensor(node.inputs.at(i)); }
  Tensor output_of(const Node& node, size_t i) const { return tensor(node.outputs.at(i)); }
  const Matrix& weight(const Node& node, size_t i) const;
  const float* vector(const Node& node, size_t i) const;
  int external(const Node& node, size_t i) const {
    return graph_.value(node.inputs.at(i)).external_index;
  }
  Stream stream() const { return device_->stream(); }

  std::shared_ptr<const Device> device_;
  std::shared_ptr<Arena> arena_;
  Graph graph_;
  DevicePools& pools_;
  Schedule schedule_;
  MemoryPlan plan_;
  std::map<int, int64_t> workspace_;  // by node: offset in the arena
  std::map<const Weight*, std::shared_ptr<const DeviceWeight>> weights_;
  std::map<const RopeParams*, DeviceBuffer> inv_freq_;
  std::map<int, DeviceBuffer> inputs_;  // by value id of external inputs
  DeviceBatch batch_;
  cudaGraphExec_t replay_ = nullptr;
  int captured_generation_ = -1;
  int64_t live_tokens_ = 0;
  int64_t live_outputs_ = 0;
  mutable std::map<int, Fetched> fetched_;  // by output
};

}  // namespace decant::cuda
