// Llama 3: the plain pre-norm decoder (grouped-query attention, rotary positions, gated MLP) that
// the other text families vary. Source  transformers, modeling_llama.py; qwen3.md.
#include "layers/config.h"
#include "layers/mlp.h"
#include "layers/rope.h"
#include "models/pre_norm_decoder.h"
#include "models/registry.h"

namespace decant {
namespace {

std::unique_ptr<Model> build(const Json& json, const std::string& where,
                             const WeightScope& weights) {
  const ConfigReader c(json, where);
  PreNormConfig config;
  config.decoder = layers::DecoderConfig::read(c, 2048);
  config.attention =
      layers::AttentionConfig::read(c, config.decoder.hidden_size, 0, config.decoder.eps);
  config.rotation = layers::read_rope(c, config.attention.head_dim);
  if (c.has("layer_types"))
    for (const std::string& type : c.strings("layer_types", config.decoder.num_layers))
      if (type != "full_attention") c.fail("layer_types", "only \"full_attention\"");

  const int64_t hidden = config.decoder.hidden_size;
  const int64_t inner = layers::read_width(c, "intermediate_size");
  const Unary act = layers::read_activation(c, "hidden_act", "silu");
  const bool bias = c.value_or("mlp_bias", false);
  return std::make_unique<PreNormDecoder>(
      c, std::move(config), weights,
      [&](int64_t, const WeightScope& mlp) { return layers::Mlp(mlp, hidden, inner, act, bias); });
}

}  // namespace

Family llama_family() { return {.model_types = {"llama"}, .build = build}; }

}  // namespace decant
