#include "ops/norm.h"

#include <array>
#include <cmath>

#include "ops/binary.h"
#include "ops/case.h"
#include "ops/unary.h"

namespace decant {
namespace {

class RmsNorm final : public Op {
 public:
  std::string_view name() const override { return "rms_norm"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    if (!node.weights.empty())
      require(graph, node, node.weights[0]->shape == Shape{x.shape.back()},
              "weight {}: expected {}, got {}", node.weights[0]->name, x.shape.back(),
              node.weights[0]->shape.to_string());
    return {x};
  }
  void reference(const ReferenceIo& io) const override {
    const float eps = io.node.as<NormParams>().eps;
    const int64_t size = io.inputs[0].shape.back();
    const std::byte* weight = io.node.weights.empty() ? nullptr : io.node.weights[0]->view().data;
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t head = 0; head < io.inputs[0].width() / size; ++head) {
        const float* x = io.inputs[0].row(n) + head * size;
        double squares = 0;
        for (int64_t i = 0; i < size; ++i) squares += static_cast<double>(x[i]) * x[i];
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(size) + eps);
        for (int64_t i = 0; i < size; ++i)
          io.outputs[0].row(n)[head * size + i] = static_cast<float>(
              x[i] * inverse * (weight != nullptr ? load_float(weight, DType::kF32, i) : 1.0f));
      }
  }
  std::vector<OpCase> cases() const override {
    return {{"rms_norm of rows",
             {Phase::kPrefill, 9, 2, 2},
             [](CaseBuilder& b) {
               Value x = b.input({200});
               b.graph().mark_output(rms_norm(x, b.vector({200}, 1.0f, 0.2f), 1e-6f), "y");
             },
             200},
            {"rms_norm of heads, a view",
             {Phase::kDecode, 4, 4, 4},
             [](CaseBuilder& b) {
               Value x = b.input({6 * 48}).columns(48, {4, 48});
               b.graph().mark_output(rms_norm(x, b.vector({48}, 1.0f, 0.2f), 1e-5f), "y");
             },
             48},
            {"rms_norm without weight",
             {Phase::kDecode, 1, 1, 1},
             [](CaseBuilder& b) {
               b.graph().mark_output(rms_norm(b.input({2, 64}), nullptr, 1e-6f), "y");
             },
             64}};
  }
};

class LayerNorm final : public Op {
 public:
  std::string_view name() const override { return "layer_norm"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    for (const Weight* w : node.weights)
      require(graph, node, w->shape == Shape{x.shape.back()}, "weight {}: expected {}, got {}",
              w->name, x.shape.back(), w->shape.to_string());
    return {x};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<LayerNormParams>();
    const int64_t size = io.inputs[0].shape.back();
    const auto vector = [&](bool present, size_t index) {
      return present ? io.node.weights[index]->view().data : nullptr;
    };
    const std::byte* weight = vector(params.has_weight, 0);
    const std::byte* bias = vector(params.has_bias, params.has_weight ? 1 : 0);
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t head = 0; head < io.inputs[0].width() / size; ++head) {
        const float* x = io.inputs[0].row(n) + head * size;
        double mean = 0, squares = 0;
        for (int64_t i = 0; i < size; ++i) mean += x[i] / static_cast<double>(size);
        for (int64_t i = 0; i < size; ++i)
          squares += (x[i] - mean) * (x[i] - mean) / static_cast<double>(size);
        const double inverse = 1 / std::sqrt(squares + params.eps);
        for (int64_t i = 0; i < size; ++i)
          io.outputs[0].row(n)[head * size + i] = static_cast<float>(
              (x[i] - mean) * inverse *
                  (weight != nullptr ? load_float(weight, DType::kF32, i) : 1.0f) +
              (bias != nullptr ? load_float(bias, DType::kF32, i) : 0.0f));
      }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const bool weight : {true, false})
      for (const bool bias : {true, false})
        all.push_back({fmt::format("layer_norm{}{}", weight ? " weight" : "", bias ? " bias" : ""),
                       {Phase::kPrefill, 9, 2, 2},
                       [=](CaseBuilder& b) {
                         Value x = b.input({4 * 75}, Rows::kTokens, 3.0f).columns(75, {2, 75});
                         b.graph().mark_output(
                             layer_norm(x, weight ? b.vector({75}, 1.0f, 0.2f) : nullptr,
                                        bias ? b.vector({75}, 0.5f, 0.2f) : nullptr, 1e-5f),
                             "y");
                       },
                       150});
    return all;
  }
};

