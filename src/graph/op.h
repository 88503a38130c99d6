#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/batch.h"
#include "graph/external.h"
#include "tensor/shape.h"
#include "tensor/weight.h"

namespace decant {

class Graph;
class Value;
struct Node;
class CaseBuilder;  // ops/case.h

/// What bounds the live rows of a value at run time; its shape[0] is the capacity.
enum class Rows : uint8_t { kFixed, kTokens, kOutputs };

struct ValueType {
  DType dtype = DType::kF32;
  Shape shape;  // [capacity, ...]: dimension 0 are rows
  Rows rows = Rows::kTokens;
  /// Elements of one row.
  int64_t width() const { return shape.count() / (shape[0] > 0 ? shape[0] : 1); }
  bool operator==(const ValueType&) const = default;
};

/// Rows of a value that count in a step on this batch.
int64_t live_rows(const ValueType& type, const Batch& batch);

/// Parameters of a node: each op derives its own.
struct OpParams {
  virtual ~OpParams() = default;
  /// One line for listings and pictures, e.g. "eps=1e-06".
  virtual std::string text() const { return {}; }
};

/// What a step moves and computes at one node.
struct Cost {
  double weight_bytes = 0;      // packed data, scales, biases
  double kv_bytes = 0;          // cache and recurrent state, read; the state also as written
  double activation_bytes = 0;  // inputs read and outputs written
  double flops = 0;
  Cost& operator+=(const Cost& other) {
    weight_bytes += other.weight_bytes;
    kv_bytes += other.kv_bytes;
    activation_bytes += other.activation_bytes;
    flops += other.flops;
    return *this;
  }
};

/// What a cost is asked for: the step's batch and, for expert nodes, how many distinct experts it
/// touched.
struct StepStats {
  const Batch& batch;
  int64_t distinct_experts = -1;  // -1: not counted, assume all choices differ
};

/// A value in host memory as reference kernels see it. Row r begins at data + r * row_stride (in
/// elements).
struct HostTensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;       // capacity shape
  int64_t rows = 0;  // live rows
  int64_t row_stride = 0;
  int external = -1;  // caches and states: index into the pools
  int64_t width() const { return shape.count() / (shape[0] > 0 ? shape[0] : 1); }
  float* row(int64_t r) const { return static_cast<float*>(data) + r * row_stride; }
  int32_t* int_row(int64_t r) const { return static_cast<int32_t*>(data) + r * row_stride; }
};

/// Everything a reference kernel may touch.
struct ReferenceIo {
  const Node& node;
  const Batch& batch;
  std::span<const HostTensor> inputs;  // cache inputs have no data: see pools
  std::span<const HostTensor> outputs;
  std::span<KvPool> kv;  // by external index
  std::span<StatePool> states;
};

/// One case of an op: a small graph and the bound its results must keep against the reference.
struct OpCase {
  std::string name;
  Capacity capacity;
  /// Records the op and marks its results as outputs.
  std::function<void(CaseBuilder&)> build;
  /// Longest chain of float additions behind one result: the parity bound is
  /// accumulation * 2^-24 * (largest magnitude of the reference output) * kParitySlack.
  int64_t accumulation = 1;
  /// Results that pass through bf16 storage (a KV cache) differ by its rounding instead.
  bool through_bf16 = false;
};

/// The meaning of an operation. A primitive has reference(); a composite has expand(). Ops are
/// stateless singletons.
class Op {
 public:
  virtual ~Op() = default;
  virtual std::string_view name() const = 0;
  virtual bool composite() const { return false; }
  /// Types of the results. Errors: GraphError through `fail(node, ...)`.
  virtual std::vector<ValueType> infer(const Graph& graph, const Node& node) const = 0;
  /// Composite: records the primitives that define it into `graph`, returns the results.
  virtual std::vector<Value> expand(Graph& graph, const Node& node,
                                    std::span<const Value> inputs) const;
  /// Primitive: plain loops, written to be read.
  virtual void reference(const ReferenceIo& io) const;
  /// Bytes and FLOPs of one run. The default counts inputs and outputs once.
  virtual Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const;
  /// The cases that drive parity tests and op benchmarks.
  virtual std::vector<OpCase> cases() const { return {}; }
};

}  // namespace decant
