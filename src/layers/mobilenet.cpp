#include "layers/mobilenet.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/binary.h"
#include "ops/blend_rows.h"
#include "ops/norm.h"
#include "ops/rows.h"
#include "ops/token_attention.h"
#include "ops/unary.h"

namespace decant::layers {
namespace {

constexpr float kEps = 1e-6f;
constexpr int kStages = 4;
constexpr int64_t kMostBlocks = 4096;

Picture resized(const Picture& x, int64_t height, int64_t width, const RowBlend& blend) {
  return {blend_rows(x.pixels, blend), height, width};
}

}  // namespace

/// Builds convolutions by the shapes of their weights.
struct MobileNet::Reader {
  bool channels_last;  // for kernels whose shape fits both orders

  /// Rows of the weight at this path (results of the convolution), or `fallback` where the file has
  /// no such tensor: then that is what will be reported as missing.
  static int64_t rows_of(const WeightScope& w, int64_t fallback) {
    const auto dims = w.dims("weight");
    return dims.size() == 4 ? std::clamp<int64_t>(dims[0], 1, 1 << 20) : fallback;
  }
  /// Side of the window of the weight at this path: the third dimension in both orders.
  static int64_t side_of(const WeightScope& w, int64_t fallback) {
    const auto dims = w.dims("weight");
    return dims.size() == 4 ? std::clamp<int64_t>(dims[2], 1, 63) : fallback;
  }

  /// `channels` goes from what the convolution takes to what it gives.
  Convolution dense(const WeightScope& w, const WeightScope& norm, int64_t& channels, int64_t out,
                    int64_t size, int64_t stride, bool activated) const {
    Convolution made;
    made.weight = w.kernel({out, channels, size, size, channels_last});
    made.norm = norm.vector("weight", Shape{out});
    made.size = size;
    made.stride = stride;
    made.activated = activated;
    channels = out;
    return made;
  }
  /// One pixel to one pixel, without a norm.
  Convolution pointwise(const WeightScope& w, int64_t in, int64_t out) const {
    Convolution made;
    made.weight = w.kernel({out, in, 1, 1, channels_last});
    return made;
  }
  Convolution pointwise(const WeightScope& w, int64_t& channels, int64_t out,
                        bool activated) const {
    return dense(w / "conv", w / "bn", channels, out, 1, 1, activated);
  }
  static Convolution depthwise(const WeightScope& w, const WeightScope& norm, int64_t channels,
                               int64_t stride, bool activated) {
    Convolution made;
    made.size = side_of(w, 3);
    made.weight = w.taps(channels, made.size, made.size);
    made.norm = norm.vector("weight", Shape{channels});
    made.stride = stride;
    made.depthwise = true;
    made.activated = activated;
    return made;
  }