class AddRmsNorm final : public Op {
 public:
  std::string_view name() const override { return "add_rms_norm"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& a = graph.value(node.inputs[0]).type;
    const ValueType& b = graph.value(node.inputs[1]).type;
    require(graph, node, a.shape == b.shape && a.rows == b.rows, "b: expected {}, got {}",
            a.shape.to_string(), b.shape.to_string());
    return {a, a};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    Value sum = add(in[0], in[1]);
    return {sum, rms_norm(sum, node.weights.empty() ? nullptr : node.weights[0],
                          node.as<NormParams>().eps)};
  }
  std::vector<OpCase> cases() const override {
    return {{"add_rms_norm",
             {Phase::kPrefill, 9, 2, 2},
             [](CaseBuilder& b) {
               Value x = b.input({136});
               const auto [sum, y] =
                   add_rms_norm(x, b.input({136}), b.vector({136}, 1.0f, 0.2f), 1e-6f);
               b.graph().mark_output(sum, "sum");
               b.graph().mark_output(y, "y");
             },
             136}};
  }
};

class MatchMagnitude final : public Op {
 public:
  std::string_view name() const override { return "match_magnitude"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& u = graph.value(node.inputs[0]).type;
    const ValueType& ref = graph.value(node.inputs[1]).type;
    require(graph, node, u.shape == ref.shape, "ref: expected {}, got {}", u.shape.to_string(),
            ref.shape.to_string());
    return {u};
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t size = io.inputs[0].width();
    const double floor = io.node.as<NormParams>().eps;
    for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
      const auto mean_square = [&](const float* x) {
        double sum = 0;
        for (int64_t i = 0; i < size; ++i) sum += static_cast<double>(x[i]) * x[i];
        return sum / static_cast<double>(size);
      };
      const float* u = io.inputs[0].row(n);
      const double factor =
          std::sqrt(mean_square(io.inputs[1].row(n))) / std::sqrt(std::fmax(mean_square(u), floor));
      for (int64_t i = 0; i < size; ++i)
        io.outputs[0].row(n)[i] = static_cast<float>(u[i] * factor);
    }
  }
  std::vector<OpCase> cases() const override {
    return {{"match_magnitude",
             {Phase::kPrefill, 5, 1, 1},
             [](CaseBuilder& b) {
               Value u = b.input({96}, Rows::kTokens, 3.0f);
               b.graph().mark_output(match_magnitude(u, b.input({96})), "y");
             },
             96},
            {"match_magnitude below the floor",
             {Phase::kPrefill, 5, 1, 1},
             [](CaseBuilder& b) {
               Value u = b.input({96}, Rows::kTokens, 1e-4f);
               b.graph().mark_output(match_magnitude(u, b.input({96})), "y");
             },
             96}};
  }
};

class L2Norm final : public Op {
 public:
  std::string_view name() const override { return "l2_norm"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return {graph.value(node.inputs[0]).type};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<L2NormParams>();
    const int64_t size = io.inputs[0].shape.back();
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t at = 0; at < io.inputs[0].width(); at += size) {
        const float* x = io.inputs[0].row(n) + at;
        double squares = 0;
        for (int64_t i = 0; i < size; ++i) squares += static_cast<double>(x[i]) * x[i];
        const double factor = params.factor / std::sqrt(squares + params.eps);
        for (int64_t i = 0; i < size; ++i)
          io.outputs[0].row(n)[at + i] = static_cast<float>(x[i] * factor);
      }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const auto& [name, spread] :
         {std::pair{"l2_norm of heads, a view", 1.0f}, std::pair{"l2_norm of tiny rows", 1e-4f}})
      all.push_back({name,
                     {Phase::kPrefill, 5, 2, 2},
                     [deviation = spread](CaseBuilder& b) {
                       Value x = b.input({6 * 48}, Rows::kTokens, deviation).columns(48, {4, 48});
                       b.graph().mark_output(l2_norm(x, 1e-6f, 0.125f), "y");
                     },
                     48});
    return all;
  }
};

