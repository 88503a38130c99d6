#include "models/latent_decoder.h"

#include <algorithm>
#include <string>
#include <utility>

#include "models/decoder_spec.h"
#include "ops/binary.h"
#include "ops/rows.h"

namespace decant {

LatentDecoderConfig LatentDecoderConfig::read(const ConfigReader& c, int64_t max_positions) {
  LatentDecoderConfig out;
  out.decoder = layers::DecoderConfig::read(c, max_positions);
  out.attention = layers::LatentConfig::read(c, out.decoder.hidden_size, out.decoder.eps);
  out.act = layers::read_activation(c, "hidden_act", "silu");
  out.moe = layers::SharedMoeConfig::read(c, out.decoder.num_layers, out.act);
  const bool all =
      std::all_of(out.moe.is_moe.begin(), out.moe.is_moe.end(), [](bool is) { return is; });
  out.dense_inner = all ? 0 : layers::read_width(c, "intermediate_size");
  out.has_indexer.assign(static_cast<size_t>(out.decoder.num_layers), false);
  return out;
}

LatentDecoder::LatentDecoder(const ConfigReader& top, LatentDecoderConfig config,
                             const WeightScope& w)
    : config_(std::move(config)),
      spec_(decoder_spec(top, config_.decoder)),
      embed_tokens_(w / "model" / "embed_tokens", config_.decoder.vocab_size,
                    config_.decoder.hidden_size),
      head_(w,
            layers::RmsNorm(w / "model" / "norm", config_.decoder.hidden_size, config_.decoder.eps),
            embed_tokens_, layers::read_tied(top, w)) {
  const int64_t num_layers = config_.decoder.num_layers;
  const WeightScope scope = w / "model" / "layers";
  spec_.windows = {0};
  spec_.kv.assign(static_cast<size_t>(num_layers), config_.attention.kv_spec());
  for (int64_t i = 0; i < num_layers; ++i) {
    const bool chooses = config_.indexer && config_.has_indexer[static_cast<size_t>(i)];
    layers_.push_back(make_layer(scope / static_cast<int>(i),
                                 config_.moe.is_moe[static_cast<size_t>(i)], chooses));
    if (!chooses) continue;
    layers_.back().index_cache = static_cast<int>(spec_.kv.size());
    spec_.kv.push_back(config_.indexer->kv_spec());
  }
  if (!layers::read_draft_layers(top, scope, num_layers)) return;
  spec_.draft.emplace();
  spec_.draft->kv = {config_.attention.kv_spec()};
  if (config_.indexer) spec_.draft->kv.push_back(config_.indexer->kv_spec());
  if (!w.with_draft()) return;
  spec_.draft->loaded = true;
  const WeightScope at = scope / static_cast<int>(num_layers);
  draft_.emplace(Draft{layers::GlmDraft(config_.decoder, at, embed_tokens_, head_),
                       make_layer(at, true, config_.indexer.has_value())});
}

LatentDecoder::Layer LatentDecoder::make_layer(const WeightScope& at, bool is_moe,
                                               bool chooses) const {
  const int64_t hidden = config_.decoder.hidden_size;
  const auto norm = [&](const char* name) {
    return layers::RmsNorm(at / name, hidden, config_.decoder.eps);
  };
  const auto feed = [&]() -> Feed {
    if (is_moe) return layers::SharedMoe(config_.moe, at / "mlp", hidden);
    return layers::Mlp(at / "mlp", hidden, config_.dense_inner, config_.act);
  };
  // Conversions exist that repeat the indexer of the layer whose choice is shared.
  if (!chooses) (at / "self_attn").ignore("indexer");
  return {norm("input_layernorm"),
          layers::LatentAttention(config_.attention, chooses ? &*config_.indexer : nullptr,
                                  at / "self_attn"),
          norm("post_attention_layernorm"), feed()};
}

Value LatentDecoder::forward(Graph& graph) const { return head_(decode(graph, true)); }

LogitsAndHidden LatentDecoder::forward_and_hidden(Graph& graph) const {
  if (!draft_) return Model::forward_and_hidden(graph);
  const auto [logits, hidden] = head_.with_hidden(decode(graph, false));
  return {logits, hidden};
}

LogitsAndHidden LatentDecoder::draft(Graph& graph, Value hidden) const {
  if (!draft_) return Model::draft(graph, hidden);
  const Graph::ScopeGuard guard(graph, "draft");
  const layers::GlmDraft& around = draft_->around;
  Value x = around.input(around.embed_tokens(graph), hidden);
  const auto first = static_cast<int>(spec_.kv.size());
  const std::vector<KvSpec>& kv = spec_.draft->kv;
  Value cache = graph.kv_cache(first, kv[0]), index_cache, chosen;
  if (kv.size() > 1) index_cache = graph.kv_cache(first + 1, kv[1]);
  x = layer(draft_->layer, x, cache, index_cache, chosen, false);
  return {around.head(x), x};
}

// `narrow`: the last layer leaves the rows whose logits are asked for.
Value LatentDecoder::decode(Graph& graph, bool narrow) const {
  Value x = embed_tokens_(graph), chosen;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Graph::ScopeGuard guard(graph, "layers." + std::to_string(i));
    const Layer& w = layers_[i];
    Value cache = graph.kv_cache(static_cast<int>(i), spec_.kv[i]), index_cache;
    if (w.index_cache >= 0)
      index_cache = graph.kv_cache(w.index_cache, spec_.kv[static_cast<size_t>(w.index_cache)]);
    x = layer(w, x, cache, index_cache, chosen, narrow && i + 1 == layers_.size());
  }
  return x;
}

Value LatentDecoder::layer(const Layer& w, Value x, Value cache, Value index_cache, Value& chosen,
                           bool narrow) const {
  Value n = w.input_layernorm(x);
  Value asking = n;
  if (narrow) {
    x = narrow_rows(x);
    asking = narrow_rows(n);
  }
  x = add(x, w.self_attn(n, asking, cache, index_cache, chosen));
  n = w.post_attention_layernorm(x);
  return add(x, std::visit([&](const auto& mlp) { return mlp(n); }, w.mlp));
}

}  // namespace decant
