#include "program/passes.h"

#include <map>

#include "ops/binary.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/unary.h"

namespace decant {
namespace {

class PrimitivesOnly final : public BindQuery {
 public:
  bool binds(const Graph&, const Node& node) const override { return !node.op->composite(); }
  bool wants(const Op&) const override { return false; }
};

/// Who reads each value, views counted for the value they show.
class Uses {
 public:
  explicit Uses(const Graph& graph)
      : graph_(graph), readers_(graph.values().size()), outputs_(graph.values().size()) {
    for (const Node& node : graph.nodes())
      for (int id : node.inputs)
        readers_[static_cast<size_t>(graph.storage_of(id))].push_back(node.id);
    for (const auto& [name, id] : graph.outputs())
      ++outputs_[static_cast<size_t>(graph.storage_of(id))];
  }
  const std::vector<int>& readers(int id) const { return readers_[static_cast<size_t>(id)]; }
  bool only_used_by(int id, int node) const {
    return readers(id) == std::vector<int>{node} && outputs_[static_cast<size_t>(id)] == 0;
  }
  /// The node that makes `id` (not through a view) if it is `op` and this reader is its only one.
  const Node* sole_producer(int id, const Op& op, int reader) const {
    const ValueInfo& info = graph_.value(id);
    if (info.base >= 0 || info.producer < 0) return nullptr;
    const Node& node = graph_.nodes()[static_cast<size_t>(info.producer)];
    return node.op == &op && only_used_by(id, reader) ? &node : nullptr;
  }

