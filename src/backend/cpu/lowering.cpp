#include "backend/cpu/lowering.h"

#include <algorithm>
#include <array>
#include <map>

#include "backend/cpu/kernels/linear_kernels.h"
#include "ops/experts.h"
#include "ops/latent.h"
#include "ops/linear.h"

namespace decant::cpu {
namespace {

/// Ops that exist on this backend only: their meaning is the op they came from, so they have no
/// reference of their own.
class LoweredOp : public Op {
 public:
  explicit LoweredOp(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }

 private:
  std::string_view name_;
};

class QuantizeRows final : public LoweredOp {
 public:
  using LoweredOp::LoweredOp;
  std::vector<ValueType> infer(const Graph&, const Node& node) const override {
    const auto& params = node.as<QuantizedParams>();
    return {{DType::kU8, Shape{QuantizedRows::bytes(params.rows, params.cols)}, Rows::kFixed}};
  }
  Cost cost(const Graph&, const Node&, const StepStats& stats) const override {
    return {.flops = static_cast<double>(stats.batch.num_tokens())};
  }
};

class LinearInt8 final : public LoweredOp {
 public:
  using LoweredOp::LoweredOp;
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[1]).type;
    return {{DType::kF32, {x.shape[0], node.weights[0]->shape[0]}, x.rows}};
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    const Weight& w = *node.weights[0];
    const ValueType& x = graph.value(node.inputs[1]).type;
    const int64_t rows = live_rows(x, stats.batch);
    return {.weight_bytes = static_cast<double>(w.bytes()),
            .activation_bytes = static_cast<double>(rows * (w.shape[1] + 4 * w.shape[0])),
            .flops = 2.0 * static_cast<double>(rows * w.shape[0] * w.shape[1])};
  }
};

class ExpertPlan final : public LoweredOp {
 public:
  using LoweredOp::LoweredOp;
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const int64_t pairs = graph.value(node.inputs[0]).type.shape.count();
    return {{DType::kI32, Shape{RoutingPlan::count(node.as<PlanParams>().experts, pairs)},
             Rows::kFixed}};
  }
  Cost cost(const Graph&, const Node&, const StepStats&) const override { return {}; }
};

class ExpertProduct final : public LoweredOp {
 public:
  using LoweredOp::LoweredOp;
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[1]).type;
    return {{DType::kF32,
             {x.shape[0], graph.value(node.inputs[2]).type.shape[1], node.weights[0]->shape[1]},
             x.rows}};
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    const Weight& w = *node.weights[0];
    const int64_t pairs = stats.batch.num_tokens() * graph.value(node.inputs[2]).type.width();
    const int64_t distinct =
        stats.distinct_experts >= 0 ? stats.distinct_experts : std::min(pairs, w.experts());
    const int64_t expert_bytes = w.bytes() / w.experts();  // all experts are of one size
    return {.weight_bytes = static_cast<double>(expert_bytes * distinct),
            .activation_bytes = static_cast<double>(pairs * (w.shape[2] + 4 * w.shape[1])),
            .flops = 2.0 * static_cast<double>(pairs * w.shape[1] * w.shape[2])};
  }
};

class HeadProduct final : public LoweredOp {
 public:
  using LoweredOp::LoweredOp;
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[1]).type;
    return {{DType::kF32, {x.shape[0], x.shape[1], node.weights[0]->shape[1]}, x.rows}};
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    const Weight& w = *node.weights[0];
    const ValueType& x = graph.value(node.inputs[1]).type;
    const int64_t rows =
        (x.rows == Rows::kOutputs ? stats.batch.num_outputs() : stats.batch.num_tokens()) *
        w.shape[0];
    return {.weight_bytes = static_cast<double>(w.bytes()),
            .activation_bytes = static_cast<double>(rows * (w.shape[2] + 4 * w.shape[1])),
            .flops = 2.0 * static_cast<double>(rows * w.shape[1] * w.shape[2])};
  }
};

}  // namespace

const Op& head_product_op() {
  static const HeadProduct op("cpu.head_product");
  return op;
}
const Op& quantize_rows_op() {
  static const QuantizeRows op("cpu.quantize_rows");
  return op;
}
const Op& linear_int8_op() {
  static const LinearInt8 op("cpu.linear_int8");
  return op;
}
const Op& expert_plan_op() {
  static const ExpertPlan op("cpu.expert_plan");
  return op;
}
const Op& expert_product_op() {
  static const ExpertProduct op("cpu.expert_product");
  return op;
}

std::string LoweredParams::text() const {
  return fmt::format("{}{}{}", int8 ? "int8" : "f32", has_bias ? " bias" : "",
                     has_residual ? " residual" : "");
}

bool takes_int8(const Weight& weight) {
  return int8_supported(weight.format, weight.views.front().cols);
}

Graph lower(const Graph& graph, bool exact) {
  std::map<int, Value> quantized;  // by value id of the new graph
  std::map<int, Value> plans;
  // A row of `cols` may be a whole row of x, whatever its inner shape, or one expert slot of it.
  const auto quantize = [&](Graph& out, Value x, int64_t cols) {
    if (const auto found = quantized.find(x.id()); found != quantized.end())
      return Value(out, found->second.id());
    auto params = std::make_shared<QuantizedParams>();
    params->cols = cols;
    params->rows = x.shape().count() / params->cols;
    const Value made = out.add1(quantize_rows_op(), params, {x});
    quantized[x.id()] = made;
    return made;
  };
  return graph.transform([&](Graph& out, const Node& node,
                             std::span<const Value> in) -> std::optional<std::vector<Value>> {
    const bool plain = node.op == &linear_op();
    if (plain || node.op == &linear_add_op()) {
      const Value x = plain ? in[0] : in[1];
      if (exact || !takes_int8(*node.weights[0])) return std::nullopt;
      auto params = std::make_shared<LoweredParams>();
      params->int8 = true;
      params->has_bias = node.weights.size() > 1;
      params->has_residual = !plain;
      std::vector<Value> inputs{quantize(out, x, node.weights[0]->shape[1]), x};
      if (!plain) inputs.push_back(in[0]);
      return out.add(linear_int8_op(), params, inputs, node.weights);
    }
    if (node.op == &expert_linear_op()) {
      const Weight& table = *node.weights[0];
      auto found = plans.find(in[1].id());
      if (found == plans.end()) {
        auto params = std::make_shared<PlanParams>();
        params->experts = table.experts();
        found = plans.emplace(in[1].id(), out.add1(expert_plan_op(), params, {in[1]})).first;
      }
      auto params = std::make_shared<LoweredParams>();
      params->int8 = !exact && takes_int8(table);
      const std::array<Value, 4> inputs{params->int8 ? quantize(out, in[0], table.shape[2]) : in[0],
                                        in[0], in[1], found->second};
      return out.add(expert_product_op(), params, inputs, node.weights);
    }
    if (node.op == &head_linear_op()) {
      const Weight& table = *node.weights[0];
      auto params = std::make_shared<LoweredParams>();
      params->int8 = !exact && takes_int8(table);
      Value x = in[0];
      if (params->int8) {
        // A head's columns, of which the matrix may take only the first.
        auto rows = std::make_shared<QuantizedParams>();
        rows->cols = table.shape[2];
        rows->step = in[0].shape()[2];
        rows->rows = in[0].shape()[0] * in[0].shape()[1];
        x = out.add1(quantize_rows_op(), rows, {in[0]});
      }
      const std::array<Value, 2> inputs{x, in[0]};
      return out.add(head_product_op(), params, inputs, node.weights);
    }
    return std::nullopt;
  });
}

}  // namespace decant::cpu
