#include "tiny_model.h"

#include <cmath>

#include "ops/attention.h"
#include "ops/binary.h"
#include "ops/embed.h"
#include "ops/experts.h"
#include "ops/leaky_sum.h"
#include "ops/linear.h"
#include "ops/mlp.h"
#include "ops/norm.h"
#include "ops/rows.h"
#include "ops/sample.h"

namespace decant::proof {

TinyModel::TinyModel(const TinyConfig& config, uint64_t seed)
    : config_(config), weights_({Phase::kDecode, 1, 1, 1}, seed) {
  const TinyConfig& c = config_;
  const auto matrix = [&](int64_t out, int64_t in) { return weights_.matrix(out, in, c.format); };
  const auto norm = [&](int64_t size) { return weights_.vector({size}, 1.0f, 0.2f); };
  const auto experts = [&](int64_t out, int64_t in) {
    return weights_.experts(c.experts, out, in, c.format);
  };
  embedding_ = weights_.matrix(c.vocab, c.hidden, c.format);
  for (int l = 0; l < c.layers; ++l) {
    Layer layer{};
    layer.input_norm = norm(c.hidden);
    layer.q = matrix(int64_t{c.heads} * c.head_dim, c.hidden);
    layer.k = matrix(int64_t{c.kv_heads} * c.head_dim, c.hidden);
    layer.v = matrix(int64_t{c.kv_heads} * c.head_dim, c.hidden);
    layer.o = matrix(c.hidden, int64_t{c.heads} * c.head_dim);
    layer.q_norm = norm(c.head_dim);
    layer.k_norm = norm(c.head_dim);
    layer.post_norm = norm(c.hidden);
    if (c.routed) {
      layer.router = weights_.matrix(c.experts, c.hidden, Format::dense(DType::kF32));
      layer.gate = experts(c.inner, c.hidden);
      layer.up = experts(c.inner, c.hidden);
      layer.down = experts(c.hidden, c.inner);
    } else {
      layer.gate = matrix(c.inner, c.hidden);
      layer.up = matrix(c.inner, c.hidden);
      layer.down = matrix(c.hidden, c.inner);
    }
    if (c.recurrent) {
      layer.mix_in = matrix(c.hidden, c.hidden);
      layer.mix_gate = weights_.vector({c.hidden}, 0.5f, 0.2f);
      layer.mix_out = matrix(c.hidden, c.hidden);
    }
    layers_.push_back(layer);
  }
  final_norm_ = norm(c.hidden);
  head_ = matrix(c.vocab, c.hidden);
  auto rope = std::make_shared<RopeParams>();
  for (int i = 0; i < c.head_dim / 2; ++i)
    rope->inv_freq.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.head_dim)));
  rope_ = rope;
}

Graph TinyModel::record(const Capacity& capacity) const {
  const TinyConfig& c = config_;
  Graph graph(capacity);
  std::vector<Value> routes;
  Value x = embed(graph, embedding_);
  for (int l = 0; l < c.layers; ++l) {
    const Graph::ScopeGuard scope(graph, fmt::format("layers.{}", l));
    const Layer& w = layers_[static_cast<size_t>(l)];
    const bool slides = c.sliding && l == c.layers - 1;
    const KvSpec spec{c.kv_heads, c.head_dim, slides ? window(1) : 0, slides ? 1 : 0};
    Value n = rms_norm(x, w.input_norm, 1e-6f);
    Value q = linear(n, w.q).reshape({c.heads, c.head_dim});
    Value k = linear(n, w.k).reshape({c.kv_heads, c.head_dim});
    Value v = linear(n, w.v).reshape({c.kv_heads, c.head_dim});
    q = rope(rms_norm(q, w.q_norm, 1e-6f), rope_);
    k = rope(rms_norm(k, w.k_norm, 1e-6f), rope_);
    Value cache = kv_append(k, v, graph.kv_cache(l, spec));
    Value attended = attention(q, cache, 1 / std::sqrt(static_cast<float>(c.head_dim)));
    x = add(x, linear(attended.reshape({c.heads * c.head_dim}), w.o));
    if (c.recurrent) {
      const StateSpec state{c.hidden, c.hidden, c.draft_tokens};
      const auto [mixed, next] = leaky_sum(linear(n, w.mix_in), w.mix_gate, graph.state(l, state));
      x = add(x, linear(mixed, w.mix_out));
    }
    n = rms_norm(x, w.post_norm, 1e-6f);
    if (c.routed) {
      RoutedExpertsParams params;
      params.top_k = c.top_k;
      params.act = static_cast<uint8_t>(Unary::kSilu);
      routes.push_back(top_k_route(linear(n, w.router), params).first);
      x = add(x, routed_experts(n, w.router, w.gate, w.up, w.down, params));
    } else {
      x = add(x, gated_mlp(n, w.gate, w.up, w.down, Unary::kSilu));
    }
  }
  Value logits = lm_head(narrow_rows(x), final_norm_, 1e-6f, head_, 0);
  graph.mark_output(logits, "logits");
  graph.mark_output(sample(logits), "ids");
  for (size_t l = 0; l < routes.size(); ++l)
    graph.mark_output(routes[l], fmt::format("routes.{}", l));
  return graph;
}

PoolSpec TinyModel::pools(int64_t pages, int64_t slots) const {
  const TinyConfig& c = config_;
  PoolSpec spec;
  for (int l = 0; l < c.layers; ++l) {
    const bool slides = c.sliding && l == c.layers - 1;
    spec.kv.push_back({c.kv_heads, c.head_dim, slides ? window(1) : 0, slides ? 1 : 0});
    if (c.recurrent) spec.states.push_back({c.hidden, c.hidden, c.draft_tokens});
  }
  spec.kv_dtype = c.kv_dtype;
  spec.pages_per_group.assign(static_cast<size_t>(groups()), pages);
  spec.slots = slots;
  return spec;
}

double TinyModel::bound(int64_t context) const {
  const TinyConfig& c = config_;
  if (c.kv_dtype == DType::kBF16) return 0x1p-8;
  const int64_t layer = c.hidden + c.head_dim + context + int64_t{c.heads} * c.head_dim + c.hidden +
                        c.inner + (c.routed ? c.experts + c.top_k : 0) +
                        (c.recurrent ? 2 * c.hidden + context : 0);
  return kParitySlack * 0x1p-24 * static_cast<double>(c.layers * layer + 2 * c.hidden);
}

}  // namespace decant::proof
