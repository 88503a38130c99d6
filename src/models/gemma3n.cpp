// Gemma 3n, the text model. Next to Gemma 3: four residual streams mixed by a router (AltUp), a
// low-rank branch beside attention (LAuReL), an embedding per layer and token (PLE), sparse
// activations, and last layers that read the keys and values of earlier ones.
// Source  transformers, modeling_gemma3n.py; gemma3n.md.
#include "models/gemma3n.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
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
#include "models/gemma3n_audio.h"
#include "models/gemma3n_config.h"
#include "models/gemma3n_vision.h"
#include "models/registry.h"
#include "ops/binary.h"

namespace decant {
namespace {

constexpr const char* kTowers[] = {"vision_tower", "audio_tower", "embed_vision", "embed_audio"};
constexpr const char* kVision[] = {"vision_tower", "embed_vision"};
constexpr const char* kAudio[] = {"audio_tower", "embed_audio"};

/// Predicted and corrected streams, and what of them the layer itself changes.
struct AltUp {
  const Weight *router_norm, *modality_router, *prediction_coefs, *correction_coefs;
  const Weight* correct_output_scale;  // or null
  AltupParams params;

  AltUp(const Gemma3nConfig& c, AltupForm form, const WeightScope& w)
      : router_norm((w / "router_norm").vector("weight", Shape{c.decoder.hidden_size})),
        modality_router((w / "modality_router").matrix(c.num_streams, c.decoder.hidden_size)),
        prediction_coefs((w / "prediction_coefs")
                             .vector("weight", Shape{c.num_streams * c.num_streams, c.num_streams},
                                     c.coef_clip)),
        correction_coefs((w / "correction_coefs")
                             .vector("weight", Shape{c.num_streams, c.num_streams}, c.coef_clip)),
        correct_output_scale(c.scale_output
                                 ? w.vector("correct_output_scale", Shape{c.decoder.hidden_size})
                                 : nullptr) {
    if (!c.scale_output) w.ignore("correct_output_scale");
    params.active = static_cast<int>(c.active_stream);
    params.eps = c.decoder.eps;
    params.form = form;
  }
  Value active(Value streams) const {
    const int64_t width = streams.shape()[2];
    return streams.columns(params.active * width, {width});
  }
  Value predict(Value streams) const {
    const Graph::ScopeGuard guard(streams.graph(), "altup");
    return altup_predict(streams, {router_norm, modality_router, prediction_coefs}, params);
  }
  Value correct(Value predicted, Value activated) const {
    const Graph::ScopeGuard guard(predicted.graph(), "altup");
    return altup_correct(predicted, activated, {router_norm, modality_router, correction_coefs},
                         params);
  }
};

/// Attention whose keys and values belong to this layer or to an earlier one. The scale is 1.
struct Gemma3nAttention {
  struct Own {
    layers::Linear k_proj, v_proj;
    layers::RmsNorm k_norm;
  };
  layers::Linear q_proj, o_proj;
  layers::RmsNorm q_norm;
  std::optional<Own> own;
  layers::AttentionConfig config;
  std::shared_ptr<const RopeParams> rotation;

  Gemma3nAttention(const Gemma3nConfig& c, int i, const WeightScope& w)
      : q_proj(w / "q_proj", c.attention.num_heads * c.attention.head_dim, c.decoder.hidden_size),
        o_proj(w / "o_proj", c.decoder.hidden_size, c.attention.num_heads * c.attention.head_dim),
        q_norm(w / "q_norm", c.attention.head_dim, c.decoder.eps),
        config(c.attention),
        rotation(c.windows[static_cast<size_t>(i)] > 0 ? c.sliding_rotation : c.full_rotation) {
    const int64_t kv_width = config.num_kv_heads * config.head_dim;
    if (i < c.num_owning)
      own = {layers::Linear(w / "k_proj", kv_width, config.hidden_size),
             layers::Linear(w / "v_proj", kv_width, config.hidden_size),
             layers::RmsNorm(w / "k_norm", config.head_dim, config.eps)};
    else  // files of the released models still hold what these layers never use
      for (const char* dead : {"k_proj", "v_proj", "k_norm"}) w.ignore(dead);
  }
  /// `cache`: this layer's, which becomes its new version, or the one of its source.
  Value operator()(Value n, Value& cache) const {
    const Graph::ScopeGuard guard(n.graph(), "self_attn");
    if (own) {
      Value k = own->k_proj(n).reshape({config.num_kv_heads, config.head_dim});
      Value v = own->v_proj(n).reshape({config.num_kv_heads, config.head_dim});
      cache = kv_append(rope(own->k_norm(k), rotation), rms_norm(v, nullptr, config.eps), cache);
    }
    Value q = q_norm(q_proj(n).reshape({config.num_heads, config.head_dim}));
    return o_proj(attention(rope(q, rotation), cache, 1.0f));
  }
};

struct Gemma3nLayer {
  AltUp altup;
  layers::RmsNorm input_layernorm, post_attention_layernorm;
  layers::RmsNorm pre_feedforward_layernorm, post_feedforward_layernorm;
  Gemma3nAttention self_attn;
  layers::Linear laurel_left, laurel_right;
  layers::RmsNorm laurel_norm;
  layers::Mlp mlp;
  std::optional<float> cut;
  layers::Linear per_layer_input_gate, per_layer_projection;
  layers::RmsNorm post_per_layer_input_norm;

