#include "models/qwen3_5_vision.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/checked.h"
#include "layers/config.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "layers/rope.h"
#include "ops/attention.h"
#include "ops/binary.h"
#include "ops/features.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace decant {
namespace {

constexpr float kEps = 1e-6f;  // of every layer norm

struct VisionConfig {
  int64_t depth = 0, hidden = 0, inner = 0, heads = 0, head_dim = 0, out = 0;
  int64_t channels = 0, patch = 0, frames = 0, merge = 0;
  int64_t side = 0;  // of the square table of positions
  Unary act = Unary::kGeluTanh;
  std::shared_ptr<const RopeParams> rotation;

  static VisionConfig read(const ConfigReader& c, int64_t text_hidden) {
    VisionConfig out;
    out.depth = c.layers("depth");
    out.hidden = layers::read_width(c, "hidden_size");
    out.inner = layers::read_width(c, "intermediate_size");
    out.heads = c.in_range("num_heads", 1, 1024);
    if (out.hidden % (4 * out.heads) != 0)
      c.fail("num_heads", fmt::format("a divisor of hidden_size {} / 4", out.hidden));
    out.head_dim = out.hidden / out.heads;
    out.out = layers::read_width_or(c, "out_hidden_size", text_hidden);
    if (out.out != text_hidden)
      c.fail("out_hidden_size", fmt::format("the text model's {}", text_hidden));
    out.channels = c.in_range_or("in_channels", 3, 1, 16);
    out.patch = c.in_range_or("patch_size", 16, 1, 256);
    out.frames = c.in_range_or("temporal_patch_size", 2, 1, 16);
    out.merge = c.in_range_or("spatial_merge_size", 2, 1, 16);
    const int64_t positions = c.in_range_or("num_position_embeddings", 2304, 1, 1 << 24);
    out.side = std::llround(std::floor(std::sqrt(static_cast<double>(positions))));
    if (out.side * out.side != positions) c.fail("num_position_embeddings", "a square");
    out.act = layers::read_activation(c, "hidden_act", "gelu_pytorch_tanh");
    if (c.has("deepstack_visual_indexes") && !c.ints("deepstack_visual_indexes").empty())
      c.fail("deepstack_visual_indexes", "an empty list");
    const ConfigReader rope = c.object_or_empty("rope_parameters");
    const double theta = rope.number_in_range_or("rope_theta", 10000.0, 1.0001, 1e12);
    out.rotation = layers::axial_rope(theta, out.head_dim, {1, 2});
    return out;
  }
  int64_t values() const { return channels * frames * patch * patch; }
};

struct VisionBlock {
  layers::LayerNorm norm1, norm2;
  layers::Linear qkv, proj, linear_fc1, linear_fc2;
  VisionBlock(const VisionConfig& c, const WeightScope& w)
      : norm1(w / "norm1", c.hidden, kEps),
        norm2(w / "norm2", c.hidden, kEps),
        qkv(w / "attn" / "qkv", 3 * c.hidden, c.hidden, true),
        proj(w / "attn" / "proj", c.hidden, c.hidden, true),
        linear_fc1(w / "mlp" / "linear_fc1", c.inner, c.hidden, true),
        linear_fc2(w / "mlp" / "linear_fc2", c.hidden, c.inner, true) {}

  /// x [N, D] -> [N, D]; `cache` holds this block's keys and values afterwards.
  Value operator()(const VisionConfig& c, Value x, Value& cache) const {
    const Shape heads{c.heads, c.head_dim};
    Value all = qkv(norm1(x));
    cache = kv_append(rope(all.columns(c.hidden, heads), c.rotation),
                      all.columns(2 * c.hidden, heads), cache);
    const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
    Value mixed =
        attention(rope(all.columns(0, heads), c.rotation), cache, scale, 0, /*both_ways=*/true);
    x = add(x, proj(mixed));
    return add(x, linear_fc2(unary(linear_fc1(norm2(x)), c.act)));
  }
};

class Qwen35Vision final : public Tower {
 public:
  Qwen35Vision(const VisionConfig& config, bool channels_last, const WeightScope& w)
      : config_(config),
        channels_last_(channels_last),
        merger_norm_(w / "merger" / "norm", config.hidden, kEps),
        merger_fc1_(w / "merger" / "linear_fc1", folded(), folded(), true),
        merger_fc2_(w / "merger" / "linear_fc2", config.out, folded(), true) {
    const VisionConfig& c = config;
    const WeightScope embed = w / "patch_embed" / "proj";
    const int64_t official[] = {c.hidden, c.channels, c.frames, c.patch, c.patch};
    const int64_t converted[] = {c.hidden, c.frames, c.patch, c.patch, c.channels};
    patch_weight_ = embed.plain("weight", channels_last ? converted : official, c.hidden);
    patch_bias_ = embed.vector("bias", Shape{c.hidden});
    const int64_t table[] = {c.side * c.side, c.hidden};
    positions_ = (w / "pos_embed").plain("weight", table, table[0]);
    for (int i = 0; i < c.depth; ++i) blocks_.emplace_back(c, w / "blocks" / i);
  }

