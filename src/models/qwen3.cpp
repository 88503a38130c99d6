// Qwen3: Llama with norms of the query and key heads, and windows in layers of its choice.
// Source  transformers, modeling_qwen3.py; qwen3.md.
#include "layers/config.h"
#include "layers/mlp.h"
#include "layers/rope.h"
#include "models/pre_norm_decoder.h"
#include "models/registry.h"

namespace decant {
namespace {

// Layers from max_window_layers on are windowed, or those that layer_types names, but only where
// use_sliding_window says so.
std::vector<int> read_windows(const ConfigReader& c, int64_t num_layers) {
  std::vector<int> out(static_cast<size_t>(num_layers), 0);
  std::vector<std::string> types;
  if (c.has("layer_types")) types = c.strings("layer_types", num_layers);
  for (const std::string& type : types)
    if (type != "full_attention" && type != "sliding_attention")
      c.fail("layer_types", "\"full_attention\" or \"sliding_attention\"");
  const bool windowed = c.value_or("use_sliding_window", false);
  const int window =
      windowed ? static_cast<int>(c.in_range("sliding_window", 1, INT64_C(1) << 30)) : 0;
  const int64_t first =
      windowed ? c.in_range_or("max_window_layers", 28, 0, ConfigReader::kMaxLayers) : 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const bool sliding = types.empty() ? windowed && static_cast<int64_t>(i) >= first
                                       : types[i] == "sliding_attention";
    if (sliding && !windowed)
      c.fail("layer_types", "no \"sliding_attention\" without use_sliding_window");
    out[i] = sliding ? window : 0;
  }
  return out;
}

std::unique_ptr<Model> build(const Json& json, const std::string& where,
                             const WeightScope& weights) {
  const ConfigReader c(json, where);
  PreNormConfig config;
  config.decoder = layers::DecoderConfig::read(c, 32768);
  config.attention =
      layers::AttentionConfig::read(c, config.decoder.hidden_size, 128, config.decoder.eps);
  config.attention.norms = true;
  config.rotation = layers::read_rope(c, config.attention.head_dim);
  config.windows = read_windows(c, config.decoder.num_layers);

  const int64_t hidden = config.decoder.hidden_size;
  const int64_t inner = layers::read_width(c, "intermediate_size");
  const Unary act = layers::read_activation(c, "hidden_act", "silu");
  return std::make_unique<PreNormDecoder>(
      c, std::move(config), weights,
      [&](int64_t, const WeightScope& mlp) { return layers::Mlp(mlp, hidden, inner, act); });
}

}  // namespace

Family qwen3_family() { return {.model_types = {"qwen3"}, .build = build}; }

}  // namespace decant
