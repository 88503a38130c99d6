// Gemma 4, the text model. Every layer ends in a scalar of its own; layers of full attention have
// wider heads, rotate a quarter of their pairs and may take keys for values. The small models add
// an embedding per layer and token and let their last layers read the keys and values of earlier
// ones; the sparse one adds experts beside the dense MLP.
// Source  transformers, modeling_gemma4.py; gemma4.md section 3.
#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "base/json.h"
#include "layers/attention.h"
#include "layers/embedding.h"
#include "layers/features.h"
#include "layers/linear.h"
#include "layers/mlp.h"
#include "layers/per_layer_inputs.h"
#include "models/beside_towers.h"
#include "models/decoder_spec.h"
#include "models/gemma4_audio.h"
#include "models/gemma4_config.h"
#include "models/gemma4_vision.h"
#include "models/registry.h"
#include "ops/altup.h"
#include "ops/binary.h"
#include "ops/rows.h"

namespace decant {
namespace {

constexpr const char* kTowers[] = {"vision_tower", "audio_tower",     "embed_vision",
                                   "embed_audio",  "vision_embedder", "multi_modal_projector"};

// Some files hold bounds for the products of the text model too, as the towers' have them; the text
// model has none.
void ignore_bounds(const WeightScope& w, std::initializer_list<const char*> projections) {
  for (const char* projection : projections)
    for (const char* bound : {"input_min", "input_max", "output_min", "output_max"})
      (w / projection).ignore(bound);
}

/// Attention whose keys and values belong to this layer or to an earlier one. The scale is 1.
struct Gemma4Attention {
  struct Own {
    layers::Linear k_proj;
    std::optional<layers::Linear> v_proj;  // none: values are the keys' projection
    layers::RmsNorm k_norm;
  };
  layers::AttentionConfig config;
  std::shared_ptr<const RopeParams> rotation;
  bool both_ways;
  layers::Linear q_proj, o_proj;
  layers::RmsNorm q_norm;
  std::optional<Own> own;

  Gemma4Attention(const Gemma4Config::Kind& kind, bool owning, bool sees_both_ways,
                  const WeightScope& w)
      : config(kind.attention),
        rotation(kind.rotation),
        both_ways(sees_both_ways),
        q_proj(w / "q_proj", config.num_heads * config.head_dim, config.hidden_size),
        o_proj(w / "o_proj", config.hidden_size, config.num_heads * config.head_dim),
        q_norm(w / "q_norm", config.head_dim, config.eps) {
    ignore_bounds(w, {"q_proj", "k_proj", "v_proj", "o_proj"});
    if (!owning) {  // files of the released models may hold what these layers never use
      for (const char* dead : {"k_proj", "v_proj", "k_norm"}) w.ignore(dead);
      return;
    }
    const int64_t width = config.num_kv_heads * config.head_dim;
    own = {layers::Linear(w / "k_proj", width, config.hidden_size), std::nullopt,
           layers::RmsNorm(w / "k_norm", config.head_dim, config.eps)};
    if (!kind.values_are_keys) own->v_proj.emplace(w / "v_proj", width, config.hidden_size);
  }
  /// n [N, D] are stored in `cache`, which becomes its new version, where this layer owns it;
  /// `asking` [M, D] are the rows that attend.
  Value operator()(Value n, Value asking, Value& cache) const {
    const Graph::ScopeGuard guard(n.graph(), "self_attn");
    if (own) {
      const Shape heads{config.num_kv_heads, config.head_dim};
      Value k = own->k_proj(n).reshape(heads);
      Value v = own->v_proj ? (*own->v_proj)(n).reshape(heads) : k;
      cache = kv_append(rope(own->k_norm(k), rotation), rms_norm(v, nullptr, config.eps), cache);
    }
    Value q = q_norm(q_proj(asking).reshape({config.num_heads, config.head_dim}));
    const bool spans = both_ways && q.graph().capacity().features;
    return o_proj(attention(rope(q, rotation), cache, 1.0f, 0, spans));
  }
};

/// The experts beside the dense MLP; they and their router read the residual itself.
struct Gemma4Experts {
  layers::Linear router;
  const Weight *router_scale, *per_expert_scale;
  const Weight *gate, *up, *down;
  layers::RmsNorm dense_norm, input_norm, output_norm;
  RouteParams routing;

