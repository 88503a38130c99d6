#include "models/pre_norm_decoder.h"

#include <string>
#include <utility>

#include "models/decoder_spec.h"
#include "ops/binary.h"
#include "ops/rows.h"

namespace decant {

PreNormDecoder::PreNormDecoder(const ConfigReader& top, PreNormConfig config, const WeightScope& w,
                               const MakeFeed& make_feed)
    : config_(std::move(config)),
      spec_(decoder_spec(top, config_.decoder)),
      embed_tokens_(w / "model" / "embed_tokens", config_.decoder.vocab_size,
                    config_.decoder.hidden_size),
      head_(w,
            layers::RmsNorm(w / "model" / "norm", config_.decoder.hidden_size, config_.decoder.eps),
            embed_tokens_, layers::read_tied(top, w)) {
  config_.windows.resize(static_cast<size_t>(config_.decoder.num_layers), 0);
  const WeightScope layers = w / "model" / "layers";
  for (int64_t i = 0; i < config_.decoder.num_layers; ++i) {
    layers_.push_back(make_layer(config_, layers / static_cast<int>(i), i, make_feed));
    KvSpec kv = config_.attention.kv_spec();
    kv.window = config_.windows[static_cast<size_t>(i)];
    kv.group = layers::window_group(spec_.windows, kv.window);
    spec_.kv.push_back(kv);
  }
  if (!config_.has_draft) return;
  spec_.draft.emplace();
  KvSpec kv = config_.attention.kv_spec();
  kv.group = layers::window_group(spec_.windows, 0);
  spec_.draft->kv = {kv};
  if (!w.with_draft()) return;
  spec_.draft->loaded = true;
  const int64_t i = config_.decoder.num_layers;
  const WeightScope at = layers / static_cast<int>(i);
  draft_.emplace(Draft{layers::GlmDraft(config_.decoder, at, embed_tokens_, head_),
                       make_layer(config_, at, i, make_feed)});
}

PreNormDecoder::Layer PreNormDecoder::make_layer(const PreNormConfig& c, const WeightScope& scope,
                                                 int64_t i, const MakeFeed& make_feed) {
  const auto norm = [&](const char* name) {
    return layers::RmsNorm(scope / name, c.decoder.hidden_size, c.decoder.eps);
  };
  return {norm("input_layernorm"), layers::Attention(c.attention, scope / "self_attn"),
          norm("post_attention_layernorm"), make_feed(i, scope / "mlp")};
}

Value PreNormDecoder::forward(Graph& graph) const { return head_(decode(graph, true)); }

LogitsAndHidden PreNormDecoder::forward_and_hidden(Graph& graph) const {
  if (!draft_) return Model::forward_and_hidden(graph);
  const auto [logits, hidden] = head_.with_hidden(decode(graph, false));
  return {logits, hidden};
}

LogitsAndHidden PreNormDecoder::draft(Graph& graph, Value hidden) const {
  if (!draft_) return Model::draft(graph, hidden);
  const Graph::ScopeGuard guard(graph, "draft");
  const layers::GlmDraft& around = draft_->around;
  Value x = around.input(around.embed_tokens(graph), hidden);
  Value cache = graph.kv_cache(static_cast<int>(spec_.kv.size()), spec_.draft->kv[0]);
  x = layer(draft_->layer, x, cache, false);
  return {around.head(x), x};
}

// `narrow`: the last layer leaves the rows whose logits are asked for.
Value PreNormDecoder::decode(Graph& graph, bool narrow) const {
  Value x = embed_tokens_(graph);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Graph::ScopeGuard guard(graph, "layers." + std::to_string(i));
    Value cache = graph.kv_cache(static_cast<int>(i), spec_.kv[i]);
    x = layer(layers_[i], x, cache, narrow && i + 1 == layers_.size());
  }
  return x;
}

Value PreNormDecoder::layer(const Layer& w, Value x, Value cache, bool narrow) const {
  Value n = w.input_layernorm(x);
  Value asking = n;
  if (narrow) {
    x = narrow_rows(x);
    asking = narrow_rows(n);
  }
  x = add(x, w.self_attn(n, asking, cache, config_.rotation));
  n = w.post_attention_layernorm(x);
  return add(x, std::visit([&](const auto& mlp) { return mlp(n); }, w.mlp));
}

}  // namespace decant
