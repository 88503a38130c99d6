// Qwen3.5 (also 3.6 and 3.8), the text model: gated delta nets with a gated attention layer in
// every few. Nearest relative: Qwen3, whose norms and attention it has.
// Source  transformers, modeling_qwen3_5.py, modeling_qwen3_next.py; qwen3_5.md.
#include "models/qwen3_5.h"

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/json.h"
#include "layers/draft.h"
#include "layers/embedding.h"
#include "layers/features.h"
#include "layers/gated_attention.h"
#include "layers/gated_delta_net.h"
#include "layers/mlp.h"
#include "layers/shared_expert.h"
#include "models/decoder_spec.h"
#include "models/qwen3_5_vision.h"
#include "models/registry.h"
#include "ops/binary.h"
#include "ops/rows.h"

namespace decant {
namespace {

/// How a file was written. Hugging Face's stores norms around zero and the convolution as [C, 1,
/// K]; a converted file has the one added and the axis moved, both at once. Nothing else tells them
/// apart: either may hold an MTP layer.
struct Spelling {
  bool moved_axis = true;
  float norm_offset = 0;

  static Spelling detect(const Qwen35Config& c, const WeightScope& layers) {
    Spelling out;
    for (size_t i = 0; i < c.is_attention.size(); ++i) {
      if (c.is_attention[i]) continue;
      const auto dims = (layers / static_cast<int>(i) / "linear_attn" / "conv1d").dims("weight");
      if (!dims.empty() && dims.back() != 1) out = {false, 1};
    }
    return out;
  }
};

struct Qwen35Layer {
  using Mixer = std::variant<layers::GatedAttention, layers::GatedDeltaNet>;
  using Feed = std::variant<layers::Mlp, layers::SharedExpertMoe>;
  layers::RmsNorm input_layernorm;
  Mixer mixer;
  layers::RmsNorm post_attention_layernorm;
  Feed mlp;

  Qwen35Layer(const Qwen35Config& c, const Spelling& spelling, bool is_attention, bool is_moe,
              const WeightScope& w)
      : input_layernorm(w / "input_layernorm", c.decoder.hidden_size, c.decoder.eps,
                        spelling.norm_offset),
        mixer(make_mixer(c, spelling, is_attention, w)),
        post_attention_layernorm(w / "post_attention_layernorm", c.decoder.hidden_size,
                                 c.decoder.eps, spelling.norm_offset),
        mlp(make_feed(c, is_moe, w / "mlp")) {}
  static Mixer make_mixer(const Qwen35Config& c, const Spelling& spelling, bool is_attention,
                          const WeightScope& w) {
    if (is_attention)
      return layers::GatedAttention(c.attention, spelling.norm_offset, w / "self_attn");
    return layers::GatedDeltaNet(c.delta, spelling.moved_axis, w / "linear_attn");
  }
  static Feed make_feed(const Qwen35Config& c, bool is_moe, const WeightScope& w) {
    if (is_moe) return layers::SharedExpertMoe(c.moe, c.shared_inner, w, c.decoder.hidden_size);
    return layers::Mlp(w, c.decoder.hidden_size, c.inner, Unary::kSilu);
  }
};

/// Drafts tokens: one more attention layer over the model's embedding and head. Weights
/// pre_fc_norm_embedding, pre_fc_norm_hidden, norm [hidden], fc [hidden, 2 hidden], layers.0. Its
/// norms are stored as the model's are. Source  qwen3_5.md section 3.7; vLLM, qwen3_next_mtp.py.
struct Qwen35Draft {
  layers::DraftInput input;
  Qwen35Layer layer;
  layers::Head head;

