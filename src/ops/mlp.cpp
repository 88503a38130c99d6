#include "ops/mlp.h"

#include "ops/binary.h"
#include "ops/case.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rows.h"

namespace decant {
namespace {

struct HeadParams : OpParams {
  float eps = 1e-6f;
  float softcap = 0;
};

class GatedMlp final : public Op {
 public:
  std::string_view name() const override { return "gated_mlp"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return {graph.value(node.inputs[0]).type};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    Value gate = linear(in[0], node.weights[0]);
    Value up = linear(in[0], node.weights[1]);
    return {linear(act_mul(gate, up, node.as<UnaryParams>().kind), node.weights[2])};
  }
  std::vector<OpCase> cases() const override {
    return {{"gated_mlp",
             {Phase::kPrefill, 9, 1, 1},
             [](CaseBuilder& b) {
               const Format format = Format::dense(DType::kBF16);
               Value x = b.input({64});
               b.graph().mark_output(
                   gated_mlp(x, b.matrix(128, 64, format), b.matrix(128, 64, format),
                             b.matrix(64, 128, format), Unary::kSilu),
                   "y");
             },
             300}};
  }
};

class GeluTopk final : public Op {
 public:
  std::string_view name() const override { return "gelu_topk"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& gate = graph.value(node.inputs[0]).type;
    const ValueType& up = graph.value(node.inputs[1]).type;
    require(graph, node, gate.shape == up.shape, "up: expected {}, got {}", gate.shape.to_string(),
            up.shape.to_string());
    return {gate};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    Value deviation = unary(reduce(in[0], Reduce::kVariance), Unary::kSqrt);
    Value cut =
        add(reduce(in[0], Reduce::kMean), scale(deviation, node.as<UnaryParams>().constant));
    return {act_mul(unary(sub(in[0], cut), Unary::kRelu), in[1], Unary::kGeluTanh)};
  }
  std::vector<OpCase> cases() const override {
    return {{"gelu_topk",
             {Phase::kPrefill, 6, 1, 1},
             [](CaseBuilder& b) {
               Value gate = b.input({256});
               b.graph().mark_output(gelu_topk(gate, b.input({256}), 1.6448536f), "y");
             },
             256}};
  }
};

class LmHead final : public Op {
 public:
  std::string_view name() const override { return "lm_head"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    return {{DType::kF32, {x.shape[0], node.weights[1]->shape[0]}, x.rows}};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const auto& params = node.as<HeadParams>();
    Value logits = linear(rms_norm(in[0], node.weights[0], params.eps), node.weights[1]);
    return {params.softcap > 0 ? softcap(logits, params.softcap) : logits};
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (float cap : {0.0f, 30.0f})
      all.push_back({fmt::format("lm_head softcap {}", cap),
                     {Phase::kDecode, 3, 3, 3},
                     [cap](CaseBuilder& b) {
                       Value x = b.input({64}, Rows::kOutputs);
                       b.graph().mark_output(
                           lm_head(x, b.vector({64}, 1.0f, 0.2f), 1e-6f,
                                   b.matrix(100, 64, Format::dense(DType::kBF16)), cap),
                           "y");
                     },
                     200});
    return all;
  }
};

}  // namespace

const Op& gated_mlp_op() {
  static const GatedMlp op;
  return op;
}
const Op& gelu_topk_op() {
  static const GeluTopk op;
  return op;
}
const Op& lm_head_op() {
  static const LmHead op;
  return op;
}

Value gated_mlp(Value x, const Weight* gate, const Weight* up, const Weight* down, Unary act) {
  auto params = std::make_shared<UnaryParams>();
  params->kind = act;
  return x.graph().add1(gated_mlp_op(), params, {x}, {gate, up, down});
}

Value gelu_topk(Value gate, Value up, float quantile) {
  auto params = std::make_shared<UnaryParams>();
  params->kind = Unary::kGeluTanh;
  params->constant = quantile;
  return gate.graph().add1(gelu_topk_op(), params, {gate, up});
}

Value lm_head(Value x, const Weight* norm, float eps, const Weight* head, float cap) {
  auto params = std::make_shared<HeadParams>();
  params->eps = eps;
  params->softcap = cap;
  return x.graph().add1(lm_head_op(), params, {x}, {norm, head});
}

}  // namespace decant
