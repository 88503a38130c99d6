#include "layers/conformer.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "layers/config.h"
#include "layers/linear.h"
#include "ops/binary.h"
#include "ops/frames.h"
#include "ops/linear.h"

namespace decant::layers {
namespace {

Value clamp(Value x, float bound) { return unary(x, Unary::kClamp, bound); }

/// Files have the kernels of a depthwise convolution as [C, 1, K] or [C, K, 1].
const Weight* taps_of(const ConformerConfig& c, const WeightScope& w) {
  const auto dims = w.dims("weight");
  const bool moved = dims.size() == 3 && dims[2] == 1 && c.taps > 1;
  return w.vector("weight", moved ? Shape{c.width, c.taps, 1} : Shape{c.width, 1, c.taps});
}

}  // namespace

void ConformerConfig::read_sizes(const ConfigReader& c, int64_t default_width,
                                 std::string_view heads_key) {
  width = read_width_or(c, "hidden_size", default_width);
  heads = c.in_range_or(heads_key, 8, 1, 1024);
  if (width % (2 * heads) != 0 || head_dim() > 1024)
    c.fail(heads_key,
           fmt::format("a divisor of hidden_size {} that leaves heads of even size up to 1024",
                       width));
}

ConformerBlock::FeedForward::FeedForward(const ConformerConfig& c, const ProjectionOf& projection,
                                         const WeightScope& w)
    : pre_layer_norm(w / "pre_layer_norm", c.width, c.eps),
      post_layer_norm(w / "post_layer_norm", c.width, c.eps),
      first(projection(w / "ffw_layer_1", 4 * c.width, c.width)),
      second(projection(w / "ffw_layer_2", c.width, 4 * c.width)) {}

Value ConformerBlock::FeedForward::operator()(const ConformerConfig& c, Value x) const {
  Value fed = second(unary(first(pre_layer_norm(clamp(x, c.clip))), c.act));
  return add(x, scale(post_layer_norm(clamp(fed, c.clip)), c.residual_weight));
}

ConformerBlock::ConformerBlock(const ConformerConfig& c, const ConformerNames& names,
                               const ProjectionOf& projection, const WeightScope& w)
    : config_(c),
      first_(c, projection, w / names.first_feed_forward),
      last_(c, projection, w / names.last_feed_forward),
      pre_attention_norm_(w / names.pre_attention_norm, c.width, c.eps),
      post_attention_norm_(w / names.post_attention_norm, c.width, c.eps),
      q_proj_(projection(w / names.attention / "q_proj", c.width, c.width)),
      k_proj_(projection(w / names.attention / "k_proj", c.width, c.width)),
      v_proj_(projection(w / names.attention / "v_proj", c.width, c.width)),
      post_(projection(w / names.post, c.width, c.width)),
      distances_proj_((w / names.distances).matrix(c.width, c.width)),
      per_dim_scale_((w / names.attention).vector("per_dim_scale", Shape{c.head_dim()})),
      pre_conv_norm_(w / "lconv1d" / "pre_layer_norm", c.width, c.conv_eps),
      conv_norm_(w / "lconv1d" / "conv_norm", c.width, c.conv_eps),
      conv_start_(projection(w / "lconv1d" / "linear_start", 2 * c.width, c.width)),
      conv_end_(projection(w / "lconv1d" / "linear_end", c.width, c.width)),
      taps_(taps_of(c, w / "lconv1d" / "depthwise_conv1d")),
      last_norm_(w / names.last_norm, c.width, c.eps) {
  config_.attention.q_scale =
      1 / (std::sqrt(static_cast<float>(c.head_dim())) * std::numbers::ln2_v<float>);
}

Value ConformerBlock::operator()(Value x, Value distances) const {
  Graph& graph = x.graph();
  {
    const Graph::ScopeGuard guard(graph, "feed_forward1");
    x = first_(config_, x);
  }
  {
    const Graph::ScopeGuard guard(graph, "self_attn");
    x = attend(x, distances);
  }
  {
    const Graph::ScopeGuard guard(graph, "lconv1d");
    x = convolve(x);
  }
  {
    const Graph::ScopeGuard guard(graph, "feed_forward2");
    x = last_(config_, x);
  }
  return last_norm_(clamp(x, config_.clip));
}

Value ConformerBlock::attend(Value x, Value distances) const {
  const Shape heads{config_.heads, config_.head_dim()};
  Value n = pre_attention_norm_(clamp(x, config_.clip));
  Value mixed = relative_attention(
      q_proj_(n).reshape(heads), k_proj_(n).reshape(heads), v_proj_(n).reshape(heads),
      linear(distances, distances_proj_).reshape(heads), per_dim_scale_, config_.attention);
  Value attended = clamp(post_(mixed.reshape({config_.width})), config_.clip);
  return add(x, post_attention_norm_(attended));
}

Value ConformerBlock::convolve(Value x) const {
  Value both = conv_start_(pre_conv_norm_(x));
  Value gated = act_mul(both.columns(config_.width, {config_.width}),
                        both.columns(0, {config_.width}), Unary::kSigmoid);
  Value convolved = conv_norm_(frame_conv(gated, taps_, config_.clip));
  return add(x, conv_end_(unary(convolved, config_.act)));
}

std::vector<float> distance_rows(const std::vector<int64_t>& positions, int64_t width) {
  const int64_t half = width / 2;
  const double step = std::log(1e4) / static_cast<double>(std::max<int64_t>(half - 1, 1));
  std::vector<float> out;
  for (const int64_t position : positions)
    for (const bool sine : {true, false})
      for (int64_t j = 0; j < half; ++j) {
        // In float32 step by step, as the official code has it.
        const float angle = static_cast<float>(position) *
                            std::exp(static_cast<float>(j) * static_cast<float>(-step));
        out.push_back(position < 0 ? 0.0f : sine ? std::sin(angle) : std::cos(angle));
      }
  return out;
}

}  // namespace decant::layers
