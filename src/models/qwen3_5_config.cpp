#include "models/qwen3_5_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/json.h"
#include "base/log.h"
#include "layers/rope.h"

namespace decant {
namespace {

constexpr std::string_view kFull = "full_attention", kLinear = "linear_attention";
constexpr double kTheta = 1e7, kPartial = 0.25;

}  // namespace

Json Qwen35Config::with_defaults(const Json& config, Qwen35Kind kind) {
  Json out = config;
  Json& text =
      out.contains("text_config") && out["text_config"].is_object() ? out["text_config"] : out;
  const auto fill = [&](const char* key, int64_t value) {
    if (!text.contains(key) || text[key].is_null()) text[key] = value;
  };
  if (kind == Qwen35Kind::kNext) return out;
  const bool moe = kind == Qwen35Kind::kMoe;
  fill("vocab_size", 248320);
  fill("hidden_size", moe ? 2048 : 4096);
  fill("num_hidden_layers", moe ? 40 : 32);
  fill("num_attention_heads", 16);
  fill("num_key_value_heads", moe ? 2 : 4);
  if (moe) {
    fill("num_experts", 256);
    fill("num_experts_per_tok", 8);
    fill("moe_intermediate_size", 512);
    fill("shared_expert_intermediate_size", 512);
  } else {
    fill("intermediate_size", 12288);
  }
  return out;
}

Qwen35Config Qwen35Config::read(const ConfigReader& c, Qwen35Kind kind) {
  Qwen35Config out;
  out.decoder = layers::DecoderConfig::read(c, 32768);
  const int64_t hidden = out.decoder.hidden_size;
  out.attention = layers::AttentionConfig::read(c, hidden, 256, out.decoder.eps);
  if (out.attention.bias) c.fail("attention_bias", "false");
  c.expect("attn_output_gate", true);
  c.expect("use_sliding_window", false);
  c.expect("hidden_act", "silu");
  const auto gate = c.value_or<std::string>("output_gate_type", "swish");
  if (gate != "swish" && gate != "silu" && gate != "sigmoid")
    log_warning("[config] output_gate_type: expected \"swish\", got \"{}\"; it is not used", gate);
  out.delta = layers::GatedDeltaNetConfig::read(c, hidden, out.decoder.eps);
  out.delta.fused = kind == Qwen35Kind::kNext;
  out.read_layers(c);
  out.read_rotation(c);

  out.moe.is_moe.assign(out.is_attention.size(), false);
  if (kind != Qwen35Kind::kDense) {
    out.moe = layers::MoeConfig::read(c, out.decoder.num_layers, Unary::kSilu);
    if (kind == Qwen35Kind::kMoe) out.moe.routing.normalize = true;  // not a key of its config
    if (out.moe.num_experts > 0)
      out.shared_inner = layers::read_width(c, "shared_expert_intermediate_size");
  }
  if (!std::all_of(out.moe.is_moe.begin(), out.moe.is_moe.end(), [](bool is) { return is; }))
    out.inner = layers::read_width(c, "intermediate_size");
  return out;
}

void Qwen35Config::read_layers(const ConfigReader& c) {
  const auto count = static_cast<size_t>(decoder.num_layers);
  const int64_t interval = c.positive_or("full_attention_interval", 4);
  std::vector<std::string> types;
  if (c.has("layer_types")) types = c.strings("layer_types", decoder.num_layers);
  for (const std::string& type : types)
    if (type != kFull && type != kLinear)
      c.fail("layer_types", "\"linear_attention\" or \"full_attention\"");
  for (size_t i = 0; i < count; ++i)
    is_attention.push_back(types.empty() ? (static_cast<int64_t>(i) + 1) % interval == 0
                                         : types[i] == kFull);
}

void Qwen35Config::read_rotation(const ConfigReader& c) {
  const ConfigReader nested = c.object_or_empty("rope_parameters");
  const auto [partial, rotary] = layers::PartialRotary::read(c, attention.head_dim, kPartial);
  const auto rope = layers::read_rope(c, rotary, {.theta = kTheta, .partial = partial});
  if (!nested.has("mrope_section")) {
    rotation = rope;
    return;
  }
  // Interleaved: frequency i turns by height where i % 3 is 1 and by width where it is 2, as far as
  // their sections go, by time otherwise.
  const std::vector<int64_t> section = nested.ints("mrope_section", 3);
  const bool fits = std::all_of(section.begin(), section.end(),
                                [&](int64_t n) { return n >= 0 && n <= rotary; }) &&
                    section[0] + section[1] + section[2] == rotary / 2;
  if (!fits)
    nested.fail("mrope_section", fmt::format("three counts that add up to {}", rotary / 2));
  nested.expect("mrope_interleaved", true);
  auto with_axes = std::make_shared<RopeParams>(*rope);
  for (int64_t i = 0; i < rotary / 2; ++i) {
    const auto axis = static_cast<size_t>(i % 3);
    with_axes->axes.push_back(static_cast<uint8_t>(axis > 0 && i < 3 * section[axis] ? axis : 0));
  }
  rotation = with_axes;
}

}  // namespace decant
