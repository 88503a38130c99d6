#include "ops/token_attention.h"

#include <algorithm>
#include <cmath>

#include "ops/case.h"

namespace decant {
namespace {

class TokenAttention final : public Op {
 public:
  std::string_view name() const override { return "token_attention"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& q = graph.value(node.inputs[0]).type;
    const ValueType& k = graph.value(node.inputs[1]).type;
    const ValueType& v = graph.value(node.inputs[2]).type;
    for (const ValueType* x : {&q, &k, &v})
      require(graph, node,
              x->dtype == DType::kF32 && x->rows == Rows::kFixed && x->shape.rank() == 3,
              "inputs: expected heads of fixed rows, got {}", x->shape.to_string());
    require(graph, node, k.shape == v.shape, "v: expected {} as k, got {}", k.shape.to_string(),
            v.shape.to_string());
    require(graph, node, k.shape[2] == q.shape[2] && q.shape[1] % k.shape[1] == 0 && k.shape[0] > 0,
            "k: expected rows of heads that divide {} of {}, got {}", q.shape[1], q.shape[2],
            k.shape.to_string());
    return {q};
  }
  void reference(const ReferenceIo& io) const override {
    const HostTensor &q = io.inputs[0], &k = io.inputs[1], &v = io.inputs[2];
    const auto scale = static_cast<double>(io.node.as<TokenAttentionParams>().scale);
    const int64_t heads = q.shape[1], dim = q.shape[2], group = heads / k.shape[1];
    std::vector<double> scores(static_cast<size_t>(k.rows)), sums(static_cast<size_t>(dim));
    for (int64_t n = 0; n < q.rows; ++n)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = h / group * dim;
        double top = -INFINITY, total = 0;
        for (int64_t s = 0; s < k.rows; ++s) {
          double dot = 0;
          for (int64_t d = 0; d < dim; ++d)
            dot += static_cast<double>(q.row(n)[h * dim + d]) * k.row(s)[at + d];
          scores[static_cast<size_t>(s)] = dot * scale;
          top = std::max(top, dot * scale);
        }
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t s = 0; s < k.rows; ++s) {
          const double weight = std::exp(scores[static_cast<size_t>(s)] - top);
          total += weight;
          for (int64_t d = 0; d < dim; ++d)
            sums[static_cast<size_t>(d)] += weight * static_cast<double>(v.row(s)[at + d]);
        }
        for (int64_t d = 0; d < dim; ++d)
          io.outputs[0].row(n)[h * dim + d] =
              static_cast<float>(sums[static_cast<size_t>(d)] / total);
      }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const Shape& q = graph.value(node.inputs[0]).type.shape;
    cost.flops = 4.0 * static_cast<double>(q.count() * graph.value(node.inputs[1]).type.shape[0]);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    struct Sizes {
      int64_t queries, keys, heads, kv_heads, dim;
    };
    for (const Sizes& s : {Sizes{1, 1, 1, 1, 8}, Sizes{70, 19, 3, 1, 64}, Sizes{9, 64, 12, 1, 96},
                           Sizes{21, 130, 4, 2, 37}, Sizes{5, 1100, 2, 1, 64}})
      all.push_back({fmt::format("token_attention m{} s{} h{}/{} d{}", s.queries, s.keys, s.heads,
                                 s.kv_heads, s.dim),
                     {Phase::kPrefill, 1, 1, 1},
                     [s](CaseBuilder& b) {
                       Value q = b.fixed_input({s.queries, s.heads, s.dim});
                       Value k = b.fixed_input({s.keys, s.kv_heads, s.dim});
                       Value v = b.fixed_input({s.keys, s.kv_heads, s.dim});
                       b.graph().mark_output(
                           token_attention(q, k, v, 1 / std::sqrt(static_cast<float>(s.dim))), "y");
                     },
                     s.dim + s.keys});
    return all;
  }
};

}  // namespace

std::string TokenAttentionParams::text() const { return fmt::format("scale={}", scale); }

const Op& token_attention_op() {
  static const TokenAttention op;
  return op;
}

Value token_attention(Value q, Value k, Value v, float scale) {
  auto params = std::make_shared<TokenAttentionParams>();
  params->scale = scale;
  return q.graph().add1(token_attention_op(), std::move(params), {q, k, v});
}

}  // namespace decant
