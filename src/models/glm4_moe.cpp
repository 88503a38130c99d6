// GLM-4.5 to 4.7: Qwen3 MoE's attention with biases and a partial rotation, over the mixture of the
// DeepSeek V3 line. Source  transformers, modeling_glm4_moe.py; glm_moe_dsa.md sections 3.4
// and 10.1.
#include <algorithm>
#include <cmath>

#include "layers/config.h"
#include "layers/mlp.h"
#include "layers/rope.h"
#include "layers/shared_moe.h"
#include "models/pre_norm_decoder.h"
#include "models/registry.h"

namespace decant {
namespace {

std::unique_ptr<Model> build(const Json& json, const std::string& where,
                             const WeightScope& weights) {
  const ConfigReader c(json, where);
  PreNormConfig config;
  config.decoder = layers::DecoderConfig::read(c, 131072);
  config.attention =
      layers::AttentionConfig::read(c, config.decoder.hidden_size, 0, config.decoder.eps);
  config.attention.norms = c.value_or("use_qk_norm", false);
  config.attention.o_bias = false;
  const auto turning = layers::PartialRotary::read(c, config.attention.head_dim, 0.5);
  config.rotation = layers::read_rope(c, turning.dims, {.partial = turning.share});

  const int64_t hidden = config.decoder.hidden_size, num_layers = config.decoder.num_layers;
  const Unary act = layers::read_activation(c, "hidden_act", "silu");
  const auto moe = layers::SharedMoeConfig::read(c, num_layers, act);
  const bool all = std::all_of(moe.is_moe.begin(), moe.is_moe.end(), [](bool is) { return is; });
  const int64_t dense_inner = all ? 0 : layers::read_width(c, "intermediate_size");
  config.has_draft = layers::read_draft_layers(c, weights / "model" / "layers", num_layers);
  return std::make_unique<PreNormDecoder>(
      c, std::move(config), weights,
      [&](int64_t i, const WeightScope& mlp) -> PreNormDecoder::Feed {
        if (i >= num_layers || moe.is_moe[static_cast<size_t>(i)])
          return layers::SharedMoe(moe, mlp, hidden);
        return layers::Mlp(mlp, hidden, dense_inner, act);
      });
}

}  // namespace

Family glm4_moe_family() { return {.model_types = {"glm4_moe"}, .build = build}; }

}  // namespace decant