 private:
  const Graph& graph_;
  std::vector<std::vector<int>> readers_;
  std::vector<int> outputs_;
};

/// One rewrite in the form transform() runs it: nodes to drop, and for a node the maker of its
/// replacement. Makers get the mapped inputs of the dropped node (by its id) and of the node
/// itself.
struct Plan {
  using Maker = std::function<std::vector<Value>(Graph&, const Node&, std::span<const Value> own,
                                                 std::span<const Value> dropped)>;
  std::map<int, int> dropped_by;  // dropped node -> the node that stands for both
  std::map<int, Maker> makers;
};

Graph run_plan(const Graph& graph, const Plan& plan) {
  std::map<int, std::vector<Value>> kept;
  std::map<int, int> dropped_of;
  for (const auto& [dropped, by] : plan.dropped_by) dropped_of[by] = dropped;
  return graph.transform([&](Graph& out, const Node& node,
                             std::span<const Value> inputs) -> std::optional<std::vector<Value>> {
    if (plan.dropped_by.contains(node.id)) {
      kept[node.id] = {inputs.begin(), inputs.end()};
      return std::vector<Value>(node.outputs.size());
    }
    const auto maker = plan.makers.find(node.id);
    if (maker == plan.makers.end()) return std::nullopt;
    return maker->second(out, node, inputs, kept[dropped_of.at(node.id)]);
  });
}

Graph fuse_linear_add(const Graph& graph) {
  const Uses uses(graph);
  Plan plan;
  for (const Node& node : graph.nodes()) {
    if (node.op != &binary_op() || node.inputs.size() != 2 ||
        node.as<BinaryParams>().kind != Binary::kAdd)
      continue;
    for (size_t side : {size_t{1}, size_t{0}}) {
      const Node* product = uses.sole_producer(node.inputs[side], linear_op(), node.id);
      if (product == nullptr || product->weights.size() != 1) continue;
      const ValueType& other = graph.value(node.inputs[1 - side]).type;
      if (other.shape != graph.value(node.inputs[side]).type.shape) continue;
      const Weight* weight = product->weights[0];
      plan.dropped_by[product->id] = node.id;
      plan.makers[node.id] = [side, weight](Graph&, const Node&, std::span<const Value> own,
                                            std::span<const Value> dropped) {
        return std::vector<Value>{linear_add(own[1 - side], dropped[0], weight)};
      };
      break;
    }
  }
  return run_plan(graph, plan);
}

Graph fuse_norm_rope(const Graph& graph) {
  const Uses uses(graph);
  Plan plan;
  for (const Node& node : graph.nodes()) {
    if (node.op != &rope_op()) continue;
    const Node* norm = uses.sole_producer(node.inputs[0], rms_norm_op(), node.id);
    if (norm == nullptr) continue;
    const Weight* weight = norm->weights.empty() ? nullptr : norm->weights[0];
    const float eps = norm->as<NormParams>().eps;
    plan.dropped_by[norm->id] = node.id;
    plan.makers[node.id] = [weight, eps](Graph&, const Node& rotated, std::span<const Value>,
                                         std::span<const Value> dropped) {
      auto params = std::dynamic_pointer_cast<const RopeParams>(rotated.params);
      return std::vector<Value>{norm_rope(dropped[0], weight, eps, std::move(params))};
    };
  }
  return run_plan(graph, plan);
}

Graph fuse_act_mul(const Graph& graph) {
  const Uses uses(graph);
  Plan plan;
  for (const Node& node : graph.nodes()) {
    if (node.op != &binary_op() || node.inputs.size() != 2 ||
        node.as<BinaryParams>().kind != Binary::kMul)
      continue;
    const Node* act = uses.sole_producer(node.inputs[0], unary_op(), node.id);
    if (act == nullptr) continue;
    const Unary kind = act->as<UnaryParams>().kind;
    const bool activation = kind == Unary::kSilu || kind == Unary::kGeluTanh ||
                            kind == Unary::kGeluErf || kind == Unary::kRelu;
    if (!activation ||
        graph.value(node.inputs[0]).type.shape != graph.value(node.inputs[1]).type.shape)
      continue;
    plan.dropped_by[act->id] = node.id;
    plan.makers[node.id] = [kind](Graph&, const Node&, std::span<const Value> own,
                                  std::span<const Value> dropped) {
      return std::vector<Value>{act_mul(dropped[0], own[1], kind)};
    };
  }
  return run_plan(graph, plan);
}

// The sum stays visible as the first result, so it may have other readers.
Graph fuse_add_rms_norm(const Graph& graph) {
  const Uses uses(graph);
  std::map<int, int> norm_of;  // add node -> the norm it takes along
  std::map<int, int> add_of;
  for (const Node& node : graph.nodes()) {
    if (node.op != &rms_norm_op()) continue;
    const ValueInfo& x = graph.value(node.inputs[0]);
    if (x.base >= 0 || x.producer < 0 || x.type.shape.rank() != 2) continue;
    const Node& sum = graph.nodes()[static_cast<size_t>(x.producer)];
    if (sum.op != &binary_op() || sum.inputs.size() != 2 ||
        sum.as<BinaryParams>().kind != Binary::kAdd)
      continue;
    if (graph.value(sum.inputs[0]).type.shape != graph.value(sum.inputs[1]).type.shape) continue;
    if (norm_of.contains(sum.id)) continue;
    norm_of[sum.id] = node.id;
    add_of[node.id] = sum.id;
  }
  std::map<int, Value> normed;
  return graph.transform([&](Graph&, const Node& node,
                             std::span<const Value> inputs) -> std::optional<std::vector<Value>> {
    if (const auto found = norm_of.find(node.id); found != norm_of.end()) {
      const Node& norm = graph.nodes()[static_cast<size_t>(found->second)];
      const auto [sum, y] =
          add_rms_norm(inputs[0], inputs[1], norm.weights.empty() ? nullptr : norm.weights[0],
                       norm.as<NormParams>().eps);
      normed[norm.id] = y;
      return std::vector<Value>{sum};
    }
    if (add_of.contains(node.id)) return std::vector<Value>{normed.at(node.id)};
    return std::nullopt;
  });
}

}  // namespace

const BindQuery& bind_primitives() {
  static const PrimitivesOnly query;
  return query;
}

Graph expand_composites(const Graph& graph, const BindQuery& query) {
  Graph current =
      graph.transform([](Graph&, const Node&, std::span<const Value>) { return std::nullopt; });
  while (true) {
    bool changed = false;
    Graph next =
        current.transform([&](Graph& out, const Node& node,
                              std::span<const Value> inputs) -> std::optional<std::vector<Value>> {
          if (!node.op->composite() || query.binds(current, node)) return std::nullopt;
          changed = true;
          return node.op->expand(out, node, inputs);
        });
    if (!changed) return next;
    current = std::move(next);
  }
}

Graph fuse_neighbours(const Graph& graph, const BindQuery& query) {
  Graph current =
      graph.transform([](Graph&, const Node&, std::span<const Value>) { return std::nullopt; });
  if (query.wants(linear_add_op())) current = fuse_linear_add(current);
  if (query.wants(norm_rope_op())) current = fuse_norm_rope(current);
  if (query.wants(act_mul_op())) current = fuse_act_mul(current);
  if (query.wants(add_rms_norm_op())) current = fuse_add_rms_norm(current);
  return current;
}

}  // namespace decant