  Gemma3nLayer(const Gemma3nConfig& c, AltupForm form, int i, const WeightScope& w)
      : altup(c, form, w / "altup"),
        input_layernorm(w / "input_layernorm", c.decoder.hidden_size, c.decoder.eps),
        post_attention_layernorm(w / "post_attention_layernorm", c.decoder.hidden_size,
                                 c.decoder.eps),
        pre_feedforward_layernorm(w / "pre_feedforward_layernorm", c.decoder.hidden_size,
                                  c.decoder.eps),
        post_feedforward_layernorm(w / "post_feedforward_layernorm", c.decoder.hidden_size,
                                   c.decoder.eps),
        self_attn(c, i, w / "self_attn"),
        laurel_left(w / "laurel" / "linear_left", c.laurel_rank, c.decoder.hidden_size),
        laurel_right(w / "laurel" / "linear_right", c.decoder.hidden_size, c.laurel_rank),
        laurel_norm(w / "laurel" / "post_laurel_norm", c.decoder.hidden_size, c.decoder.eps),
        mlp(w / "mlp", c.decoder.hidden_size, c.inner[static_cast<size_t>(i)], Unary::kGeluTanh),
        cut(c.cut[static_cast<size_t>(i)]),
        per_layer_input_gate(w / "per_layer_input_gate", c.ple_width, c.decoder.hidden_size),
        per_layer_projection(w / "per_layer_projection", c.decoder.hidden_size, c.ple_width),
        post_per_layer_input_norm(w / "post_per_layer_input_norm", c.decoder.hidden_size,
                                  c.decoder.eps) {}

  /// streams [N, A, D], ple [N, P] -> streams.
  Value operator()(Value streams, Value ple, Value& cache) const {
    Value predicted = altup.predict(streams);
    Value active = altup.active(predicted);
    Value n = input_layernorm(active);
    Value low_rank =
        laurel(n, laurel_left.weight, laurel_right.weight, laurel_norm.weight, laurel_norm.eps);
    Value attended = add(active, post_attention_layernorm(self_attn(n, cache)));
    Value x = scale(add(attended, low_rank), 1 / std::numbers::sqrt2_v<float>);
    Value activated =
        add(x, post_feedforward_layernorm(feed_forward(pre_feedforward_layernorm(x))));
    Value corrected = altup.correct(predicted, activated);

    Value first = altup.active(corrected);
    if (altup.correct_output_scale != nullptr) first = mul(first, altup.correct_output_scale);
    return add_to_inactive(
        corrected,
        per_layer_input(first, ple, per_layer_input_gate.weight, per_layer_projection.weight,
                        post_per_layer_input_norm.weight, post_per_layer_input_norm.eps));
  }
  Value feed_forward(Value z) const {
    if (!cut) return mlp(z);
    const Graph::ScopeGuard guard(z.graph(), "mlp");
    return mlp.down_proj(gelu_topk(mlp.gate_proj(z), mlp.up_proj(z), *cut));
  }
};

class Gemma3n final : public Model {
 public:
  Gemma3n(const ConfigReader& top, const ConfigReader& text, AltupForm form, const WeightScope& w)
      : config_(Gemma3nConfig::read(text)),
        spec_(decoder_spec(top, config_.decoder)),
        embed_tokens_(w / "model" / "embed_tokens", config_.decoder.vocab_size,
                      config_.decoder.hidden_size),
        per_layer_inputs_(w / "model", config_.ple_vocab_size, config_.decoder.num_layers,
                          config_.ple_width, config_.decoder.hidden_size, config_.decoder.eps),
        head_(
            w,
            layers::RmsNorm(w / "model" / "norm", config_.decoder.hidden_size, config_.decoder.eps),
            embed_tokens_, true, config_.logit_softcap) {
    text.expect("tie_word_embeddings", true);
    if (spec_.eos_token_ids.empty()) spec_.eos_token_ids = layers::read_eos(text);
    const int64_t width = config_.decoder.hidden_size;
    for (int i = 0; i + 1 < config_.num_streams; ++i) {
      entries_.emplace_back(w / "model" / "altup_projections" / i, width, width);
      exits_.emplace_back(w / "model" / "altup_unembed_projections" / i, width, width);
    }
    for (int i = 0; i < config_.decoder.num_layers; ++i) {
      layers_.emplace_back(config_, form, i, w / "model" / "layers" / i);
      if (i >= config_.num_owning) continue;
      KvSpec kv = config_.attention.kv_spec();
      kv.window = config_.windows[static_cast<size_t>(i)];
      kv.group = layers::window_group(spec_.windows, kv.window);
      spec_.kv.push_back(kv);
    }
    vision_ = make_gemma3n_vision(top, width, w, spec_.media);
    audio_ = make_gemma3n_audio(top, width, config_.decoder.vocab_size, w, spec_.media);
    const auto token = [&](std::string_view key, int64_t released) {
      return static_cast<int32_t>(top.in_range_or(key, released, 0, INT32_MAX));
    };
    if (vision_) {
      spec_.media.image_begin = token("boi_token_id", 255999);
      spec_.media.image_end = token("eoi_token_id", 262144);
    }
    if (audio_) {
      spec_.media.audio_begin = token("boa_token_id", 256000);
      spec_.media.audio_end = token(top.first_of({"eoa_token_id", "eoa_token_index"}), 262272);
    }
    spec_.media.around = "\n\n";
    // What was read must be read whole: the rest of it is left over.
    if (!vision_) ignore_parts(w, kVision);
    if (!audio_) ignore_parts(w, kAudio);
  }

