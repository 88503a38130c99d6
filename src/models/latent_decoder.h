#pragma once

#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "layers/config.h"
#include "layers/draft.h"
#include "layers/embedding.h"
#include "layers/latent_attention.h"
#include "layers/mlp.h"
#include "layers/norm.h"
#include "layers/shared_moe.h"
#include "models/model.h"

namespace decant {

struct LatentDecoderConfig {
  layers::DecoderConfig decoder;
  layers::LatentConfig attention;
  std::optional<layers::IndexerConfig> indexer;
  std::vector<bool> has_indexer;  // by layer; the others use what the one before them chose
  layers::SharedMoeConfig moe;
  int64_t dense_inner = 0;
  Unary act = Unary::kSilu;

  /// What all families on this decoder read. The latents' norms take rms_norm_eps, as models were
  /// trained and as they are served; transformers takes 1e-6 for those alone.
  static LatentDecoderConfig read(const ConfigReader& config, int64_t max_positions);
};

/// The decoder of the DeepSeek line: in each layer x += latent attention(norm x), then x +=
/// feed(norm x), the choice of positions handed on from layer to layer. Caches: the latents of
/// layer i have index i, the index keys follow in the order of their layers.
///
/// The last layer stores the latents of every token; everything after that is computed for the rows
/// whose logits are asked for only.
class LatentDecoder final : public Model {
 public:
  LatentDecoder(const ConfigReader& top, LatentDecoderConfig config, const WeightScope& weights);
  const ModelSpec& spec() const override { return spec_; }
  Value forward(Graph& graph) const override;
  LogitsAndHidden forward_and_hidden(Graph& graph) const override;
  LogitsAndHidden draft(Graph& graph, Value hidden) const override;

 private:
  using Feed = std::variant<layers::Mlp, layers::SharedMoe>;
  struct Layer {
    layers::RmsNorm input_layernorm;
    layers::LatentAttention self_attn;
    layers::RmsNorm post_attention_layernorm;
    Feed mlp;
    int index_cache = -1;  // which cache holds its index keys
  };
  struct Draft {
    layers::GlmDraft around;
    Layer layer;
  };
  Layer make_layer(const WeightScope& at, bool is_moe, bool chooses) const;
  Value decode(Graph& graph, bool narrow) const;
  Value layer(const Layer& w, Value x, Value cache, Value index_cache, Value& chosen,
              bool narrow) const;

  LatentDecoderConfig config_;
  ModelSpec spec_;
  layers::Embedding embed_tokens_;
  layers::Head head_;
  std::vector<Layer> layers_;
  std::optional<Draft> draft_;
};

}  // namespace decant