  Gemma4Experts(const Gemma4Config& c, const WeightScope& w)
      : router(w / "router" / "proj", c.num_experts, c.decoder.hidden_size),
        router_scale((w / "router").vector("scale", Shape{c.decoder.hidden_size})),
        per_expert_scale((w / "router").vector("per_expert_scale", Shape{c.num_experts})),
        gate(w.experts("gate_proj", c.num_experts, c.expert_inner, c.decoder.hidden_size)),
        up(w.experts("up_proj", c.num_experts, c.expert_inner, c.decoder.hidden_size)),
        down(w.experts("down_proj", c.num_experts, c.decoder.hidden_size, c.expert_inner)),
        dense_norm(w / "post_feedforward_layernorm_1", c.decoder.hidden_size, c.decoder.eps),
        input_norm(w / "pre_feedforward_layernorm_2", c.decoder.hidden_size, c.decoder.eps),
        output_norm(w / "post_feedforward_layernorm_2", c.decoder.hidden_size, c.decoder.eps),
        routing(c.routing) {}
  /// h [N, D], the residual; dense [N, D], what the MLP makes of it -> [N, D].
  Value operator()(Value h, Value dense) const {
    const Graph::ScopeGuard guard(h.graph(), "experts");
    const auto width = static_cast<float>(h.type().width());
    Value logits = router(rms_norm(h, router_scale, input_norm.eps));
    const auto [ids, weights] =
        top_k_route(scale(logits, 1 / std::sqrt(width)), routing, nullptr, per_expert_scale);
    Value chosen = expert_mlp(input_norm(h), ids, weights, gate, up, down, Unary::kGeluTanh);
    return add(dense_norm(dense), output_norm(chosen));
  }
};

/// How a layer's own inputs enter its residual.
struct Gemma4PerLayer {
  layers::Linear gate, projection;
  layers::RmsNorm norm;
  Gemma4PerLayer(const Gemma4Config& c, const WeightScope& w)
      : gate(w / "per_layer_input_gate", c.ple_width, c.decoder.hidden_size),
        projection(w / "per_layer_projection", c.decoder.hidden_size, c.ple_width),
        norm(w / "post_per_layer_input_norm", c.decoder.hidden_size, c.decoder.eps) {}
  Value operator()(Value h, Value ple) const {
    return per_layer_input(h, ple, gate.weight, projection.weight, norm.weight, norm.eps);
  }
};

struct Gemma4Layer {
  layers::RmsNorm input_layernorm, post_attention_layernorm;
  layers::RmsNorm pre_feedforward_layernorm, post_feedforward_layernorm;
  Gemma4Attention self_attn;
  layers::Mlp mlp;
  std::optional<Gemma4Experts> experts;
  std::optional<Gemma4PerLayer> per_layer;
  const Weight* layer_scalar;

  Gemma4Layer(const Gemma4Config& c, int i, const WeightScope& w)
      : input_layernorm(norm(c, w / "input_layernorm")),
        post_attention_layernorm(norm(c, w / "post_attention_layernorm")),
        pre_feedforward_layernorm(norm(c, w / "pre_feedforward_layernorm")),
        post_feedforward_layernorm(norm(c, w / "post_feedforward_layernorm")),
        self_attn(c.kind(i), i < c.num_owning, c.both_ways && c.windows[static_cast<size_t>(i)] > 0,
                  w / "self_attn"),
        mlp(w / "mlp", c.decoder.hidden_size, c.inner[static_cast<size_t>(i)], Unary::kGeluTanh),
        layer_scalar(w.vector("layer_scalar", Shape{1})) {
    ignore_bounds(w / "mlp", {"gate_proj", "up_proj", "down_proj"});
    if (c.num_experts > 0) experts.emplace(c, w);
    if (c.ple_width > 0) per_layer.emplace(c, w);
  }
  static layers::RmsNorm norm(const Gemma4Config& c, const WeightScope& w) {
    return {w, c.decoder.hidden_size, c.decoder.eps};
  }

  /// h [N, D], ple [N, P] (or nothing) -> [N, D]; with `narrow`, of the output rows only.
  Value operator()(Value h, Value ple, Value& cache, bool narrow) const {
    Value n = input_layernorm(h);
    Value asking = n;
    if (narrow) {
      asking = narrow_rows(n);
      h = narrow_rows(h);
      if (per_layer) ple = narrow_rows(ple);
    }
    h = add(h, post_attention_layernorm(self_attn(n, asking, cache)));
    Value fed = mlp(pre_feedforward_layernorm(h));
    if (experts) fed = (*experts)(h, fed);
    h = add(h, post_feedforward_layernorm(fed));
    if (per_layer) h = add(h, (*per_layer)(h, ple));
    return mul(h, layer_scalar);
  }
};

class Gemma4 final : public Model {
 public:
  Gemma4(const ConfigReader& top, const ConfigReader& text, const WeightScope& w)
      : config_(Gemma4Config::read(
            text, top.require<std::string>("model_type").starts_with("gemma4_unified"))),
        spec_(decoder_spec(top, config_.decoder)),
        embed_tokens_(w / "model" / "embed_tokens", config_.decoder.vocab_size,
                      config_.decoder.hidden_size),
        head_(
            w,
            layers::RmsNorm(w / "model" / "norm", config_.decoder.hidden_size, config_.decoder.eps),
            embed_tokens_, true, config_.logit_softcap) {
    if (spec_.eos_token_ids.empty()) spec_.eos_token_ids = layers::read_eos(text);
    if (config_.ple_width > 0)
      per_layer_inputs_.emplace(w / "model", config_.ple_vocab_size, config_.decoder.num_layers,
                                config_.ple_width, config_.decoder.hidden_size,
                                config_.decoder.eps);
    for (int i = 0; i < config_.decoder.num_layers; ++i) {
      layers_.emplace_back(config_, i, w / "model" / "layers" / i);
      if (i >= config_.num_owning) continue;
      KvSpec kv = config_.kind(i).attention.kv_spec();
      kv.window = config_.windows[static_cast<size_t>(i)];
      kv.group = layers::window_group(spec_.windows, kv.window);
      spec_.kv.push_back(kv);
    }
    add_towers(top, w);
    ignore_parts(w, kTowers);
  }