  const ModelSpec& spec() const override { return spec_; }
  const Tower* tower(Medium medium) const override {
    return medium == Medium::kImage   ? vision_.get()
           : medium == Medium::kAudio ? audio_.get()
                                      : nullptr;
  }

  Value forward(Graph& graph) const override {
    const int64_t width = config_.decoder.hidden_size;
    Value x = scale(embed_tokens_(graph), std::sqrt(static_cast<float>(width)));
    x = layers::with_features(x);
    Value ple = per_layer_inputs_(x);
    Value streams = enter(x);
    std::vector<Value> caches;
    int64_t first_ple = 0;
    for (int i = 0; i < config_.decoder.num_layers; ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("layers.{}", i));
      if (i < config_.num_owning)
        caches.push_back(graph.kv_cache(i, spec_.kv[static_cast<size_t>(i)]));
      if (i == config_.num_owning) {
        // From here on nothing is cached: only the rows whose logits are asked for matter.
        const int64_t rest = (config_.decoder.num_layers - i) * config_.ple_width;
        ple = narrow_rows(ple.columns(i * config_.ple_width, {rest}));
        streams = narrow_rows(streams);
        first_ple = i;
      }
      Value own = ple.columns((i - first_ple) * config_.ple_width, {config_.ple_width});
      const int source = config_.kv_source[static_cast<size_t>(i)];
      streams = layers_[static_cast<size_t>(i)](streams, own, caches[static_cast<size_t>(source)]);
    }
    if (streams.type().rows == Rows::kTokens) streams = narrow_rows(streams);
    return head_(leave(streams));
  }

 private:
  /// One stream becomes A of equal magnitude: x [N, D] -> [N, A, D].
  Value enter(Value x) const {
    const Graph::ScopeGuard guard(x.graph(), "altup_projections");
    std::vector<Value> streams{x};
    for (const layers::Linear& entry : entries_) streams.push_back(match_magnitude(entry(x), x));
    return concat(streams, {config_.num_streams, config_.decoder.hidden_size});
  }
  /// And their mean is what the head reads: [outputs, A, D] -> [outputs, D].
  Value leave(Value streams) const {
    const Graph::ScopeGuard guard(streams.graph(), "altup_unembed_projections");
    const int64_t width = config_.decoder.hidden_size;
    Value first = streams.columns(0, {width});
    Value sum = first;
    for (size_t i = 0; i < exits_.size(); ++i) {
      Value stream = streams.columns(static_cast<int64_t>(i + 1) * width, {width});
      sum = add(sum, match_magnitude(exits_[i](stream), first));
    }
    return scale(sum, 1 / static_cast<float>(config_.num_streams));
  }

  Gemma3nConfig config_;
  ModelSpec spec_;
  layers::Embedding embed_tokens_;
  layers::PerLayerInputs per_layer_inputs_;
  layers::Head head_;
  std::vector<layers::Linear> entries_, exits_;
  std::vector<Gemma3nLayer> layers_;
  std::unique_ptr<Tower> vision_;  // or null
  std::unique_ptr<Tower> audio_;   // or null
};

}  // namespace

std::unique_ptr<Model> make_gemma3n(const Json& json, const std::string& where,
                                    const WeightScope& weights, AltupForm form) {
  const ConfigReader top(json, where);
  top.expect("tie_word_embeddings", true);
  const bool nested = top.require<std::string>("model_type") == "gemma3n";
  return std::make_unique<Gemma3n>(top, nested ? top.object("text_config") : top, form, weights);
}

Family gemma3n_family() {
  return {.model_types = {"gemma3n", "gemma3n_text"},
          .renames = renames_beside(kTowers),
          .build = [](const Json& json, const std::string& where, const WeightScope& weights) {
            return make_gemma3n(json, where, weights, AltupForm::kStacked);
          }};
}

}  // namespace decant
