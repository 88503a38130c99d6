#pragma once

#include <array>
#include <optional>

#include "checkpoint/config_reader.h"
#include "layers/embedding.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "ops/binary.h"

namespace decant::layers {

/// What a multi-token-prediction layer reads: joint(concat(norm_e(embedding), norm_h(hidden))), the
/// embedding half first. Weights  two norms [hidden] and a matrix [hidden, 2 hidden].
struct DraftInput {
  RmsNorm embedding_norm, hidden_norm;
  Linear joint;

  /// embedded, hidden [N, hidden] -> [N, hidden].
  Value operator()(Value embedded, Value hidden) const {
    const std::array<Value, 2> parts{embedding_norm(embedded), hidden_norm(hidden)};
    return joint(concat(parts, {joint.weight->shape[1]}));
  }
};

/// The parts of GLM's draft layer around its decoder layer, all below the scope of that layer.
/// Weights  enorm, hnorm, shared_head.norm [hidden], eh_proj [hidden, 2 hidden]; embed_tokens and
/// shared_head.head [vocab, hidden] where the layer has its own. Source  glm_moe_dsa.md sections 4
/// and 10.1; vLLM, glm4_moe_mtp.py.
struct GlmDraft {
  DraftInput input;
  Embedding embed_tokens;
  Head head;

  GlmDraft(const DecoderConfig& c, const WeightScope& w, const Embedding& model_embedding,
           const Head& model_head)
      : input{RmsNorm(w / "enorm", c.hidden_size, c.eps),
              RmsNorm(w / "hnorm", c.hidden_size, c.eps),
              Linear(w / "eh_proj", c.hidden_size, 2 * c.hidden_size)},
        embed_tokens(model_embedding),
        head(model_head) {
    if ((w / "embed_tokens").has("weight"))
      embed_tokens = Embedding(w / "embed_tokens", c.vocab_size, c.hidden_size);
    const WeightScope shared = w / "shared_head";
    head.norm = RmsNorm(shared / "norm", c.hidden_size, c.eps);
    if ((shared / "head").has("weight"))
      head.table = (shared / "head").matrix(c.vocab_size, c.hidden_size);
  }
};

/// GLM stores draft layers after the last layer of the model (num_nextn_predict_layers, 1 where the
/// key is absent). True if the first of them is in the file; those that are not read, which are
/// all but the first at any rate, are known and not used. `layers` is the scope of the layers.
inline bool read_draft_layers(const ConfigReader& config, const WeightScope& layers,
                              int64_t num_layers) {
  constexpr int64_t kMaxDraftLayers = 64;
  const int64_t drafts = config.in_range_or("num_nextn_predict_layers", 1, 0, kMaxDraftLayers);
  const auto first = layers / static_cast<int>(num_layers);
  const bool present = drafts > 0 && (first / "eh_proj").has("weight");
  for (int64_t i = present && layers.with_draft() ? 1 : 0; i < drafts; ++i)
    layers.ignore(std::to_string(num_layers + i));
  return present;
}

}  // namespace decant::layers
