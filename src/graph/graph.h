#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/errors.h"
#include "graph/op.h"

namespace decant {

/// A graph that contradicts itself: our own bug or a model we should have refused. Names the node.
class GraphError : public InternalError {
 public:
  using InternalError::InternalError;
};

enum class ExternalKind : uint8_t { kNone, kKvCache, kState, kInput };

/// A symbolic tensor of a graph: a handle, cheap to copy.
class Value {
 public:
  Value() = default;
  Value(Graph& graph, int id) : graph_(&graph), id_(id) {}
  bool valid() const { return graph_ != nullptr; }
  Graph& graph() const { return *graph_; }
  int id() const { return id_; }
  const ValueType& type() const;
  const Shape& shape() const { return type().shape; }
  /// Columns [begin, begin + count) of every row, seen as rows of `inner` (product == count): a
  /// view, no copy.
  Value columns(int64_t begin, const Shape& inner) const;
  /// The same row seen as `inner`, e.g. [N, H*D] as [N, H, D].
  Value reshape(const Shape& inner) const { return columns(0, inner); }

 private:
  Graph* graph_ = nullptr;
  int id_ = -1;
};

struct ValueInfo {
  ValueType type;
  int producer = -1;  // node, or -1 for externals and views
  int result = 0;     // which of the producer's results
  ExternalKind external = ExternalKind::kNone;
  int external_index = -1;  // which cache, state or input; a new version of a cache keeps its index
  int base = -1;            // view: the value whose rows hold this one's columns
  int64_t column = 0;       // view: first column within the base row
};

struct Node {
  int id = -1;
  const Op* op = nullptr;
  std::shared_ptr<const OpParams> params;
  std::vector<int> inputs;
  std::vector<const Weight*> weights;
  std::vector<int> outputs;
  std::string scope;  // where in the model, e.g. "layers.3.self_attn"

  template <typename Params>
  const Params& as() const {
    const auto* typed = dynamic_cast<const Params*>(params.get());
    DECANT_ASSERT(typed != nullptr, "a node carries the parameters of its op");
    return *typed;
  }
};

/// A recorded step: a flat list of nodes in an order that respects their data.
class Graph {
 public:
  explicit Graph(const Capacity& capacity) : capacity_(capacity) {}
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  Graph(Graph&&) = default;
  Graph& operator=(Graph&&) = default;

  const Capacity& capacity() const { return capacity_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<ValueInfo>& values() const { return values_; }
  const ValueInfo& value(int id) const { return values_[static_cast<size_t>(id)]; }
  /// The value that owns the storage of `id`: itself, or what a chain of views ends in.
  int storage_of(int id) const;
  /// First column of `id` within a row of its storage value.
  int64_t column_of(int id) const;

  /// Records a node and infers its results. Errors: GraphError naming node and op.
  std::vector<Value> add(const Op& op, std::shared_ptr<const OpParams> params,
                         std::span<const Value> inputs, std::span<const Weight* const> weights);
  /// The same for ops with one result.
  Value add1(const Op& op, std::shared_ptr<const OpParams> params,
             std::initializer_list<Value> inputs,
             std::initializer_list<const Weight*> weights = {});

  Value kv_cache(int index, const KvSpec& spec);
  Value state(int index, const StateSpec& spec);
  /// A value supplied from outside at run time (tests, tower outputs).
  Value input(int index, const ValueType& type);
  const std::map<int, KvSpec>& kv_specs() const { return kv_specs_; }
  const std::map<int, StateSpec>& state_specs() const { return state_specs_; }
  Value view(Value base, int64_t column, const Shape& inner);

  void mark_output(Value value, std::string name) {
    outputs_.emplace_back(std::move(name), value.id());
  }
  const std::vector<std::pair<std::string, int>>& outputs() const { return outputs_; }

  /// Scope names of nodes recorded while the guard lives; nest with dots.
  class ScopeGuard {
   public:
    ScopeGuard(Graph& graph, std::string_view name);
    ~ScopeGuard() { graph_.scope_.resize(old_size_); }
    ScopeGuard(const ScopeGuard&) = delete;
    ScopeGuard& operator=(const ScopeGuard&) = delete;

   private:
    Graph& graph_;
    size_t old_size_;
  };

  /// "node 12 rms_norm at layers.3.mlp": how errors name a node.
  std::string describe(const Node& node) const;

  /// Copies this graph node by node into a new one. `visit` sees each node with its inputs already
  /// mapped and returns the results to use, or nothing to have the node copied as it is.
  using Visitor = std::function<std::optional<std::vector<Value>>(Graph& out, const Node& node,
                                                                  std::span<const Value> inputs)>;
  Graph transform(const Visitor& visit) const;

 private:
  friend class ScopeGuard;
  Capacity capacity_;
  std::vector<Node> nodes_;
  std::vector<ValueInfo> values_;
  std::vector<std::pair<std::string, int>> outputs_;
  std::map<int, KvSpec> kv_specs_;
  std::map<int, StateSpec> state_specs_;
  std::string scope_;
};

/// Helper of shape inference: throws GraphError "[graph] NODE: what: expected X, got Y" unless
/// `ok`.
template <typename... Args>
void require(const Graph& graph, const Node& node, bool ok, fmt::format_string<Args...> format,
             Args&&... args) {
  if (!ok)
    throw GraphError("[graph] {}: {}", graph.describe(node),
                     fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace decant
