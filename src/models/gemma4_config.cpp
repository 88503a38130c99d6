#include "models/gemma4_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/json.h"
#include "layers/layer_types.h"
#include "layers/rope.h"

namespace decant {
namespace {

constexpr int64_t kMaxHeadDim = 65536, kMaxHeads = 65536;

// The rotations of all released models, which both references assume when none are written.
const Json& released_rotations() {
  static const Json json = parse_json(
      R"({"rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6,
                               "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}})",
      "rotations");
  return json;
}

void check_heads(const ConfigReader& c, std::string_view head_key, std::string_view kv_key,
                 const layers::AttentionConfig& a) {
  if (a.head_dim % 2 != 0) c.fail(head_key, "an even number");
  if (a.num_heads * a.head_dim > layers::kMaxWidth)
    c.fail(head_key, fmt::format("times {} heads at most {}", a.num_heads, layers::kMaxWidth));
  if (a.num_heads % a.num_kv_heads != 0)
    c.fail(kv_key, fmt::format("a divisor of {} heads", a.num_heads));
}

}  // namespace

Gemma4Config Gemma4Config::read(const ConfigReader& c, bool unified) {
  c.require_keys({"num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
                  "layer_types", "sliding_window", "num_kv_shared_layers"});
  if (!unified) c.require_keys({"hidden_size_per_layer_input"});
  Gemma4Config out;
  out.decoder = layers::DecoderConfig::read(c, 131072);
  c.expect("hidden_activation", "gelu_pytorch_tanh");
  c.expect("attention_bias", false);
  c.expect("use_bidirectional_attention", "vision");
  out.both_ways = c.has("use_bidirectional_attention");
  out.pad_token = static_cast<int32_t>(c.in_range_or("pad_token_id", 0, 0, INT32_MAX));
  if (!c.json().contains("final_logit_softcapping")) c.require_keys({"final_logit_softcapping"});
  if (c.has("final_logit_softcapping"))  // null: none
    out.logit_softcap = static_cast<float>(c.number_in_range("final_logit_softcapping", 1e-3, 1e9));

  const auto window = static_cast<int>(c.in_range("sliding_window", 1, INT64_C(1) << 30));
  out.windows = layers::read_windows(c, out.decoder.num_layers, window);
  if (out.windows.back() != 0) c.fail("layer_types", "\"full_attention\" as the last");
  out.read_kinds(c);
  out.read_sharing(c);

  out.ple_width = c.in_range_or("hidden_size_per_layer_input", 0, 0, layers::kMaxWidth);
  if (out.ple_width * out.decoder.num_layers > layers::kMaxWidth)
    c.fail("hidden_size_per_layer_input",
           fmt::format("times the layers at most {}", layers::kMaxWidth));
  if (out.ple_width > 0)
    out.ple_vocab_size = layers::read_width_or(c, "vocab_size_per_layer_input", 262144);
  out.read_experts(c);
  return out;
}

void Gemma4Config::read_kinds(const ConfigReader& c) {
  sliding.attention = layers::AttentionConfig::read(c, decoder.hidden_size, 0, decoder.eps);
  full = sliding;
  full.values_are_keys = c.value_or("attention_k_eq_v", false);
  layers::AttentionConfig& a = full.attention;
  if (!c.has("per_layer_config")) c.require_keys({"global_head_dim"});
  a.head_dim = c.in_range_or("global_head_dim", a.head_dim, 1, kMaxHeadDim);
  const bool own_kv_heads = full.values_are_keys && c.has("num_global_key_value_heads");
  if (own_kv_heads) a.num_kv_heads = c.in_range("num_global_key_value_heads", 1, kMaxHeads);
  read_per_layer(c);
  check_heads(c, c.first_of({"global_head_dim", "per_layer_config"}),
              own_kv_heads ? "num_global_key_value_heads" : "per_layer_config", a);
  check_heads(c, c.first_of({"per_layer_config", "head_dim"}),
              c.first_of({"per_layer_config", "num_key_value_heads"}), sliding.attention);

  const ConfigReader released(released_rotations(), c.where());
  const ConfigReader& rotations = c.has("rope_parameters") ? c : released;
  full.rotation =
      layers::read_rope(rotations, a.head_dim, {.layer_type = "full_attention", .scaling = false});
  sliding.rotation = layers::read_rope(rotations, sliding.attention.head_dim,
                                       {.layer_type = "sliding_attention", .scaling = false});
}

// per_layer_config names the sizes of single layers that are not those of the config itself; it
// stands for global_head_dim and num_global_key_value_heads and may not contradict them.
void Gemma4Config::read_per_layer(const ConfigReader& c) {
  constexpr std::string_view kKey = "per_layer_config";
  if (!c.has(kKey)) return;
  const ConfigReader entries = c.object(kKey);
  for (const auto& [name, value] : entries.json().items()) {
    int64_t layer = -1;
    const char* end = name.data() + name.size();
    if (std::from_chars(name.data(), end, layer).ptr != end || layer < 0 ||
        layer >= decoder.num_layers || name != std::to_string(layer))
      entries.fail(name, fmt::format("layers from 0 to {}", decoder.num_layers - 1));
    for (const auto& [key, size] : entries.object(name).json().items())
      if (key != "head_dim" && key != "num_key_value_heads")
        entries.object(name).fail(key, "no other key than head_dim and num_key_value_heads");
  }

  for (const bool is_full : {false, true}) {
    layers::AttentionConfig& a = is_full ? full.attention : sliding.attention;
    const auto read = [&](std::string_view key, std::string_view global, int64_t high,
                          int64_t& size) {
      const bool fixed = is_full && c.has(global) && (key == "head_dim" || full.values_are_keys);
      std::optional<int64_t> common;
      for (int i = 0; i < decoder.num_layers; ++i) {
        if ((windows[static_cast<size_t>(i)] == 0) != is_full) continue;
        const ConfigReader entry = entries.object_or_empty(std::to_string(i));
        const int64_t own = entry.in_range_or(key, size, 1, high);
        if (fixed && own != size) entry.fail(key, fmt::format("{} {}", global, size));
        if (common && *common != own)
          entry.fail(key, fmt::format("{} as in the layers of its kind before it", *common),
                     std::to_string(own));
        common = own;
      }
      size = common.value_or(size);
    };
    read("head_dim", "global_head_dim", kMaxHeadDim, a.head_dim);
    read("num_key_value_heads", "num_global_key_value_heads", kMaxHeads, a.num_kv_heads);
  }
}

// The last num_kv_shared_layers read what the last owning layer of their kind wrote, and may have
// an MLP of twice the width.
void Gemma4Config::read_sharing(const ConfigReader& c) {
  const int64_t shared = c.in_range("num_kv_shared_layers", 0, decoder.num_layers - 1);
  num_owning = static_cast<int>(decoder.num_layers - shared);
  kv_source = layers::kv_sources(c, windows, shared);
  if (shared > 0) c.require_keys({"use_double_wide_mlp"});
  const int64_t width = layers::read_width(c, "intermediate_size");
  const int64_t wide = c.value_or("use_double_wide_mlp", false) ? 2 * width : width;
  if (shared > 0 && wide > layers::kMaxWidth)
    c.fail("intermediate_size", fmt::format("at most {} when doubled", layers::kMaxWidth));
  inner.assign(static_cast<size_t>(decoder.num_layers), width);
  std::fill(inner.begin() + num_owning, inner.end(), wide);
}

void Gemma4Config::read_experts(const ConfigReader& c) {
  if (!c.value_or("enable_moe_block", false)) return;
  c.require_keys({"num_experts", "top_k_experts", "moe_intermediate_size"});
  num_experts = c.in_range("num_experts", 1, layers::kMaxExperts);
  expert_inner = layers::read_width(c, "moe_intermediate_size");
  routing.top_k = static_cast<int>(c.in_range("top_k_experts", 1, num_experts));
}

}  // namespace decant