class GatedRmsNorm final : public Op {
 public:
  std::string_view name() const override { return "gated_rms_norm"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const ValueType& gate = graph.value(node.inputs[1]).type;
    require(graph, node, x.shape == gate.shape && x.rows == gate.rows, "gate: expected {}, got {}",
            x.shape.to_string(), gate.shape.to_string());
    require(graph, node, node.weights[0]->shape == Shape{x.shape.back()},
            "weight {}: expected {}, got {}", node.weights[0]->name, x.shape.back(),
            node.weights[0]->shape.to_string());
    return {x};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    return {
        act_mul(in[1], rms_norm(in[0], node.weights[0], node.as<NormParams>().eps), Unary::kSilu)};
  }
  std::vector<OpCase> cases() const override {
    return {{"gated_rms_norm",
             {Phase::kPrefill, 7, 2, 2},
             [](CaseBuilder& b) {
               Value gate = b.input({6 * 48}).columns(96, {4, 48});
               b.graph().mark_output(
                   gated_rms_norm(b.input({4, 48}), gate, b.vector({48}, 1.0f, 0.2f), 1e-6f), "y");
             },
             56}};
  }
};

std::shared_ptr<NormParams> norm_params(float eps) {
  auto params = std::make_shared<NormParams>();
  params->eps = eps;
  return params;
}

}  // namespace

std::string NormParams::text() const { return fmt::format("eps={}", eps); }

std::string LayerNormParams::text() const { return fmt::format("eps={}", eps); }

std::string L2NormParams::text() const { return fmt::format("eps={} factor={}", eps, factor); }

const Op& rms_norm_op() {
  static const RmsNorm op;
  return op;
}
const Op& layer_norm_op() {
  static const LayerNorm op;
  return op;
}
const Op& add_rms_norm_op() {
  static const AddRmsNorm op;
  return op;
}
const Op& match_magnitude_op() {
  static const MatchMagnitude op;
  return op;
}

const Op& l2_norm_op() {
  static const L2Norm op;
  return op;
}
const Op& gated_rms_norm_op() {
  static const GatedRmsNorm op;
  return op;
}

Value rms_norm(Value x, const Weight* weight, float eps) {
  if (weight == nullptr) return x.graph().add1(rms_norm_op(), norm_params(eps), {x});
  return x.graph().add1(rms_norm_op(), norm_params(eps), {x}, {weight});
}

Value layer_norm(Value x, const Weight* weight, const Weight* bias, float eps) {
  auto params = std::make_shared<LayerNormParams>();
  params->eps = eps;
  params->has_weight = weight != nullptr;
  params->has_bias = bias != nullptr;
  std::vector<const Weight*> weights;
  if (weight != nullptr) weights.push_back(weight);
  if (bias != nullptr) weights.push_back(bias);
  const std::array<Value, 1> inputs{x};
  return x.graph().add(layer_norm_op(), std::move(params), inputs, weights)[0];
}

std::pair<Value, Value> add_rms_norm(Value a, Value b, const Weight* weight, float eps) {
  const std::array<Value, 2> inputs{a, b};
  const std::array<const Weight*, 1> weights{weight};
  const auto results = a.graph().add(add_rms_norm_op(), norm_params(eps), inputs,
                                     std::span(weights).first(weight != nullptr ? 1 : 0));
  return {results[0], results[1]};
}

Value l2_norm(Value x, float eps, float factor) {
  auto params = std::make_shared<L2NormParams>();
  params->eps = eps;
  params->factor = factor;
  return x.graph().add1(l2_norm_op(), std::move(params), {x});
}

Value gated_rms_norm(Value x, Value gate, const Weight* weight, float eps) {
  return x.graph().add1(gated_rms_norm_op(), norm_params(eps), {x, gate}, {weight});
}

Value match_magnitude(Value u, Value ref, float floor) {
  return u.graph().add1(match_magnitude_op(), norm_params(floor), {u, ref});
}

}  // namespace decant
