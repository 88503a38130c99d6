// Qwen3 MoE: Qwen3 whose MLPs are routed experts in the layers that the config names.
// Source  transformers, modeling_qwen3_moe.py; qwen3.md section 3.
#include <algorithm>

#include "layers/config.h"
#include "layers/mlp.h"
#include "layers/moe.h"
#include "layers/rope.h"
#include "models/pre_norm_decoder.h"
#include "models/registry.h"

namespace decant {
namespace {

std::unique_ptr<Model> build(const Json& json, const std::string& where,
                             const WeightScope& weights) {
  const ConfigReader c(json, where);
  c.expect("use_sliding_window", false);
  PreNormConfig config;
  config.decoder = layers::DecoderConfig::read(c, 32768);
  config.attention =
      layers::AttentionConfig::read(c, config.decoder.hidden_size, 128, config.decoder.eps);
  config.attention.norms = true;
  config.rotation = layers::read_rope(c, config.attention.head_dim);

  const int64_t hidden = config.decoder.hidden_size;
  const Unary act = layers::read_activation(c, "hidden_act", "silu");
  const auto moe = layers::MoeConfig::read(c, config.decoder.num_layers, act);
  const bool all = std::all_of(moe.is_moe.begin(), moe.is_moe.end(), [](bool is) { return is; });
  const int64_t dense_inner = all ? 0 : layers::read_width(c, "intermediate_size");
  return std::make_unique<PreNormDecoder>(
      c, std::move(config), weights,
      [&](int64_t i, const WeightScope& mlp) -> PreNormDecoder::Feed {
        if (moe.is_moe[static_cast<size_t>(i)]) return layers::Moe(moe, mlp, hidden);
        return layers::Mlp(mlp, hidden, dense_inner, act);
      });
}

}  // namespace

Family qwen3_moe_family() { return {.model_types = {"qwen3_moe"}, .build = build}; }

}  // namespace decant
