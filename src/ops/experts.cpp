#include "ops/experts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "ops/case.h"
#include "ops/linear.h"
#include "ops/unary.h"

namespace decant {
namespace {

class TopKRoute final : public Op {
 public:
  std::string_view name() const override { return "top_k_route"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const auto& params = node.as<RouteParams>();
    require(graph, node, params.top_k >= 1 && params.top_k <= x.width(),
            "top_k: expected 1 to {}, got {}", x.width(), params.top_k);
    require(graph, node,
            params.groups >= 1 && x.width() % params.groups == 0 && params.top_groups >= 1 &&
                params.top_groups <= params.groups &&
                params.top_k <= x.width() / params.groups * params.top_groups,
            "groups: {} of {} cannot hold {} of {} experts", params.top_groups, params.groups,
            params.top_k, x.width());
    for (const Weight* w : node.weights)
      require(graph, node, w->shape.count() == x.width() && w->format == Format::dense(DType::kF32),
              "weight {}: expected {} f32 values, got {} {}", w->name, x.width(),
              w->shape.to_string(), w->format.name());
    const Shape shape{x.shape[0], params.top_k};
    return {{DType::kI32, shape, x.rows}, {DType::kF32, shape, x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<RouteParams>();
    const int64_t experts = io.inputs[0].width();
    std::vector<double> score(static_cast<size_t>(experts)), choice(score.size());
    std::vector<int32_t> order(score.size());
    for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
      const float* logits = io.inputs[0].row(n);
      const double top = *std::max_element(logits, logits + experts);
      double total = 0;
      for (int64_t e = 0; e < experts; ++e) {
        const auto i = static_cast<size_t>(e);
        score[i] = params.score == RouteScore::kSoftmax
                       ? std::exp(logits[e] - top)
                       : 1 / (1 + std::exp(-static_cast<double>(logits[e])));
        total += score[i];
      }
      for (size_t e = 0; e < score.size(); ++e) {
        if (params.score == RouteScore::kSoftmax) score[e] /= total;
        choice[e] = score[e];
        if (params.has_bias)
          choice[e] +=
              load_float(io.node.weights[0]->view().data, DType::kF32, static_cast<int64_t>(e));
      }
      if (params.groups > 1) keep_best_groups(params, choice);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return choice[static_cast<size_t>(a)] > choice[static_cast<size_t>(b)];
      });
      double chosen = 0;
      for (int k = 0; k < params.top_k; ++k)
        chosen += score[static_cast<size_t>(order[static_cast<size_t>(k)])];
      for (int k = 0; k < params.top_k; ++k) {
        const int32_t e = order[static_cast<size_t>(k)];
        io.outputs[0].int_row(n)[k] = e;
        double weight = score[static_cast<size_t>(e)] / (params.normalize ? chosen : 1.0);
        if (params.has_expert_scale)
          weight *= load_float(io.node.weights.back()->view().data, DType::kF32, e);
        io.outputs[1].row(n)[k] = static_cast<float>(weight * params.scale);
      }
    }
  }
  static void keep_best_groups(const RouteParams& params, std::vector<double>& choice) {
    const size_t size = choice.size() / static_cast<size_t>(params.groups);
    std::vector<std::pair<double, size_t>> groups;
    for (size_t g = 0; g < static_cast<size_t>(params.groups); ++g) {
      std::vector<double> members(choice.begin() + static_cast<std::ptrdiff_t>(g * size),
                                  choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
      std::sort(members.rbegin(), members.rend());
      groups.emplace_back(members[0] + (size > 1 ? members[1] : 0.0), g);
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    for (size_t i = static_cast<size_t>(params.top_groups); i < groups.size(); ++i)
      for (size_t m = 0; m < size; ++m) choice[groups[i].second * size + m] = -INFINITY;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const auto add_case = [&](std::string name, RouteParams params, int64_t experts, bool bias,
                              bool scaled = false) {
      all.push_back({std::move(name),
                     {Phase::kPrefill, 11, 1, 1},
                     [=](CaseBuilder& b) {
                       const auto [ids, weights] =
                           top_k_route(b.input({experts}), params,
                                       bias ? b.vector({experts}, 0, 0.3f) : nullptr,
                                       scaled ? b.vector({experts}, 1, 0.3f) : nullptr);
                       b.graph().mark_output(ids, "ids");
                       b.graph().mark_output(weights, "weights");
                     },
                     experts});
    };
    RouteParams params;
    params.top_k = 4;
    add_case("top_k_route softmax", params, 8, false);
    add_case("top_k_route softmax, scaled experts", params, 8, false, true);
    params.top_k = 8;
    params.normalize = false;
    add_case("top_k_route softmax of 128", params, 128, false);
    params.normalize = true;
    params.score = RouteScore::kSigmoid;
    params.scale = 2.5f;
    params.groups = 8;
    params.top_groups = 3;
    add_case("top_k_route sigmoid, groups, bias", params, 64, true);
    add_case("top_k_route sigmoid, groups, bias, scaled experts", params, 64, true, true);
    return all;
  }
};

class ExpertLinear final : public Op {
 public:
  std::string_view name() const override { return "expert_linear"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const ValueType& ids = graph.value(node.inputs[1]).type;
    const Weight& w = *node.weights[0];
    require(graph, node, w.shape.rank() == 3, "weight {}: expected rank 3, got {}", w.name,
            w.shape.to_string());
    require(graph, node, ids.dtype == DType::kI32 && ids.shape.rank() == 2,
            "ids: expected [N, K] of I32");
    const bool per_slot = x.shape.rank() == 3;
    require(graph, node, x.shape.back() == w.shape[2] && (!per_slot || x.shape[1] == ids.shape[1]),
            "x: expected [N, {}] or [N, {}, {}], got {}", w.shape[2], ids.shape[1], w.shape[2],
            x.shape.to_string());
    return {{DType::kF32, {x.shape[0], ids.shape[1], w.shape[1]}, x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const Weight& w = *io.node.weights[0];
    const int64_t slots = io.inputs[1].width(), in = w.shape[2], out = w.shape[1];
    const bool per_slot = io.inputs[0].shape.rank() == 3;
    std::vector<float> row(static_cast<size_t>(in));
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t k = 0; k < slots; ++k) {
        const MatrixView& matrix = w.views[static_cast<size_t>(io.inputs[1].int_row(n)[k])];
        const float* x = io.inputs[0].row(n) + (per_slot ? k * in : 0);
        for (int64_t r = 0; r < out; ++r) {
          dequantize_row(matrix, r, row.data());
          double sum = 0;
          for (int64_t i = 0; i < in; ++i)
            sum += static_cast<double>(row[static_cast<size_t>(i)]) * x[i];
          io.outputs[0].row(n)[k * out + r] = static_cast<float>(sum);
        }
      }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const Weight& w = *node.weights[0];
    const int64_t pairs = stats.batch.num_tokens() * graph.value(node.inputs[1]).type.width();
    const int64_t distinct =
        stats.distinct_experts >= 0 ? stats.distinct_experts : std::min(pairs, w.experts());
    const int64_t expert_bytes = w.bytes() / w.experts();  // all experts are of one size
    cost.weight_bytes = static_cast<double>(expert_bytes * distinct);
    cost.flops = 2.0 * static_cast<double>(pairs * w.shape[1] * w.shape[2]);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const Format& format :
         {Format::dense(DType::kBF16), Format::affine(4, 64), Format::affine(8, 32),
          Format::affine(3, 64), Format::mxfp4(), Format::mxfp8(), Format::nvfp4()})
      for (int tokens : {1, 3, 50})
        for (bool per_slot : {false, true})
          all.push_back({fmt::format("expert_linear {} n{}{}", format.name(), tokens,
                                     per_slot ? " per slot" : ""),
                         {tokens > 8 ? Phase::kPrefill : Phase::kDecode, tokens, 1, 1},
                         [=](CaseBuilder& b) {
                           Value x = per_slot ? b.input({3, 128}) : b.input({128});
                           Value ids = b.int_input(3, 8);
                           b.graph().mark_output(
                               expert_linear(x, ids, b.experts(8, 40, 128, format)), "y");
                         },
                         128});
    return all;
  }
};

class CombineExperts final : public Op {
 public:
  std::string_view name() const override { return "combine_experts"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const ValueType& weights = graph.value(node.inputs[1]).type;
    require(graph, node, x.shape.rank() == 3 && weights.width() == x.shape[1],
            "weights: expected [N, {}], got {}", x.shape[1], weights.shape.to_string());
    return {{DType::kF32, {x.shape[0], x.shape[2]}, x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t slots = io.inputs[1].width(), size = io.outputs[0].width();
    for (int64_t n = 0; n < io.outputs[0].rows; ++n)
      for (int64_t i = 0; i < size; ++i) {
        double sum = 0;
        for (int64_t k = 0; k < slots; ++k)
          sum += static_cast<double>(io.inputs[1].row(n)[k]) * io.inputs[0].row(n)[k * size + i];
        io.outputs[0].row(n)[i] = static_cast<float>(sum);
      }
  }
  std::vector<OpCase> cases() const override {
    return {{"combine_experts",
             {Phase::kPrefill, 7, 1, 1},
             [](CaseBuilder& b) {
               Value x = b.input({4, 72});
               b.graph().mark_output(combine_experts(x, b.input({4})), "y");
             },
             4}};
  }
};

class RoutedExperts final : public Op {
 public:
  std::string_view name() const override { return "routed_experts"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return {graph.value(node.inputs[0]).type};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const auto& params = node.as<RoutedExpertsParams>();
    const Weight* bias = node.weights.size() > 4 ? node.weights[4] : nullptr;
    const auto [ids, weights] = top_k_route(linear(in[0], node.weights[0]), params, bias);
    return {expert_mlp(in[0], ids, weights, node.weights[1], node.weights[2], node.weights[3],
                       static_cast<Unary>(params.act))};
  }
  std::vector<OpCase> cases() const override {
    return {{"routed_experts",
             {Phase::kDecode, 6, 6, 6},
             [](CaseBuilder& b) {
               RoutedExpertsParams params;
               params.top_k = 3;
               params.act = static_cast<uint8_t>(Unary::kSilu);
               const Format format = Format::dense(DType::kBF16);
               Value x = b.input({64});
               b.graph().mark_output(
                   routed_experts(x, b.matrix(8, 64, format), b.experts(8, 96, 64, format),
                                  b.experts(8, 96, 64, format), b.experts(8, 64, 96, format),
                                  params),
                   "y");
             },
             400}};
  }
};

}  // namespace

std::string RouteParams::text() const {
  return fmt::format("top_k={} {}", top_k, score == RouteScore::kSoftmax ? "softmax" : "sigmoid");
}

const Op& top_k_route_op() {
  static const TopKRoute op;
  return op;
}
const Op& expert_linear_op() {
  static const ExpertLinear op;
  return op;
}
const Op& combine_experts_op() {
  static const CombineExperts op;
  return op;
}
const Op& routed_experts_op() {
  static const RoutedExperts op;
  return op;
}

std::pair<Value, Value> top_k_route(Value logits, const RouteParams& params, const Weight* bias,
                                    const Weight* expert_scale) {
  const std::array<Value, 1> inputs{logits};
  std::vector<const Weight*> weights;
  for (const Weight* w : {bias, expert_scale})
    if (w != nullptr) weights.push_back(w);
  auto own = std::make_shared<RouteParams>(params);
  own->has_bias = bias != nullptr;
  own->has_expert_scale = expert_scale != nullptr;
  auto results = logits.graph().add(top_k_route_op(), std::move(own), inputs, weights);
  return {results[0], results[1]};
}

Value expert_linear(Value x, Value ids, const Weight* table) {
  return x.graph().add1(expert_linear_op(), nullptr, {x, ids}, {table});
}

Value combine_experts(Value x, Value weights) {
  return x.graph().add1(combine_experts_op(), nullptr, {x, weights});
}

Value expert_mlp(Value x, Value ids, Value weights, const Weight* gate, const Weight* up,
                 const Weight* down, Unary act) {
  Value hidden = act_mul(expert_linear(x, ids, gate), expert_linear(x, ids, up), act);
  return combine_experts(expert_linear(hidden, ids, down), weights);
}

Value routed_experts(Value x, const Weight* router, const Weight* gate, const Weight* up,
                     const Weight* down, const RoutedExpertsParams& params, const Weight* bias) {
  auto shared = std::make_shared<RoutedExpertsParams>(params);
  if (bias == nullptr)
    return x.graph().add1(routed_experts_op(), shared, {x}, {router, gate, up, down});
  return x.graph().add1(routed_experts_op(), shared, {x}, {router, gate, up, down, bias});
}

}  // namespace decant