  Qwen35Draft(const Qwen35Config& c, const Spelling& spelling, const layers::Head& model_head,
              const WeightScope& w)
      : input{norm(c, spelling, w / "pre_fc_norm_embedding"),
              norm(c, spelling, w / "pre_fc_norm_hidden"),
              layers::Linear(w / "fc", c.decoder.hidden_size, 2 * c.decoder.hidden_size)},
        layer(c, spelling, true, c.moe.num_experts > 0, w / "layers" / 0),
        head(model_head) {
    head.norm = norm(c, spelling, w / "norm");
  }
  static layers::RmsNorm norm(const Qwen35Config& c, const Spelling& spelling,
                              const WeightScope& w) {
    return {w, c.decoder.hidden_size, c.decoder.eps, spelling.norm_offset};
  }
};

class Qwen35 final : public Model {
 public:
  Qwen35(const ConfigReader& top, const ConfigReader& text, Qwen35Kind kind, const WeightScope& w)
      : config_(Qwen35Config::read(text, kind)),
        spec_(decoder_spec(top, config_.decoder)),
        spelling_(Spelling::detect(config_, w / "model" / "layers")),
        embed_tokens_(w / "model" / "embed_tokens", config_.decoder.vocab_size,
                      config_.decoder.hidden_size),
        head_(w,
              layers::RmsNorm(w / "model" / "norm", config_.decoder.hidden_size,
                              config_.decoder.eps, spelling_.norm_offset),
              embed_tokens_, read_tied(top, text, w)) {
    if (spec_.eos_token_ids.empty()) spec_.eos_token_ids = layers::read_eos(text);
    spec_.windows = {0};
    for (size_t i = 0; i < config_.is_attention.size(); ++i) {
      layers_.emplace_back(config_, spelling_, config_.is_attention[i], config_.moe.is_moe[i],
                           w / "model" / "layers" / static_cast<int>(i));
      if (config_.is_attention[i]) {
        spec_.kv.push_back(config_.attention.kv_spec());
      } else {
        spec_.states.push_back(config_.delta.conv_state());
        spec_.states.push_back(config_.delta.delta_state());
      }
    }
    vision_ = qwen3_5_vision(top, config_.decoder.hidden_size, w);
    if (vision_) {
      const auto token = [&](std::string_view key) {
        return static_cast<int32_t>(top.in_range_or(key, -1, -1, config_.decoder.vocab_size - 1));
      };
      spec_.media.image_token = token("image_token_id");
      spec_.media.video_token = token("video_token_id");
      spec_.media.image_begin = token("vision_start_token_id");
      spec_.media.image_end = token("vision_end_token_id");
      spec_.media.template_wraps = true;
      spec_.media.merge =
          static_cast<int>(top.object("vision_config").in_range_or("spatial_merge_size", 2, 1, 16));
    }
    for (const char* part :
         {"model.visual", "visual", "vision_tower", "model.language_model.visual"})
      w.ignore(part);
    read_draft(text, w);
  }

  const ModelSpec& spec() const override { return spec_; }
  const Tower* tower(Medium medium) const override {
    return medium == Medium::kAudio ? nullptr : vision_.get();
  }

  Value forward(Graph& graph) const override { return head_(decode(graph, true)); }

  LogitsAndHidden forward_and_hidden(Graph& graph) const override {
    if (!draft_) return Model::forward_and_hidden(graph);
    const auto [logits, hidden] = head_.with_hidden(decode(graph, false));
    return {logits, hidden};
  }

  LogitsAndHidden draft(Graph& graph, Value hidden) const override {
    if (!draft_) return Model::draft(graph, hidden);
    const Graph::ScopeGuard guard(graph, "mtp");
    Value x = draft_->input(embed_tokens_(graph), hidden);
    Value kv = graph.kv_cache(static_cast<int>(spec_.kv.size()), spec_.draft->kv[0]);
    Value n = draft_->layer.input_layernorm(x);
    x = add(x, std::get<layers::GatedAttention>(draft_->layer.mixer)(n, n, kv, config_.rotation));
    const auto [logits, state] = draft_->head.with_hidden(feed(draft_->layer, x));
    return {logits, state};
  }

