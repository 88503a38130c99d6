#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "layers/attention.h"
#include "layers/config.h"
#include "layers/draft.h"
#include "layers/embedding.h"
#include "layers/mlp.h"
#include "layers/moe.h"
#include "layers/norm.h"
#include "layers/shared_moe.h"
#include "models/model.h"

namespace decant {

struct PreNormConfig {
  layers::DecoderConfig decoder;
  layers::AttentionConfig attention;
  std::shared_ptr<const RopeParams> rotation;
  std::vector<int> windows;  // by layer, 0: full attention; empty: all full
  bool has_draft = false;    // the file has a draft layer after the last one
};

/// The decoder most families are: in each layer x += attention(norm x), then x += feed(norm x).
/// They differ in the config they read and in what feeds forward.
///
/// The last layer stores keys and values of every token; everything after that is computed for the
/// rows whose logits are asked for only.
class PreNormDecoder final : public Model {
 public:
  using Feed = std::variant<layers::Mlp, layers::Moe, layers::SharedMoe>;
  /// Makes the feed-forward part of layer i from its scope, `model.layers.<i>.mlp`; the draft layer
  /// is that after the last.
  using MakeFeed = std::function<Feed(int64_t i, const WeightScope& scope)>;

  PreNormDecoder(const ConfigReader& top, PreNormConfig config, const WeightScope& weights,
                 const MakeFeed& make_feed);
  const ModelSpec& spec() const override { return spec_; }
  Value forward(Graph& graph) const override;
  LogitsAndHidden forward_and_hidden(Graph& graph) const override;
  LogitsAndHidden draft(Graph& graph, Value hidden) const override;

 private:
  struct Layer {
    layers::RmsNorm input_layernorm;
    layers::Attention self_attn;
    layers::RmsNorm post_attention_layernorm;
    Feed mlp;
  };
  struct Draft {
    layers::GlmDraft around;
    Layer layer;
  };
  static Layer make_layer(const PreNormConfig& config, const WeightScope& scope, int64_t i,
                          const MakeFeed& make_feed);
  Value decode(Graph& graph, bool narrow) const;
  Value layer(const Layer& w, Value x, Value cache, bool narrow) const;

  PreNormConfig config_;
  ModelSpec spec_;
  layers::Embedding embed_tokens_;
  layers::Head head_;
  std::vector<Layer> layers_;
  std::optional<Draft> draft_;
};

}  // namespace decant
