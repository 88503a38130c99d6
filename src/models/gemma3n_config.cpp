#include "models/gemma3n_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/json.h"
#include "layers/inverse_normal.h"
#include "layers/layer_types.h"
#include "layers/rope.h"

namespace decant {
namespace {

constexpr std::string_view kFull = "full_attention", kSliding = "sliding_attention";

}  // namespace

Gemma3nConfig Gemma3nConfig::read(const ConfigReader& c) {
  Gemma3nConfig out;
  out.decoder.vocab_size = layers::read_width_or(c, "vocab_size", 262400);
  out.decoder.hidden_size = layers::read_width_or(c, "hidden_size", 2048);
  out.decoder.num_layers = c.in_range_or("num_hidden_layers", 35, 1, ConfigReader::kMaxLayers);
  out.decoder.max_positions = c.positive_or("max_position_embeddings", 32768);
  out.decoder.eps = layers::read_eps(c);
  c.require_keys({"num_attention_heads", "num_key_value_heads"});
  out.attention = layers::AttentionConfig::read(c, out.decoder.hidden_size, 256, out.decoder.eps);
  if (out.attention.bias) c.fail("attention_bias", "false");
  out.ple_vocab_size = layers::read_width_or(c, "vocab_size_per_layer_input", 262144);
  out.ple_width = layers::read_width_or(c, "hidden_size_per_layer_input", 256);
  if (out.ple_width * out.decoder.num_layers > layers::kMaxWidth)
    c.fail("hidden_size_per_layer_input",
           fmt::format("times the layers at most {}", layers::kMaxWidth));
  out.laurel_rank = layers::read_width_or(c, "laurel_rank", 64);
  out.num_streams = c.in_range_or("altup_num_inputs", 4, 2, 16);
  out.active_stream = c.in_range_or("altup_active_idx", 0, 0, out.num_streams - 1);
  out.coef_clip = static_cast<float>(c.number_in_range_or("altup_coef_clip", 120, 1e-3, 1e9));
  out.scale_output = c.value_or("altup_correct_scale", true);
  const std::string act = c.first_of({"hidden_activation", "hidden_act"});
  c.expect(act, "gelu_pytorch_tanh");
  // An explicit null means none.
  const auto cap = c.json().find("final_logit_softcapping");
  out.logit_softcap =
      cap != c.json().end() && cap->is_null()
          ? 0
          : static_cast<float>(c.number_in_range_or("final_logit_softcapping", 30, 1e-3, 1e9));
  out.full_rotation =
      layers::read_rope(c, out.attention.head_dim, {.layer_type = kFull, .theta = 1e6});
  out.sliding_rotation = layers::read_rope(c, out.attention.head_dim,
                                           {.layer_type = kSliding,
                                            .theta_key = "rope_local_base_freq",
                                            .theta = 1e4,
                                            .scaling = false});
  out.read_windows(c);
  out.read_sharing(c);
  out.read_mlps(c);
  return out;
}

void Gemma3nConfig::read_windows(const ConfigReader& c) {
  const auto count = static_cast<size_t>(decoder.num_layers);
  const auto window = static_cast<int>(c.in_range_or("sliding_window", 512, 1, INT64_C(1) << 30));
  windows.assign(count, window);
  for (size_t i = 4; i < count; i += 5) windows[i] = 0;
  if (c.has("layer_types")) windows = layers::read_windows(c, decoder.num_layers, window);
}

void Gemma3nConfig::read_mlps(const ConfigReader& c) {
  const auto count = static_cast<size_t>(decoder.num_layers);
  if (c.is_list("intermediate_size")) {
    inner = c.ints("intermediate_size");
    if (inner.size() == 1) inner.resize(count, inner[0]);
    if (inner.size() != count) c.fail("intermediate_size", fmt::format("a list of 1 or {}", count));
    for (int64_t width : inner)
      if (width < 1 || width > layers::kMaxWidth)
        c.fail("intermediate_size", fmt::format("sizes from 1 to {}", layers::kMaxWidth));
  } else {
    inner.assign(count, layers::read_width_or(c, "intermediate_size", 16384));
  }

  std::vector<double> sparsity(count, 0.0);
  if (c.is_list("activation_sparsity_pattern"))
    sparsity = c.numbers("activation_sparsity_pattern", decoder.num_layers);
  else if (c.has("activation_sparsity_pattern"))
    sparsity.assign(count, c.require<double>("activation_sparsity_pattern"));
  else if (count > 10)
    std::fill_n(sparsity.begin(), 10, 0.95);
  for (double s : sparsity) {
    if (s < 0 || s >= 1) c.fail("activation_sparsity_pattern", "numbers from 0 to below 1");
    cut.push_back(s > 0 ? std::optional(static_cast<float>(layers::inverse_normal_cdf(s)))
                        : std::nullopt);
  }
}

// The last num_kv_shared_layers read what the last owning layer of their kind wrote.
void Gemma3nConfig::read_sharing(const ConfigReader& c) {
  const int64_t shared = c.in_range_or("num_kv_shared_layers", 15, 0, decoder.num_layers - 1);
  num_owning = static_cast<int>(decoder.num_layers - shared);
  kv_source = layers::kv_sources(c, windows, shared);
}

}  // namespace decant
