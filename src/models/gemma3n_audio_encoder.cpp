#include "models/gemma3n_audio_encoder.h"

#include <fmt/format.h>

#include "base/checked.h"
#include "base/json.h"
#include "layers/config.h"
#include "layers/linear.h"
#include "models/audio_frames.h"
#include "ops/conv2d.h"
#include "ops/features.h"
#include "ops/frames.h"
#include "ops/linear.h"

namespace decant {
namespace {

constexpr layers::ConformerNames kNames = {
    .first_feed_forward = "ffw_layer_start",
    .last_feed_forward = "ffw_layer_end",
    .attention = "attention.attn",
    .distances = "attention.attn.relative_position_embedding.pos_proj",
    .post = "attention.post",
    .pre_attention_norm = "attention.pre_attn_norm",
    .post_attention_norm = "attention.post_norm",
    .last_norm = "norm"};

}  // namespace

Gemma3nAudioConfig Gemma3nAudioConfig::read(const ConfigReader& c) {
  Gemma3nAudioConfig out;
  out.features = c.in_range_or("input_feat_size", 128, 4, 4096);
  out.layers = c.in_range_or("conf_num_hidden_layers", 12, 1, ConfigReader::kMaxLayers);
  out.reduction = c.in_range_or("conf_reduction_factor", 4, 1, 64);
  out.channels = {128, 32};
  if (c.has("sscp_conv_channel_size")) {
    const auto channels = c.ints("sscp_conv_channel_size", 2);
    for (size_t i = 0; i < 2; ++i) {
      if (channels[i] < 1 || channels[i] > 4096)
        c.fail("sscp_conv_channel_size", "two numbers from 1 to 4096");
      out.channels[i] = channels[i];
    }
  }
  for (const auto& [key, size] :
       {std::pair{"sscp_conv_kernel_size", 3}, std::pair{"sscp_conv_stride_size", 2}})
    if (c.has(key) && c.json()[key] != Json::array({{size, size}, {size, size}}))
      c.fail(key, fmt::format("[[{0}, {0}], [{0}, {0}]]", size));
  out.conv_eps = static_cast<float>(c.number_in_range_or(
      c.first_of({"sscp_conv_group_norm_eps", "sscp_conv_eps"}), 1e-3, 1e-12, 1));
  out.read_conformer(c);
  return out;
}

void Gemma3nAudioConfig::read_conformer(const ConfigReader& c) {
  conformer.read_sizes(c, 1536, "conf_num_attention_heads");
  conformer.taps = static_cast<int>(c.in_range_or("conf_conv_kernel_size", 5, 1, 64));
  c.expect("conf_attention_context_right", 0);
  c.in_range_or("conf_attention_chunk_size", 12, 1, 4096);
  // A query sees its own frame and context_left - 1 before it.
  conformer.attention.span =
      static_cast<int>(c.in_range_or("conf_attention_context_left", 13, 1, 64));
  conformer.attention.softcap =
      static_cast<float>(c.number_in_range_or("conf_attention_logit_cap", 50.0, 1e-3, 1e9));
  conformer.residual_weight =
      static_cast<float>(c.number_in_range_or("conf_residual_weight", 0.5, -1e3, 1e3));
  conformer.clip = static_cast<float>(c.number_in_range_or("gradient_clipping", 1e10, 1e-3, 1e38));
  conformer.conv_eps = layers::read_eps(c);
}

Gemma3nAudioEncoder::Cut::Cut(int64_t valid, int64_t all) : frames(div_up<int64_t>(valid, 4)) {
  if (frames == 0) return;
  middle = std::min(2 * frames + 1, div_up<int64_t>(all, 2));
  mel = std::min(2 * middle + 1, all);
}

Gemma3nAudioEncoder::Gemma3nAudioEncoder(const Gemma3nAudioConfig& config, const WeightScope& w)
    : config_(config) {
  const WeightScope subsample = w / "subsample_conv_projection";
  int64_t in = 1;
  int64_t features = config.features;
  for (size_t i = 0; i < 2; ++i) {
    const WeightScope block = subsample / fmt::format("conv_{}", i);
    kernels_[i] = (block / "conv").kernel({config.channels[i], in, 3, 3});
    norms_[i] = (block / "norm").vector("weight", Shape{config.channels[i]});
    in = config.channels[i];
    features = div_up<int64_t>(features, 2);
  }
  input_proj_ = (subsample / "input_proj_linear").matrix(config.conformer.width, features * in);
  const auto plain = [](const WeightScope& scope, int64_t out, int64_t width) {
    return layers::Projection(layers::Linear(scope, out, width));
  };
  for (int i = 0; i < config.layers; ++i)
    blocks_.emplace_back(config.conformer, kNames, plain, w / "conformer" / i);
}

Gemma3nAudioEncoder::Cut Gemma3nAudioEncoder::cut(const TowerInput& input) const {
  const int64_t valid = valid_frames(input, config_.features);
  return {valid, input.shape[0]};
}

int64_t Gemma3nAudioEncoder::rows(int64_t frames) const {
  return div_up(frames, config_.reduction);
}

void Gemma3nAudioEncoder::feed(const TowerInput& input, const Cut& cut, TowerFeed& out) const {
  out.floats[kFeatures].assign(input.values.begin(),
                               input.values.begin() + cut.mel * config_.features);
  std::vector<int64_t> distances;
  for (int64_t d = 0; d < config_.conformer.attention.span; ++d) distances.push_back(d);
  out.floats[kDistances] = layers::distance_rows(distances, config_.conformer.width);
}

Value Gemma3nAudioEncoder::operator()(Graph& graph, const std::array<int64_t, 4>& fixed) const {
  const auto [mel, middle, frames, none] = fixed;
  Value x = graph.input(kFeatures, {DType::kF32, {mel * config_.features, 1}, Rows::kFixed});
  int64_t height = mel, features = config_.features;
  for (size_t i = 0; i < 2; ++i) {
    const Graph::ScopeGuard guard(graph, fmt::format("conv_{}", i));
    const int64_t out = i == 0 ? middle : frames;
    // Zeros follow the sound where it ends within the last window.
    const Window2d window{height, features, 3, 3, 2, 2, 0, 2 * out + 1 - height, 1, 1};
    features = window.out_width();
    height = out;
    x = conv2d(x, kernels_[i], window);
    x = unary(cumulative_norm(x, norms_[i], features, config_.conv_eps), Unary::kRelu);
  }
  x = linear(fold_rows(x, features, Fold::kConcat), input_proj_);
  const int64_t span = config_.conformer.attention.span;
  Value rows =
      graph.input(kDistances, {DType::kF32, {span, config_.conformer.width}, Rows::kFixed});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Graph::ScopeGuard guard(graph, fmt::format("conformer.{}", i));
    x = blocks_[i](x, rows);
  }
  std::vector<int64_t> every;
  for (int64_t i = 0; i < frames; i += config_.reduction) every.push_back(i);
  return pick_rows(std::array{x}, std::move(every));
}

}  // namespace decant