  std::vector<KvSpec> kv() const override {
    return {{static_cast<int>(config_.heads), static_cast<int>(config_.head_dim)}};
  }
  int64_t rows(const TowerInput& input) const override {
    const auto [t, h, w] = input.grid;
    const int64_t merge = config_.merge;
    constexpr int64_t kMost = INT64_C(1) << 20;
    if (t < 1 || h < 1 || w < 1 || t > kMost || h > kMost || w > kMost || h % merge != 0 ||
        w % merge != 0)
      throw RequestError(
          "[media] image_grid_thw: expected frames, rows and columns of patches, the latter "
          "multiples of {}, got {}, {}, {}",
          merge, t, h, w);
    if (input.shape != std::vector<int64_t>{t * h * w, config_.values()})
      throw RequestError("[media] pixel_values: expected ({}, {}) as the grid has it, got ({})",
                         t * h * w, config_.values(), fmt::join(input.shape, ", "));
    return t * h * w / (merge * merge);
  }
  TowerSize size(const TowerInput& input) const override {
    const int64_t cell = config_.merge * config_.merge;
    const int tokens = rows_capacity(rows(input) * cell);
    return {{Phase::kPrefill, tokens, narrow<int>(input.grid[0]),
             narrow<int>(div_up(int64_t{tokens}, cell))}};
  }
  Value forward(Graph& graph, const TowerSize&) const override {
    const int64_t n = graph.capacity().tokens;
    Value patches = graph.input(kPatches, {DType::kF32, {n, config_.values()}});
    Value ids = graph.input(kIds, {DType::kI32, {n, 4}});
    Value shares = graph.input(kShares, {DType::kF32, {n, 4}});
    Value x =
        add(linear(patches, patch_weight_, patch_bias_), weighted_rows(ids, shares, positions_));
    Value cache = graph.kv_cache(0, kv()[0]);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("blocks.{}", i));
      x = blocks_[i](config_, x, cache);
    }
    const Graph::ScopeGuard guard(graph, "merger");
    Value merged = fold_rows(merger_norm_(x), config_.merge * config_.merge, Fold::kConcat);
    return merger_fc2_(unary(merger_fc1_(merged), Unary::kGeluErf));
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    feed_patches(input, out.floats[kPatches]);
    const auto [frames, height, width] = input.grid;
    const auto count = narrow<int32_t>(height * width);
    std::vector<float>& shares = out.floats[kShares];
    std::vector<int32_t>& ids = out.ints[kIds];
    for (int32_t t = 0; t < frames; ++t) {
      out.batch.sequences.push_back({t * count, count, 0, -1, 0});
      for (int32_t i = 0; i < count; ++i) {
        const auto [row, column] = place(i, width);
        const Taps y = taps(row, height), x = taps(column, width);
        for (const auto& [yi, ys] : {std::pair{y.low, 1 - y.share}, std::pair{y.high, y.share}})
          for (const auto& [xi, xs] : {std::pair{x.low, 1 - x.share}, std::pair{x.high, x.share}}) {
            ids.push_back(narrow<int32_t>(yi * config_.side + xi));
            shares.push_back(ys * xs);
          }
        out.batch.tokens.push_back(0);
        out.batch.positions.push_back(i);
        out.batch.sequence_of.push_back(t);
        out.batch.rope_positions.push_back({0, narrow<int32_t>(row), narrow<int32_t>(column)});
        out.batch.last_seen.push_back(count - 1);
      }
    }
    for (int32_t i = 0; i < rows(input); ++i) out.batch.outputs.push_back(i);
  }

 private:
  static constexpr int kPatches = 0, kIds = 1, kShares = 2;
  struct Taps {
    int64_t low, high;
    float share;  // of the high one
  };
  int64_t folded() const { return config_.merge * config_.merge * config_.hidden; }

  /// Row and column of the i-th patch of a frame in merge-block order.
  std::pair<int64_t, int64_t> place(int64_t i, int64_t width) const {
    const int64_t m = config_.merge, blocks = width / m;
    return {i / (m * m * blocks) * m + i / m % m, i / (m * m) % blocks * m + i % m};
  }
  /// Where the i-th of `size` points spread over the table's side lies, corners on corners; in
  /// float32, as the official code has it.
  Taps taps(int64_t i, int64_t size) const {
    const float at = static_cast<float>(i) * static_cast<float>(config_.side - 1) /
                     static_cast<float>(std::max<int64_t>(size - 1, 1));
    const float low = std::floor(at);
    const auto first = static_cast<int64_t>(low);
    return {first, std::min(first + 1, config_.side - 1), at - low};
  }
  void feed_patches(const TowerInput& input, std::vector<float>& out) const {
    if (!channels_last_) {
      out = input.values;
      return;
    }
    // (channel, frame, row, column) becomes (frame, row, column, channel).
    out.resize(input.values.size());
    const auto channels = static_cast<size_t>(config_.channels);
    const auto values = static_cast<size_t>(config_.values());
    const size_t inner = values / channels;
    for (size_t patch = 0; patch < input.values.size(); patch += values)
      for (size_t c = 0; c < channels; ++c)
        for (size_t i = 0; i < inner; ++i)
          out[patch + i * channels + c] = input.values[patch + c * inner + i];
  }

  VisionConfig config_;
  bool channels_last_;
  const Weight *patch_weight_ = nullptr, *patch_bias_ = nullptr, *positions_ = nullptr;
  std::vector<VisionBlock> blocks_;
  layers::LayerNorm merger_norm_;
  layers::Linear merger_fc1_, merger_fc2_;
};

}  // namespace

std::unique_ptr<Tower> qwen3_5_vision(const ConfigReader& top, int64_t hidden,
                                      const WeightScope& root) {
  if (!top.has("vision_config")) return nullptr;
  for (const char* name : {"model.visual", "visual", "vision_tower", "model.language_model.visual",
                           "model.vision_tower"}) {
    const WeightScope w = root / name;
    const std::vector<int64_t> kernel = w.dims("patch_embed.proj.weight");
    if (kernel.empty() && !w.has("patch_embed.proj.weight")) continue;
    const VisionConfig config = VisionConfig::read(top.object("vision_config"), hidden);
    const bool channels_last =
        kernel.size() == 5 && kernel.back() == config.channels && kernel[1] != config.channels;
    return std::make_unique<Qwen35Vision>(config, channels_last, w);
  }
  return nullptr;
}

}  // namespace decant