 private:
  // Of several draft layers, which no release has, the first drafts every token.
  void read_draft(const ConfigReader& text, const WeightScope& w) {
    constexpr int kMaxDraftLayers = 64;
    const auto count =
        static_cast<int>(text.in_range_or("mtp_num_hidden_layers", 1, 0, kMaxDraftLayers));
    for (const WeightScope& at : {w / "mtp", w / "language_model" / "mtp"}) {
      const bool found = count > 0 && !spec_.draft && (at / "fc").has("weight");
      if (found) spec_.draft = DraftSpec{{config_.attention.kv_spec()}, w.with_draft()};
      if (!found || !w.with_draft()) {
        w.ignore(at.path());
        continue;
      }
      text.expect("mtp_use_dedicated_embeddings", false);
      draft_.emplace(config_, spelling_, head_, at);
      for (int i = 1; i < count; ++i) (at / "layers").ignore(std::to_string(i));
    }
  }

  // `narrow`: the last layer leaves the rows whose logits are asked for.
  Value decode(Graph& graph, bool narrow) const {
    Value x = layers::with_features(embed_tokens_(graph));
    int cache = 0, state = 0;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Graph::ScopeGuard guard(graph, "layers." + std::to_string(i));
      const Qwen35Layer& w = layers_[i];
      Value n = w.input_layernorm(x);
      Value asking = n;
      if (narrow && i + 1 == layers_.size()) {
        // What is left is computed for the rows whose logits are asked for.
        x = narrow_rows(x);
        asking = narrow_rows(n);
      }
      if (const auto* attention = std::get_if<layers::GatedAttention>(&w.mixer)) {
        Value kv = graph.kv_cache(cache, spec_.kv[static_cast<size_t>(cache)]);
        x = add(x, (*attention)(n, asking, kv, config_.rotation));
        ++cache;
      } else {
        const auto own = [&] {
          const int index = state++;
          return graph.state(index, spec_.states[static_cast<size_t>(index)]);
        };
        Value conv = own(), delta = own();
        x = add(x, std::get<layers::GatedDeltaNet>(w.mixer)(n, asking, conv, delta));
      }
      x = feed(w, x);
    }
    return x;
  }
  static Value feed(const Qwen35Layer& w, Value x) {
    Value n = w.post_attention_layernorm(x);
    return add(x, std::visit([&](const auto& mlp) { return mlp(n); }, w.mlp));
  }

  /// The key may stand at either level. Where they disagree, the files decide.
  static bool read_tied(const ConfigReader& top, const ConfigReader& text, const WeightScope& w) {
    constexpr std::string_view kKey = "tie_word_embeddings";
    if (top.has(kKey) && text.has(kKey) && top.value_or(kKey, false) != text.value_or(kKey, false))
      return !(w / "lm_head").has("weight");
    return layers::read_tied(text.has(kKey) ? text : top, w);
  }

  Qwen35Config config_;
  ModelSpec spec_;
  Spelling spelling_;
  layers::Embedding embed_tokens_;
  layers::Head head_;
  std::vector<Qwen35Layer> layers_;
  std::unique_ptr<Tower> vision_;
  std::optional<Qwen35Draft> draft_;
};

// The text model alone or inside the multimodal one, whose tower keeps its name in every layout.
Renames qwen3_5_renames() {
  Renames out = Renames::text_model();
  for (Renames::Layout& layout : out.layouts)
    for (const char* part : {"model.visual.", "model.language_model.visual."})
      layout.insert(layout.begin(), {part, part});
  return out;
}

}  // namespace

Family qwen3_5_family_of(std::vector<std::string> model_types, Qwen35Kind kind) {
  return {.model_types = std::move(model_types),
          .renames = qwen3_5_renames(),
          .build = [kind](const Json& json, const std::string& where,
                          const WeightScope& weights) -> std::unique_ptr<Model> {
            const Json filled = Qwen35Config::with_defaults(json, kind);
            const ConfigReader top(filled, where);
            return std::make_unique<Qwen35>(
                top, top.has("text_config") ? top.object("text_config") : top, kind, weights);
          }};
}

Family qwen3_5_family() {
  return qwen3_5_family_of({"qwen3_5", "qwen3_5_text"}, Qwen35Kind::kDense);
}

}  // namespace decant
