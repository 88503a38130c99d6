#include "models/gemma4_audio.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <numbers>

#include "base/checked.h"
#include "layers/config.h"
#include "layers/conformer.h"
#include "layers/linear.h"
#include "models/audio_frames.h"
#include "models/beside_towers.h"
#include "ops/conv2d.h"
#include "ops/features.h"
#include "ops/frames.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace decant {
namespace {

constexpr int64_t kFeatures = 128;  // of a mel frame, in all released models

struct AudioConfig {
  int64_t layers = 0;
  std::array<int64_t, 2> channels{};  // of the two convolutions
  std::vector<int64_t> distances;     // by distance, which sines and cosines stand for it
  int64_t output = 0;                 // width before the embedder
  float eps = 1e-6f;
  layers::ConformerConfig conformer;

  static AudioConfig read(const ConfigReader& c) {
    AudioConfig out;
    out.layers = c.in_range_or("num_hidden_layers", 12, 1, ConfigReader::kMaxLayers);
    out.channels = {kFeatures, 32};
    if (c.has("subsampling_conv_channels")) {
      const auto channels = c.ints("subsampling_conv_channels", 2);
      // The reference takes a quarter of the first for the mel frame's last size.
      if (channels[0] / 4 != kFeatures / 4 || channels[1] < 1 || channels[1] > 4096)
        c.fail("subsampling_conv_channels",
               fmt::format("{} and a number from 1 to 4096", kFeatures));
      out.channels = {channels[0], channels[1]};
    }
    out.output = layers::read_width_or(c, "output_proj_dims", 1536);
    out.eps = layers::read_eps(c);
    out.read_conformer(c);
    return out;
  }

 private:
  void read_conformer(const ConfigReader& c) {
    conformer.read_sizes(c, 1024, "num_attention_heads");
    conformer.act = layers::read_activation(c, "hidden_act", "silu");
    conformer.taps = static_cast<int>(c.in_range_or("conv_kernel_size", 5, 1, 64));
    conformer.residual_weight =
        static_cast<float>(c.number_in_range_or("residual_weight", 0.5, -1e3, 1e3));
    conformer.clip =
        static_cast<float>(c.number_in_range_or("gradient_clipping", 1e10, 1e-3, 1e38));
    conformer.conv_eps = eps;
    RelativeAttentionParams& attention = conformer.attention;
    c.expect("attention_context_right", 0);
    const int64_t past = c.in_range_or("attention_context_left", 13, 2, 64) - 1;
    const int64_t chunk = c.in_range_or("attention_chunk_size", 12, 1, 4096);
    // The reference's window is strict: a frame does not see the one `past` before it, though
    // chunks and positions have room for it.
    attention.span = static_cast<int>(past);
    attention.k_scale = std::log(1 + std::numbers::e_v<float>) / std::numbers::ln2_v<float>;
    attention.softcap =
        static_cast<float>(c.number_in_range_or("attention_logit_cap", 50.0, 1e-3, 1e9));
    // Its positions count down from half a chunk and its context, not from `past`.
    for (int64_t d = 0; d < past; ++d) distances.push_back(d + (chunk + past) / 2 - past);
  }
};

constexpr layers::ConformerNames kNames = {.first_feed_forward = "feed_forward1",
                                           .last_feed_forward = "feed_forward2",
                                           .attention = "self_attn",
                                           .distances = "self_attn.relative_k_proj",
                                           .post = "self_attn.post",
                                           .pre_attention_norm = "norm_pre_attn",
                                           .post_attention_norm = "norm_post_attn",
                                           .last_norm = "norm_out"};

class Gemma4Audio final : public Tower {
 public:
  Gemma4Audio(AudioConfig config, int64_t hidden, const WeightScope& w, const WeightScope& embedder)
      : config_(std::move(config)),
        output_proj_(w / "output_proj", config_.output, config_.conformer.width, true),
        embedding_projection_(embedder / "embedding_projection", hidden, config_.output) {
    const WeightScope subsample = w / "subsample_conv_projection";
    int64_t in = 1;
    for (size_t i = 0; i < 2; ++i) {
      const WeightScope block = subsample / fmt::format("layer{}", i);
      kernels_[i] = (block / "conv").kernel({config_.channels[i], in, 3, 3});
      norms_[i] = (block / "norm").vector("weight", Shape{config_.channels[i]});
      in = config_.channels[i];
    }
    input_proj_ =
        (subsample / "input_proj_linear").matrix(config_.conformer.width, kFeatures / 4 * in);
    const auto clipped = [](const WeightScope& scope, int64_t out, int64_t width) {
      return layers::Projection(layers::ClippedLinear(scope, out, width));
    };
    for (int i = 0; i < config_.layers; ++i)
      blocks_.emplace_back(config_.conformer, kNames, clipped, w / "layers" / i);
  }

  int64_t rows(const TowerInput& input) const override { return div_up<int64_t>(valid(input), 4); }
  TowerSize size(const TowerInput& input) const override {
    return {{Phase::kPrefill, 1, 1, 1}, {valid(input)}};
  }
  /// Invalid frames, which follow the valid ones, are zeros to each convolution, as is what is
  /// beyond the sound; nothing after them looks ahead. So they are cut off.
  Value forward(Graph& graph, const TowerSize& size) const override {
    int64_t height = size.fixed[0], features = kFeatures;
    Value x = graph.input(kInput, {DType::kF32, {height * features, 1}, Rows::kFixed});
    for (size_t i = 0; i < 2; ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("layer{}", i));
      const Window2d window{height, features, 3, 3, 2, 2, 1, 1, 1, 1};
      x = conv2d(x, kernels_[i], window);
      x = unary(layer_norm(x, norms_[i], nullptr, config_.eps), Unary::kRelu);
      height = window.out_height();
      features = window.out_width();
    }
    x = linear(fold_rows(x, features, Fold::kConcat), input_proj_);
    Value distances = graph.input(
        kDistances,
        {DType::kF32, {std::ssize(config_.distances), config_.conformer.width}, Rows::kFixed});
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("layers.{}", i));
      x = blocks_[i](x, distances);
    }
    return embedding_projection_(rms_norm(output_proj_(x), nullptr, config_.eps));
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    out.floats[kInput].assign(input.values.begin(),
                              input.values.begin() + valid(input) * kFeatures);
    out.floats[kDistances] = layers::distance_rows(config_.distances, config_.conformer.width);
  }

 private:
  static constexpr int kInput = 0, kDistances = 1;
  static int64_t valid(const TowerInput& input) {
    const int64_t frames = valid_frames(input, kFeatures);
    if (frames == 0)
      throw RequestError("[media] input_features_mask: expected a valid frame, got none");
    return frames;
  }

  AudioConfig config_;
  std::array<const Weight*, 2> kernels_{}, norms_{};
  const Weight* input_proj_ = nullptr;
  std::vector<layers::ConformerBlock> blocks_;
  layers::Linear output_proj_, embedding_projection_;
};

}  // namespace

std::unique_ptr<Tower> gemma4_audio(const ConfigReader& top, int64_t hidden,
                                    const WeightScope& root) {
  const auto tower =
      find_part(root, "audio_tower", "subsample_conv_projection.input_proj_linear.weight");
  const auto embedder = find_part(root, "embed_audio", "embedding_projection.weight");
  if (!tower || !embedder || !top.has("audio_config")) return nullptr;
  return std::make_unique<Gemma4Audio>(AudioConfig::read(top.object("audio_config")), hidden,
                                       *tower, *embedder);
}

}  // namespace decant
