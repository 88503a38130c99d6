#include "ops/relative_attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/case.h"
#include "ops/unary.h"

namespace decant {
namespace {

class RelativeAttention final : public Op {
 public:
  std::string_view name() const override { return "relative_attention"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& q = graph.value(node.inputs[0]).type;
    const ValueType& r = graph.value(node.inputs[3]).type;
    const auto& params = node.as<RelativeAttentionParams>();
    require(graph, node, q.shape.rank() == 3 && q.rows == Rows::kFixed,
            "q: expected fixed rows of heads, got {}", q.shape.to_string());
    for (const size_t i : {size_t{1}, size_t{2}}) {
      const ValueType& other = graph.value(node.inputs[i]).type;
      require(graph, node, other.shape == q.shape && other.rows == q.rows,
              "input {}: expected {}, got {}", i, q.shape.to_string(), other.shape.to_string());
    }
    require(graph, node, params.span >= 1, "span: expected 1 or more, got {}", params.span);
    require(graph, node,
            r.shape.rank() == 3 && r.rows == Rows::kFixed && r.shape[0] >= params.span &&
                r.shape[1] == q.shape[1] && r.shape[2] == q.shape[2],
            "r: expected [{} or more, {}, {}], got {}", params.span, q.shape[1], q.shape[2],
            r.shape.to_string());
    require(graph, node, node.weights[0]->shape.count() == q.shape[2],
            "weight {}: expected {}, got {}", node.weights[0]->name, q.shape[2],
            node.weights[0]->shape.to_string());
    return {q};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<RelativeAttentionParams>();
    const int64_t frames = io.inputs[0].rows, heads = io.inputs[0].shape[1],
                  dim = io.inputs[0].shape[2];
    const std::byte* scale = io.node.weights[0]->view().data;
    std::vector<double> q(static_cast<size_t>(dim)), weights;
    for (int64_t t = 0; t < frames; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        const auto head = [&](size_t input, int64_t row) {
          return io.inputs[input].row(row) + h * dim;
        };
        for (int64_t d = 0; d < dim; ++d)
          q[static_cast<size_t>(d)] =
              static_cast<double>(params.q_scale) *
              apply(Unary::kSoftplus, load_float(scale, DType::kF32, d), 0) * head(0, t)[d];
        const int64_t first = std::max<int64_t>(0, t - params.span + 1);
        weights.clear();
        for (int64_t s = first; s <= t; ++s) {
          double content = 0, position = 0;
          for (int64_t d = 0; d < dim; ++d) {
            content += q[static_cast<size_t>(d)] * head(1, s)[d];
            position += q[static_cast<size_t>(d)] * head(3, t - s)[d];
          }
          const double logit = params.k_scale * content + position;
          weights.push_back(params.softcap > 0 ? apply(Unary::kSoftcap, logit, params.softcap)
                                               : logit);
        }
        const double top = *std::max_element(weights.begin(), weights.end());
        double total = 0;
        for (double& weight : weights) total += weight = std::exp(weight - top);
        for (int64_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int64_t s = first; s <= t; ++s)
            sum += weights[static_cast<size_t>(s - first)] * head(2, s)[d];
          io.outputs[0].row(t)[h * dim + d] = static_cast<float>(sum / total);
        }
      }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const int64_t pairs =
        graph.value(node.outputs[0]).type.shape.count() * node.as<RelativeAttentionParams>().span;
    cost.flops = 6.0 * static_cast<double>(pairs);  // keys, distances, values
    return cost;
  }
  std::vector<OpCase> cases() const override {
    struct Sizes {
      const char* name;
      int64_t frames, heads, dim;
      int span;
      float softcap;
    };
    std::vector<OpCase> all;
    for (const Sizes& sizes : {Sizes{"relative_attention", 53, 3, 48, 13, 50},
                               Sizes{"relative_attention of few frames", 5, 2, 33, 12, 50},
                               Sizes{"relative_attention of one frame", 1, 2, 16, 13, 50},
                               Sizes{"relative_attention to itself", 20, 1, 24, 1, 0},
                               Sizes{"relative_attention that is capped", 40, 2, 64, 29, 0.5f}})
      all.push_back({sizes.name,
                     {Phase::kPrefill, 1, 1, 1},
                     [sizes](CaseBuilder& b) {
                       // Views: the three may come of one wider product.
                       const Shape heads{sizes.heads, sizes.dim};
                       const int64_t width = heads.count();
                       Value qk = b.fixed_input({sizes.frames, 2 * width});
                       Value v = b.fixed_input({sizes.frames, sizes.heads, sizes.dim});
                       Value r = b.fixed_input({sizes.span + 1, sizes.heads, sizes.dim});
                       RelativeAttentionParams params;
                       params.span = sizes.span;
                       params.q_scale = 1.4427f / std::sqrt(static_cast<float>(sizes.dim));
                       params.k_scale = 1.9f;
                       params.softcap = sizes.softcap;
                       b.graph().mark_output(
                           relative_attention(qk.columns(0, heads), qk.columns(width, heads), v, r,
                                              b.vector({sizes.dim}, 0, 0.5f), params),
                           "y");
                     },
                     2 * sizes.dim + sizes.span});
    return all;
  }
};

}  // namespace

std::string RelativeAttentionParams::text() const {
  return fmt::format("span={} softcap={}", span, softcap);
}

const Op& relative_attention_op() {
  static const RelativeAttention op;
  return op;
}

Value relative_attention(Value q, Value k, Value v, Value r, const Weight* per_dim_scale,
                         const RelativeAttentionParams& params) {
  return q.graph().add1(relative_attention_op(), std::make_shared<RelativeAttentionParams>(params),
                        {q, k, v, r}, {per_dim_scale});
}

}  // namespace decant
