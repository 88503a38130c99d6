#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "layers/norm.h"
#include "ops/relative_attention.h"
#include "ops/unary.h"

namespace decant::layers {

/// What the blocks of a conformer share. Values are the frames of one sound, fixed rows.
struct ConformerConfig {
  int64_t width = 0;
  int64_t heads = 0;
  int taps = 5;                       // of the convolution over frames
  RelativeAttentionParams attention;  // q_scale is the block's own to set
  float residual_weight = 0.5f;       // of what a feed-forward adds
  float clip = 1e10f;                 // what activations are kept within
  float eps = 1e-6f;                  // of the norms but the convolution's
  float conv_eps = 1e-6f;
  Unary act = Unary::kSilu;
  int64_t head_dim() const { return width / heads; }
  /// hidden_size and the number of heads at `heads_key`. Errors: ConfigError for heads that do not
  /// divide, or of odd size.
  void read_sizes(const ConfigReader& c, int64_t default_width, std::string_view heads_key);
};

/// Where a family keeps the weights of a block, relative to it.
struct ConformerNames {
  std::string_view first_feed_forward, last_feed_forward;
  std::string_view attention;  // holds q_proj, k_proj, v_proj and per_dim_scale
  std::string_view distances;  // the projection of distances
  std::string_view post;       // what follows attention
  std::string_view pre_attention_norm, post_attention_norm, last_norm;
};

/// A linear of a block, plain or within bounds.
using Projection = std::function<Value(Value)>;
using ProjectionOf = std::function<Projection(const WeightScope&, int64_t out, int64_t in)>;

/// A block of a conformer: half a feed-forward, attention to the few frames before, a causal
/// convolution over frames, the other half, a norm.
/// Source  transformers, Gemma3nAudioConformerBlock, Gemma4AudioLayer; gemma3n.md section 5.3,
/// gemma4.md section 6.3.
class ConformerBlock {
 public:
  ConformerBlock(const ConformerConfig& config, const ConformerNames& names,
                 const ProjectionOf& projection, const WeightScope& w);
  /// x [T, width], distances [P, width] as distance_rows gives them -> [T, width].
  Value operator()(Value x, Value distances) const;

 private:
  struct FeedForward {
    RmsNorm pre_layer_norm, post_layer_norm;
    Projection first, second;
    FeedForward(const ConformerConfig& c, const ProjectionOf& projection, const WeightScope& w);
    Value operator()(const ConformerConfig& c, Value x) const;
  };
  Value attend(Value x, Value distances) const;
  Value convolve(Value x) const;

  ConformerConfig config_;
  FeedForward first_, last_;
  RmsNorm pre_attention_norm_, post_attention_norm_;
  Projection q_proj_, k_proj_, v_proj_, post_;
  const Weight *distances_proj_, *per_dim_scale_;
  RmsNorm pre_conv_norm_, conv_norm_;
  Projection conv_start_, conv_end_;
  const Weight* taps_;
  RmsNorm last_norm_;
};

/// Sines and cosines [positions, width] of these positions, at frequencies from 1 down to 1e-4;
/// a negative position gives zeros.
std::vector<float> distance_rows(const std::vector<int64_t>& positions, int64_t width);

}  // namespace decant::layers
