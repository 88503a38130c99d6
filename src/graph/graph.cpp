#include "graph/graph.h"

#include <utility>

namespace decant {

std::vector<Value> Op::expand(Graph&, const Node&, std::span<const Value>) const {
  throw InternalError("[ops] {}: a primitive has no expansion", name());
}

void Op::reference(const ReferenceIo&) const {
  throw InternalError("[ops] {}: a composite has no reference kernel of its own", name());
}

int64_t live_rows(const ValueType& type, const Batch& batch) {
  switch (type.rows) {
    case Rows::kTokens:
      return batch.num_tokens();
    case Rows::kOutputs:
      return batch.num_outputs();
    case Rows::kFixed:
      break;
  }
  return type.shape[0];
}

Cost Op::cost(const Graph& graph, const Node& node, const StepStats& stats) const {
  Cost cost;
  const auto count = [&](int id) {
    const ValueInfo& info = graph.value(id);
    if (info.external == ExternalKind::kKvCache || info.external == ExternalKind::kState) return;
    cost.activation_bytes += static_cast<double>(live_rows(info.type, stats.batch) *
                                                 info.type.width() * size_of(info.type.dtype));
  };
  for (int id : node.inputs) count(id);
  for (int id : node.outputs) count(id);
  for (const Weight* weight : node.weights)
    cost.weight_bytes += static_cast<double>(weight->bytes());
  return cost;
}

const ValueType& Value::type() const { return graph_->value(id_).type; }

Value Value::columns(int64_t begin, const Shape& inner) const {
  return graph_->view(*this, begin, inner);
}

int Graph::storage_of(int id) const {
  while (value(id).base >= 0) id = value(id).base;
  return id;
}

int64_t Graph::column_of(int id) const {
  int64_t column = 0;
  for (; value(id).base >= 0; id = value(id).base) column += value(id).column;
  return column;
}

std::vector<Value> Graph::add(const Op& op, std::shared_ptr<const OpParams> params,
                              std::span<const Value> inputs,
                              std::span<const Weight* const> weights) {
  Node node;
  node.id = static_cast<int>(nodes_.size());
  node.op = &op;
  node.params = std::move(params);
  node.scope = scope_;
  for (const Value& input : inputs) {
    DECANT_ASSERT(input.valid() && &input.graph() == this, "inputs of a node belong to its graph");
    node.inputs.push_back(input.id());
  }
  for (const Weight* weight : weights) {
    DECANT_ASSERT(weight != nullptr, "a node's weights exist");
    node.weights.push_back(weight);
  }
  std::vector<Value> results;
  for (ValueType& type : op.infer(*this, node)) {
    ValueInfo info;
    info.type = std::move(type);
    info.producer = node.id;
    info.result = static_cast<int>(results.size());
    // A new version of a cache is the same storage: it carries on the identity of the cache among
    // the inputs.
    if (info.type.rows == Rows::kFixed && info.type.shape.rank() == 1 && info.type.shape[0] == 0) {
      for (int id : node.inputs) {
        const ValueInfo& from = value(id);
        if (from.external != ExternalKind::kKvCache && from.external != ExternalKind::kState)
          continue;
        info.external = from.external;
        info.external_index = from.external_index;
      }
    }
    node.outputs.push_back(static_cast<int>(values_.size()));
    results.emplace_back(*this, static_cast<int>(values_.size()));
    values_.push_back(std::move(info));
  }
  nodes_.push_back(std::move(node));
  return results;
}

Value Graph::add1(const Op& op, std::shared_ptr<const OpParams> params,
                  std::initializer_list<Value> inputs,
                  std::initializer_list<const Weight*> weights) {
  auto results = add(op, std::move(params), std::span(inputs.begin(), inputs.size()),
                     std::span(weights.begin(), weights.size()));
  DECANT_ASSERT(results.size() == 1, "this op has one result");
  return results.front();
}

Value Graph::kv_cache(int index, const KvSpec& spec) {
  kv_specs_[index] = spec;
  ValueInfo info;
  info.type = {DType::kF32, Shape{0}, Rows::kFixed};
  info.external = ExternalKind::kKvCache;
  info.external_index = index;
  values_.push_back(std::move(info));
  return {*this, static_cast<int>(values_.size()) - 1};
}

Value Graph::state(int index, const StateSpec& spec) {
  state_specs_[index] = spec;
  ValueInfo info;
  info.type = {DType::kF32, Shape{0}, Rows::kFixed};
  info.external = ExternalKind::kState;
  info.external_index = index;
  values_.push_back(std::move(info));
  return {*this, static_cast<int>(values_.size()) - 1};
}

Value Graph::input(int index, const ValueType& type) {
  ValueInfo info;
  info.type = type;
  info.external = ExternalKind::kInput;
  info.external_index = index;
  values_.push_back(std::move(info));
  return {*this, static_cast<int>(values_.size()) - 1};
}

Value Graph::view(Value base, int64_t column, const Shape& inner) {
  const ValueType& from = base.type();
  DECANT_ASSERT(inner.rank() + 1 <= Shape::kMaxRank, "a view's rows have at most three dimensions");
  DECANT_ASSERT(column >= 0 && column + inner.count() <= from.width(),
                "a view lies within its base's rows");
  std::vector<int64_t> dims{from.shape[0]};
  for (int64_t dim : inner.dims()) dims.push_back(dim);
  ValueInfo info;
  info.type = {from.dtype, Shape(std::span<const int64_t>(dims)), from.rows};
  info.base = base.id();
  info.column = column;
  values_.push_back(std::move(info));
  return {*this, static_cast<int>(values_.size()) - 1};
}

Graph::ScopeGuard::ScopeGuard(Graph& graph, std::string_view name)
    : graph_(graph), old_size_(graph.scope_.size()) {
  if (!graph.scope_.empty() && !name.empty()) graph.scope_ += '.';
  graph.scope_ += name;
}

std::string Graph::describe(const Node& node) const {
  return fmt::format("node {} {}{}{}", node.id, node.op->name(), node.scope.empty() ? "" : " at ",
                     node.scope);
}

Graph Graph::transform(const Visitor& visit) const {
  Graph out(capacity_);
  std::vector<Value> mapped(values_.size());
  std::vector<bool> made(values_.size());
  const std::function<Value(int)> map = [&](int id) -> Value {
    Value& slot = mapped[static_cast<size_t>(id)];
    if (slot.valid()) return Value(out, slot.id());
    const ValueInfo& info = value(id);
    if (info.base >= 0) {
      const auto dims = info.type.shape.dims();
      slot = out.view(map(info.base), info.column, Shape(dims.subspan(1)));
    } else if (info.external == ExternalKind::kKvCache) {
      slot = out.kv_cache(info.external_index, kv_specs_.at(info.external_index));
    } else if (info.external == ExternalKind::kState) {
      slot = out.state(info.external_index, state_specs_.at(info.external_index));
    } else if (info.external == ExternalKind::kInput) {
      slot = out.input(info.external_index, info.type);
    } else {
      // The visitor dropped the node that made it: only a node that is replaced too may still name
      // it.
      DECANT_ASSERT(made[static_cast<size_t>(id)], "a value is made before it is used");
    }
    return slot;
  };
  for (const Node& node : nodes_) {
    std::vector<Value> inputs;
    for (int id : node.inputs) inputs.push_back(map(id));
    out.scope_ = node.scope;
    std::optional<std::vector<Value>> results = visit(out, node, inputs);
    if (!results) results = out.add(*node.op, node.params, inputs, node.weights);
    DECANT_ASSERT(results->size() == node.outputs.size(),
                  "a replaced node keeps its number of results");
    for (size_t i = 0; i < results->size(); ++i) {
      const ValueType& wanted = value(node.outputs[i]).type;
      const ValueType& got = (*results)[i].valid() ? (*results)[i].type() : wanted;
      require(*this, node,
              wanted.dtype == got.dtype && wanted.shape == got.shape && wanted.rows == got.rows,
              "replacement of result {}: expected {} {}, got {} {}", i, name_of(wanted.dtype),
              wanted.shape.to_string(), name_of(got.dtype), got.shape.to_string());
      mapped[static_cast<size_t>(node.outputs[i])] = (*results)[i];
      made[static_cast<size_t>(node.outputs[i])] = true;
    }
  }
  out.scope_.clear();
  for (const auto& [name, id] : outputs_) out.mark_output(map(id), name);
  return out;
}

}  // namespace decant