  /// A full convolution that widens, then one that narrows.
  Residual edge_residual(const WeightScope& w, int64_t& channels, int64_t stride) const {
    const int64_t in = channels;
    Residual block;
    block.steps.push_back(dense(w / "conv_exp", w / "bn1", channels,
                                rows_of(w / "conv_exp", 4 * in), side_of(w / "conv_exp", 3), stride,
                                true));
    block.steps.push_back(
        dense(w / "conv_pwl", w / "bn2", channels, rows_of(w / "conv_pwl", in), 1, 1, false));
    block.skip = stride == 1 && channels == in;
    return block;
  }
  /// The same with the window apart from the widening: before it, after it, both or neither.
  Residual inverted_residual(const WeightScope& w, int64_t& channels, int64_t stride, int64_t out,
                             bool scaled) const {
    const int64_t in = channels;
    const WeightScope start = w / "dw_start", middle = w / "dw_mid";
    // The stride is the middle window's where there is one.
    const bool has_middle = (middle / "conv").has("weight");
    const bool has_start = (start / "conv").has("weight") || (stride > 1 && !has_middle);
    Residual block;
    if (has_start)
      block.steps.push_back(
          depthwise(start / "conv", start / "bn", channels, has_middle ? 1 : stride, false));
    const WeightScope expand = w / "pw_exp";
    block.steps.push_back(
        pointwise(expand, channels, rows_of(expand / "conv", 2 * channels), true));
    if (has_middle)
      block.steps.push_back(depthwise(middle / "conv", middle / "bn", channels, stride, true));
    block.steps.push_back(pointwise(w / "pw_proj", channels, out, false));
    if (scaled) block.gamma = (w / "layer_scale").vector("gamma", Shape{out});
    block.skip = scaled && stride == 1 && out == in;
    return block;
  }
  /// Attention whose heads share one key and one value, which may come from a smaller picture.
  Attention attention(const WeightScope& w, int64_t channels) const {
    const WeightScope attn = w / "attn";
    Attention block;
    block.norm = (w / "norm").vector("weight", Shape{channels});
    block.gamma = (w / "layer_scale").vector("gamma", Shape{channels});
    block.head_dim = rows_of(attn / "key" / "proj", 64);
    int64_t wide = rows_of(attn / "query" / "proj", block.head_dim);
    // Not a whole number of heads: asked for as the nearest, so that it is reported.
    wide = std::max<int64_t>(1, wide / block.head_dim) * block.head_dim;
    block.query = pointwise(attn / "query" / "proj", channels, wide);
    for (auto& [steps, name] : {std::pair(&block.key, "key"), std::pair(&block.value, "value")}) {
      const WeightScope path = attn / name;
      if ((path / "down_conv").has("weight"))
        steps->push_back(depthwise(path / "down_conv", path / "norm", channels, 2, false));
      steps->push_back(pointwise(path / "proj", channels, block.head_dim));
    }
    block.output = pointwise(attn / "output" / "proj", wide, channels);
    return block;
  }
};

MobileNet::MobileNet(const WeightScope& scope, int64_t width) {
  const WeightScope blocks = scope / "blocks";
  const auto first = (blocks / 0 / 0 / "conv_exp").dims("weight");
  const Reader reader{first.size() == 4 && first[3] > first[1]};
  const WeightScope stem = scope / "conv_stem";
  int64_t channels = 3;
  stem_ = reader.dense(stem / "conv", stem / "bn", channels, Reader::rows_of(stem / "conv", 64), 3,
                       2, true);
  if ((stem / "conv").has("bias")) stem_.bias = (stem / "conv").vector("bias", Shape{channels});

  int64_t before = 0;  // channels after the last stage but one
  for (int s = 0; s < kStages; ++s) {
    std::vector<Block>& stage = stages_.emplace_back();
    before = channels;
    for (int i = 0; i < kMostBlocks; ++i) {
      const WeightScope block = blocks / s / i;
      const int64_t stride = i == 0 ? 2 : 1;
      const WeightScope project = block / "pw_proj" / "conv";
      if ((block / "attn" / "query" / "proj").has("weight"))
        stage.emplace_back(reader.attention(block, channels));
      else if ((block / "pw_exp" / "conv").has("weight"))
        stage.emplace_back(reader.inverted_residual(block, channels, stride,
                                                    Reader::rows_of(project, channels), true));
      else if (i == 0 || (block / "conv_exp").has("weight"))
        stage.emplace_back(reader.edge_residual(block, channels, stride));
      else
        break;
    }
  }
  const WeightScope msfa = scope / "msfa";
  channels += before;
  fusion_ = reader.inverted_residual(msfa / "ffn", channels, 1, width, false);
  norm_ = (msfa / "norm").vector("weight", Shape{width});
}

Picture MobileNet::Convolution::operator()(const Picture& x) const {
  const Window2d window = Window2d::same(x.height, x.width, size, stride);
  Value y = depthwise ? depthwise_conv2d(x.pixels, weight, window)
                      : conv2d(x.pixels, weight, window, bias);
  if (norm != nullptr) y = rms_norm(y, norm, kEps);
  if (activated) y = unary(y, Unary::kGeluTanh);
  return {y, window.out_height(), window.out_width()};
}

Picture MobileNet::Residual::operator()(const Picture& x) const {
  Picture y = x;
  for (const Convolution& step : steps) y = step(y);
  if (gamma != nullptr) y.pixels = mul(y.pixels, gamma);
  if (skip) y.pixels = add(x.pixels, y.pixels);
  return y;
}

Picture MobileNet::Attention::operator()(const Picture& x) const {
  const Picture normed{rms_norm(x.pixels, norm, kEps), x.height, x.width};
  const auto heads = [&](const std::vector<Convolution>& steps) {
    Picture y = normed;
    for (const Convolution& step : steps) y = step(y);
    return y.pixels.reshape({1, head_dim});
  };
  const Value q = query(normed).pixels;
  const Value attended =
      token_attention(q.reshape({q.type().width() / head_dim, head_dim}), heads(key), heads(value),
                      1 / std::sqrt(static_cast<float>(head_dim)));
  const Picture flat{attended.reshape({q.type().width()}), x.height, x.width};
  return {add(x.pixels, mul(output(flat).pixels, gamma)), x.height, x.width};
}

Value MobileNet::operator()(const Picture& picture) const { return (*this)(picture, nullptr); }

Value MobileNet::operator()(const Picture& picture, std::vector<Picture>* stages) const {
  Graph& graph = picture.pixels.graph();
  Picture x = stem_(picture), fine;
  for (size_t s = 0; s < stages_.size(); ++s) {
    for (size_t i = 0; i < stages_[s].size(); ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("blocks.{}.{}", s, i));
      x = std::visit([&](const auto& block) { return block(x); }, stages_[s][i]);
    }
    if (stages != nullptr) stages->push_back(x);
    if (s + 2 == stages_.size()) fine = x;
  }
  const Graph::ScopeGuard guard(graph, "msfa");
  x = resized(x, fine.height, fine.width,
              RowBlend::nearest(x.height, x.width, fine.height, fine.width));
  const int64_t channels = fine.pixels.type().width() + x.pixels.type().width();
  const std::array<Value, 2> both{fine.pixels, x.pixels};
  Picture fused = fusion_({concat(both, {channels}), fine.height, fine.width});
  if (fine.height % kSide != 0 || fine.width % kSide != 0)
    fused = resized(fused, kSide, kSide, RowBlend::bilinear(fine.height, fine.width, kSide, kSide));
  else if (fine.height != kSide || fine.width != kSide)
    fused =
        resized(fused, kSide, kSide, RowBlend::average_pool(fine.height, fine.width, kSide, kSide));
  return rms_norm(fused.pixels, norm_, kEps);
}

}  // namespace decant::layers
