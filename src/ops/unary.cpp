#include "ops/unary.h"

#include <cmath>
#include <numbers>

#include "ops/binary.h"
#include "ops/case.h"

namespace decant {

std::string_view name_of(Unary kind) {
  switch (kind) {
    case Unary::kSilu:
      return "silu";
    case Unary::kGeluTanh:
      return "gelu_tanh";
    case Unary::kGeluErf:
      return "gelu_erf";
    case Unary::kSigmoid:
      return "sigmoid";
    case Unary::kTanh:
      return "tanh";
    case Unary::kRelu:
      return "relu";
    case Unary::kExp:
      return "exp";
    case Unary::kSqrt:
      return "sqrt";
    case Unary::kSoftplus:
      return "softplus";
    case Unary::kSoftcap:
      return "softcap";
    case Unary::kClamp:
      return "clamp";
    case Unary::kScale:
      return "scale";
  }
  return "?";
}

double apply(Unary kind, double x, double constant) {
  switch (kind) {
    case Unary::kSilu:
      return x / (1 + std::exp(-x));
    case Unary::kGeluTanh:
      return 0.5 * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Unary::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Unary::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Unary::kTanh:
      return std::tanh(x);
    case Unary::kRelu:
      return x > 0 ? x : 0;
    case Unary::kExp:
      return std::exp(x);
    case Unary::kSqrt:
      return std::sqrt(x);
    case Unary::kSoftplus:
      return x > 20 ? x : std::log1p(std::exp(x));
    case Unary::kSoftcap:
      return constant * std::tanh(x / constant);
    case Unary::kClamp:
      return std::fmin(std::fmax(x, -constant), constant);
    case Unary::kScale:
      return constant * x;
  }
  return 0;
}

namespace {

class UnaryOp final : public Op {
 public:
  std::string_view name() const override { return "unary"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    require(graph, node, x.dtype == DType::kF32, "x: expected F32, got {}", name_of(x.dtype));
    return {x};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<UnaryParams>();
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t i = 0; i < io.inputs[0].width(); ++i)
        io.outputs[0].row(n)[i] =
            static_cast<float>(apply(params.kind, io.inputs[0].row(n)[i], params.constant));
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (Unary kind : {Unary::kSilu, Unary::kGeluTanh, Unary::kGeluErf, Unary::kSigmoid,
                       Unary::kTanh, Unary::kRelu, Unary::kExp, Unary::kSoftplus, Unary::kSoftcap,
                       Unary::kClamp, Unary::kScale})
      all.push_back({fmt::format("unary {}", name_of(kind)),
                     {Phase::kPrefill, 7, 1, 1},
                     [kind](CaseBuilder& b) {
                       b.graph().mark_output(unary(b.input({131}, Rows::kTokens, 4.0f), kind, 3.5f),
                                             "y");
                     },
                     4});
    all.push_back({"unary of a view",
                   {Phase::kPrefill, 7, 1, 1},
                   [](CaseBuilder& b) {
                     b.graph().mark_output(unary(b.input({96}).columns(16, {2, 24}), Unary::kTanh),
                                           "y");
                   },
                   4});
    return all;
  }
};

class Bound final : public Op {
 public:
  std::string_view name() const override { return "bound"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    for (const Weight* w : node.weights)
      require(graph, node, w->shape.count() == 1, "{}: expected one value, got {}", w->name,
              w->shape.to_string());
    return {graph.value(node.inputs[0]).type};
  }
  void reference(const ReferenceIo& io) const override {
    const float lo = load_float(io.node.weights[0]->view().data, DType::kF32, 0);
    const float hi = load_float(io.node.weights[1]->view().data, DType::kF32, 0);
    for (int64_t n = 0; n < io.outputs[0].rows; ++n)
      for (int64_t i = 0; i < io.outputs[0].width(); ++i)
        io.outputs[0].row(n)[i] = std::min(std::max(io.inputs[0].row(n)[i], lo), hi);
  }
  std::vector<OpCase> cases() const override {
    return {{"bound", {Phase::kPrefill, 5, 2, 2}, [](CaseBuilder& b) {
               Value x = b.input({90}).columns(3, {3, 25});
               b.graph().mark_output(
                   bound(x, b.vector({1}, -0.7f, 0.1f), b.vector({1}, 0.4f, 0.1f)), "y");
             }}};
  }
};

class ActMul final : public Op {
 public:
  std::string_view name() const override { return "act_mul"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& gate = graph.value(node.inputs[0]).type;
    const ValueType& up = graph.value(node.inputs[1]).type;
    require(graph, node, gate.shape == up.shape, "up: expected {}, got {}", gate.shape.to_string(),
            up.shape.to_string());
    return {gate};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const auto& params = node.as<UnaryParams>();
    return {mul(unary(in[0], params.kind, params.constant), in[1])};
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (Unary kind : {Unary::kSilu, Unary::kGeluTanh})
      all.push_back({fmt::format("act_mul {}", name_of(kind)),
                     {Phase::kPrefill, 5, 1, 1},
                     [kind](CaseBuilder& b) {
                       Value both = b.input({300});
                       b.graph().mark_output(
                           act_mul(both.columns(0, {150}), both.columns(150, {150}), kind), "y");
                     },
                     4});
    return all;
  }
};

}  // namespace

std::string UnaryParams::text() const {
  const bool with_constant =
      kind == Unary::kSoftcap || kind == Unary::kClamp || kind == Unary::kScale;
  return with_constant ? fmt::format("{} {}", name_of(kind), constant) : std::string(name_of(kind));
}

const Op& bound_op() {
  static const Bound op;
  return op;
}
Value bound(Value x, const Weight* lo, const Weight* hi) {
  return x.graph().add1(bound_op(), nullptr, {x}, {lo, hi});
}

const Op& unary_op() {
  static const UnaryOp op;
  return op;
}
const Op& act_mul_op() {
  static const ActMul op;
  return op;
}

Value unary(Value x, Unary kind, float constant) {
  auto params = std::make_shared<UnaryParams>();
  params->kind = kind;
  params->constant = constant;
  return x.graph().add1(unary_op(), params, {x});
}

Value act_mul(Value gate, Value up, Unary act) {
  auto params = std::make_shared<UnaryParams>();
  params->kind = act;
  return gate.graph().add1(act_mul_op(), params, {gate, up});
}

}  // namespace decant