  const Tower* tower(Medium medium) const override {
    return medium == Medium::kAudio ? audio_.get() : vision_.get();
  }

  const ModelSpec& spec() const override { return spec_; }

  Value forward(Graph& graph) const override {
    const int count = static_cast<int>(config_.decoder.num_layers), owning = config_.num_owning;
    const int64_t width = config_.ple_width;
    Value h =
        scale(embed_tokens_(graph), std::sqrt(static_cast<float>(config_.decoder.hidden_size)));
    h = layers::with_features(h);
    Value ple = per_layer_inputs_ ? (*per_layer_inputs_)(h) : Value();
    int first_ple = 0;
    std::vector<Value> caches;
    for (int i = 0; i < count; ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("layers.{}", i));
      if (i < owning) caches.push_back(graph.kv_cache(i, spec_.kv[static_cast<size_t>(i)]));
      if (i == owning) {
        // From here on nothing is cached: only the rows whose logits are asked for matter.
        h = narrow_rows(h);
        if (per_layer_inputs_) ple = narrow_rows(ple.columns(i * width, {(count - i) * width}));
        first_ple = i;
      }
      Value own = per_layer_inputs_ ? ple.columns((i - first_ple) * width, {width}) : Value();
      const auto source = static_cast<size_t>(config_.kv_source[static_cast<size_t>(i)]);
      const bool last_owns = i + 1 == count && i < owning;
      h = layers_[static_cast<size_t>(i)](h, own, caches[source], last_owns);
    }
    return head_(h);
  }

 private:
  void add_towers(const ConfigReader& top, const WeightScope& w) {
    const int64_t hidden = config_.decoder.hidden_size;
    const bool unified = spec_.model_type.starts_with("gemma4_unified");
    vision_ = unified ? gemma4_unified_vision(top, hidden, w) : gemma4_vision(top, hidden, w);
    audio_ = unified ? gemma4_unified_audio(top, hidden, w) : gemma4_audio(top, hidden, w);
    MediaSpec& media = spec_.media;
    if (vision_) {
      media.image_token = read_token(top, "image_token_id");
      media.video_token = read_token(top, "video_token_id");
      media.image_begin = read_token(top, "boi_token_id");
      media.image_end = read_token(top, "eoi_token_id");
      media.both_ways = config_.both_ways;
      media.longest_span = top.in_range_or("vision_soft_tokens_per_image", 280, 1, 1 << 16);
    }
    if (audio_) {
      media.audio_token = read_token(top, "audio_token_id");
      media.audio_begin = read_token(top, "boa_token_id");
      media.audio_end = read_token(top, top.first_of({"eoa_token_id", "eoa_token_index"}));
    }
    media.lookup_token = config_.pad_token;
  }
  int32_t read_token(const ConfigReader& top, std::string_view key) const {
    return static_cast<int32_t>(top.in_range_or(key, -1, -1, config_.decoder.vocab_size - 1));
  }

  Gemma4Config config_;
  ModelSpec spec_;
  layers::Embedding embed_tokens_;
  std::optional<layers::PerLayerInputs> per_layer_inputs_;
  layers::Head head_;
  std::vector<Gemma4Layer> layers_;
  std::unique_ptr<Tower> vision_, audio_;
};

}  // namespace

Family gemma4_family() {
  return {.model_types = {"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"},
          .renames = renames_beside(kTowers),
          .build = [](const Json& json, const std::string& where,
                      const WeightScope& weights) -> std::unique_ptr<Model> {
            const ConfigReader top(json, where);
            const bool alone = top.require<std::string>("model_type").ends_with("_text");
            const ConfigReader text = alone ? top : top.object("text_config");
            for (const ConfigReader& each : {top, text}) each.expect("tie_word_embeddings", true);
            // Converted files repeat the size at the top.
            const auto vocab = top.optional<int64_t>("vocab_size");
            if (vocab && text.has("vocab_size") && *vocab != text.require<int64_t>("vocab_size"))
              top.fail("vocab_size", fmt::format("text_config.vocab_size {}",
                                                 text.require<int64_t>("vocab_size")));
            return std::make_unique<Gemma4>(top, text, weights);
          },
          .eos_of_both = true};
}

}  // namespace decant
