#include "models/gemma4_vision.h"

#include <fmt/format.h>

#include <cmath>

#include "base/checked.h"
#include "layers/config.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "layers/rope.h"
#include "models/beside_towers.h"
#include "models/patch_grid.h"
#include "ops/attention.h"
#include "ops/binary.h"
#include "ops/features.h"
#include "ops/mlp.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rows.h"

namespace decant {
namespace {

/// Rows without weight, then the projection: what leads from a tower to the text model.
struct Embedder {
  layers::Linear projection;
  float eps;
  Embedder(const WeightScope& w, int64_t hidden, int64_t width, float norm_eps)
      : projection(w / "embedding_projection", hidden, width), eps(norm_eps) {}
  Value operator()(Value x) const { return projection(rms_norm(x, nullptr, eps)); }
};

struct VisionConfig {
  int64_t hidden = 0, inner = 0, layers = 0, heads = 0, head_dim = 0;
  int64_t patch = 0, pool = 0, positions = 0;
  bool standardize = false;
  float eps = 1e-6f;
  Unary act = Unary::kGeluTanh;
  std::shared_ptr<const RopeParams> rotation;

  static VisionConfig read(const ConfigReader& c) {
    VisionConfig out;
    out.hidden = layers::read_width(c, "hidden_size");
    out.inner = layers::read_width(c, "intermediate_size");
    out.layers = c.layers();
    out.heads = c.in_range("num_attention_heads", 1, 1024);
    out.head_dim = c.in_range_or("head_dim", out.hidden / out.heads, 4, 1024);
    if (out.head_dim % 4 != 0) c.fail("head_dim", "a multiple of 4");
    if (c.in_range_or("num_key_value_heads", out.heads, 1, 1024) != out.heads)
      c.fail("num_key_value_heads", fmt::format("num_attention_heads {}", out.heads));
    c.expect("attention_bias", false);
    out.patch = c.in_range_or("patch_size", 16, 1, 256);
    out.pool = c.in_range_or("pooling_kernel_size", 3, 1, 64);
    out.positions = c.in_range_or("position_embedding_size", 10240, 1, INT64_C(1) << 20);
    out.standardize = c.value_or("standardize", false);
    out.eps = layers::read_eps(c);
    out.act = layers::read_activation(c, "hidden_activation", "gelu_pytorch_tanh");
    const ConfigReader rope = c.object_or_empty("rope_parameters");
    out.rotation = layers::axial_rope(rope.number_in_range_or("rope_theta", 100.0, 1.0001, 1e12),
                                      out.head_dim, {2, 1});
    return out;
  }
  /// Half of a head turns by the column, half by the row, each pairing its own halves. The columns
  /// of q and k are reordered so that pairs lie half a head apart, which no product notices.
  std::vector<ColumnRun> head_order() const {
    std::vector<ColumnRun> runs;
    const int64_t quarter = head_dim / 4;
    for (int64_t h = 0; h < heads; ++h)
      for (const int64_t part : {0, 2, 1, 3})
        runs.push_back({h * head_dim + part * quarter, quarter});
    return runs;
  }
};

struct VisionLayer {
  layers::RmsNorm input_layernorm, post_attention_layernorm;
  layers::RmsNorm pre_feedforward_layernorm, post_feedforward_layernorm;
  layers::ClippedLinear q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
  layers::RmsNorm q_norm, k_norm;

  VisionLayer(const VisionConfig& c, const WeightScope& w)
      : input_layernorm(w / "input_layernorm", c.hidden, c.eps),
        post_attention_layernorm(w / "post_attention_layernorm", c.hidden, c.eps),
        pre_feedforward_layernorm(w / "pre_feedforward_layernorm", c.hidden, c.eps),
        post_feedforward_layernorm(w / "post_feedforward_layernorm", c.hidden, c.eps),
        q_proj(w / "self_attn" / "q_proj", c.heads * c.head_dim, c.hidden),
        k_proj(w / "self_attn" / "k_proj", c.heads * c.head_dim, c.hidden),
        v_proj(w / "self_attn" / "v_proj", c.heads * c.head_dim, c.hidden),
        o_proj(w / "self_attn" / "o_proj", c.hidden, c.heads * c.head_dim),
        gate_proj(w / "mlp" / "gate_proj", c.inner, c.hidden),
        up_proj(w / "mlp" / "up_proj", c.inner, c.hidden),
        down_proj(w / "mlp" / "down_proj", c.hidden, c.inner),
        q_norm(w / "self_attn" / "q_norm", c.head_dim, c.eps),
        k_norm(w / "self_attn" / "k_norm", c.head_dim, c.eps) {}

  /// h [N, D] -> [N, D]; `cache` holds this layer's keys and values afterwards.
  Value operator()(const VisionConfig& c, Value h, Value& cache) const {
    const Shape heads{c.heads, c.head_dim};
    Value n = input_layernorm(h);
    const auto turned = [&](const layers::ClippedLinear& projection, const layers::RmsNorm& norm) {
      Value x = norm(projection(n).reshape(heads));
      return rope(gather_columns(x, c.head_order(), heads), c.rotation);
    };
    cache = kv_append(turned(k_proj, k_norm), rms_norm(v_proj(n).reshape(heads), nullptr, c.eps),
                      cache);
    Value mixed = attention(turned(q_proj, q_norm), cache, 1.0f, 0, /*both_ways=*/true);
    h = add(h, post_attention_layernorm(o_proj(mixed)));
    n = pre_feedforward_layernorm(h);
    Value fed = down_proj(act_mul(gate_proj(n), up_proj(n), c.act));
    return add(h, post_feedforward_layernorm(fed));
  }
};

class Gemma4Vision final : public Tower {
 public:
  Gemma4Vision(const VisionConfig& config, int64_t hidden, const WeightScope& w,
               const WeightScope& embedder)
      : config_(config),
        input_proj_(w / "patch_embedder" / "input_proj", config.hidden,
                    3 * config.patch * config.patch),
        embedder_(embedder, hidden, config.hidden, config.eps) {
    const int64_t dims[] = {2, config.positions, config.hidden};
    table_ = (w / "patch_embedder").plain("position_embedding_table", dims, 2 * config.positions);
    for (int i = 0; i < config.layers; ++i)
      layers_.emplace_back(config, w / "encoder" / "layers" / i);
    if (config.standardize) {
      std_bias_ = w.vector("std_bias", Shape{config.hidden});
      std_scale_ = w.vector("std_scale", Shape{config.hidden});
    }
  }

  std::vector<KvSpec> kv() const override {
    return {{static_cast<int>(config_.heads), static_cast<int>(config_.head_dim)}};
  }
  int64_t rows(const TowerInput& input) const override { return grid(input).cells(config_.pool); }
  TowerSize size(const TowerInput& input) const override {
    const int64_t cell = config_.pool * config_.pool;
    const int tokens = rows_capacity(rows(input) * cell);
    return {{Phase::kPrefill, tokens, 1, narrow<int>(div_up(int64_t{tokens}, cell))}};
  }
  Value forward(Graph& graph, const TowerSize&) const override {
    const int64_t n = graph.capacity().tokens;
    Value patches = graph.input(kPatches, {DType::kF32, {n, input_proj_.weight->shape[1]}});
    Value ids = graph.input(kIds, {DType::kI32, {n, 2}});
    Value ones = graph.input(kShares, {DType::kF32, {n, 2}});
    Value h = add(input_proj_(patches), weighted_rows(ids, ones, table_));
    Value cache = graph.kv_cache(0, kv()[0]);
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Graph::ScopeGuard guard(graph, fmt::format("layers.{}", i));
      h = layers_[i](config_, h, cache);
    }
    Value pooled = scale(fold_rows(h, config_.pool * config_.pool, Fold::kMean),
                         std::sqrt(static_cast<float>(config_.hidden)));
    if (std_bias_ != nullptr) pooled = mul(binary(pooled, std_bias_, Binary::kSub), std_scale_);
    return embedder_(pooled);
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    const PatchGrid places = grid(input);
    const auto count = narrow<int32_t>(places.order.size());
    const auto width = static_cast<size_t>(input.shape[1]);
    std::vector<float>& patches = out.floats[kPatches];
    std::vector<int32_t>& ids = out.ints[kIds];
    patches.reserve(places.order.size() * width);
    for (int32_t i = 0; i < count; ++i) {
      const auto from = static_cast<size_t>(places.order[static_cast<size_t>(i)]);
      const auto [x, y] = input.positions[from];
      for (size_t k = 0; k < width; ++k)
        patches.push_back(2 * (input.values[from * width + k] - 0.5f));
      ids.push_back(x);
      ids.push_back(narrow<int32_t>(config_.positions) + y);
      out.batch.tokens.push_back(0);
      out.batch.positions.push_back(i);
      out.batch.sequence_of.push_back(0);
      out.batch.rope_positions.push_back({0, y, x});
      out.batch.last_seen.push_back(count - 1);
    }
    out.floats[kShares].assign(ids.size(), 1.0f);
    out.batch.sequences.push_back({0, count, 0, -1, 0});
    for (int32_t i = 0; i < places.cells(config_.pool); ++i) out.batch.outputs.push_back(i);
  }

 private:
  static constexpr int kPatches = 0, kIds = 1, kShares = 2;
  PatchGrid grid(const TowerInput& input) const {
    return read_patch_grid(input, input_proj_.weight->shape[1], config_.pool, config_.positions);
  }
  VisionConfig config_;
  layers::Linear input_proj_;
  const Weight* table_ = nullptr;
  std::vector<VisionLayer> layers_;
  const Weight *std_bias_ = nullptr, *std_scale_ = nullptr;
  Embedder embedder_;
};

constexpr float kLayerNormEps = 1e-5f;  // PyTorch's own

class Gemma4UnifiedVision final : public Tower {
 public:
  struct Sizes {
    int64_t values, width, positions;
    float eps;
  };
  Gemma4UnifiedVision(const Sizes& sizes, int64_t hidden, const WeightScope& w,
                      const WeightScope& embedder)
      : sizes_(sizes),
        patch_ln1_(w / "patch_ln1", sizes.values, kLayerNormEps),
        patch_ln2_(w / "patch_ln2", sizes.width, kLayerNormEps),
        pos_norm_(w / "pos_norm", sizes.width, kLayerNormEps),
        patch_dense_(w / "patch_dense", sizes.width, sizes.values, true),
        embedder_(embedder, hidden, sizes.width, sizes.eps) {
    const int64_t dims[] = {sizes.positions, 2, sizes.width};
    pos_embedding_ = w.plain("pos_embedding", dims, 2 * sizes.positions);
  }
  int64_t rows(const TowerInput& input) const override {
    return read_patch_grid(input, sizes_.values, 1, sizes_.positions).cells(1);
  }
  TowerSize size(const TowerInput& input) const override {
    const int tokens = rows_capacity(rows(input));
    return {{Phase::kPrefill, tokens, 1, 1}};
  }
  Value forward(Graph& graph, const TowerSize&) const override {
    const int64_t n = graph.capacity().tokens;
    Value cells = graph.input(kCells, {DType::kF32, {n, sizes_.values}});
    Value ids = graph.input(kIds, {DType::kI32, {n, 2}});
    Value ones = graph.input(kShares, {DType::kF32, {n, 2}});
    Value u = patch_ln2_(patch_dense_(patch_ln1_(cells)));
    return embedder_(pos_norm_(add(u, weighted_rows(ids, ones, pos_embedding_))));
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    const PatchGrid places = read_patch_grid(input, sizes_.values, 1, sizes_.positions);
    const auto width = static_cast<size_t>(sizes_.values);
    std::vector<float>& cells = out.floats[kCells];
    std::vector<int32_t>& ids = out.ints[kIds];
    for (const int32_t place : places.order) {
      const auto from = static_cast<size_t>(place);
      const auto [x, y] = input.positions[from];
      cells.insert(cells.end(), input.values.begin() + static_cast<int64_t>(from * width),
                   input.values.begin() + static_cast<int64_t>((from + 1) * width));
      ids.push_back(2 * x);
      ids.push_back(2 * y + 1);
      out.batch.tokens.push_back(0);
    }
    out.floats[kShares].assign(ids.size(), 1.0f);
  }

 private:
  static constexpr int kCells = 0, kIds = 1, kShares = 2;
  Sizes sizes_;
  layers::LayerNorm patch_ln1_, patch_ln2_, pos_norm_;
  layers::Linear patch_dense_;
  const Weight* pos_embedding_ = nullptr;
  Embedder embedder_;
};

class Gemma4UnifiedAudio final : public Tower {
 public:
  Gemma4UnifiedAudio(int64_t samples, int64_t hidden, float eps, const WeightScope& embedder)
      : samples_(samples), embedder_(embedder, hidden, samples, eps) {}
  int64_t rows(const TowerInput& input) const override {
    if (input.shape.size() != 2 || input.shape[0] < 1 || input.shape[1] != samples_)
      throw RequestError("[media] input_features: expected (frames, {}), got ({})", samples_,
                         fmt::join(input.shape, ", "));
    if (input.mask.empty()) return input.shape[0];
    return std::count(input.mask.begin(), input.mask.end(), uint8_t{1});
  }
  TowerSize size(const TowerInput& input) const override {
    return {{Phase::kPrefill, rows_capacity(rows(input)), 1, 1}};
  }
  Value forward(Graph& graph, const TowerSize&) const override {
    return embedder_(graph.input(0, {DType::kF32, {graph.capacity().tokens, samples_}}));
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    std::vector<float>& frames = out.floats[0];
    for (int64_t f = 0; f < input.shape[0]; ++f) {
      if (!input.mask.empty() && input.mask[static_cast<size_t>(f)] == 0) continue;
      frames.insert(frames.end(), input.values.begin() + f * samples_,
                    input.values.begin() + (f + 1) * samples_);
      out.batch.tokens.push_back(0);
    }
  }

 private:
  int64_t samples_;
  Embedder embedder_;
};

constexpr std::string_view kProjection = "embedding_projection.weight";

}  // namespace

std::unique_ptr<Tower> gemma4_vision(const ConfigReader& top, int64_t hidden,
                                     const WeightScope& root) {
  const auto tower = find_part(root, "vision_tower", "patch_embedder.input_proj.weight");
  const auto embedder = find_part(root, "embed_vision", kProjection);
  if (!tower || !embedder || !top.has("vision_config")) return nullptr;
  return std::make_unique<Gemma4Vision>(VisionConfig::read(top.object("vision_config")), hidden,
                                        *tower, *embedder);
}

std::unique_ptr<Tower> gemma4_unified_vision(const ConfigReader& top, int64_t hidden,
                                             const WeightScope& root) {
  const auto w = find_part(root, "vision_embedder", "patch_dense.weight");
  const auto embedder = find_part(root, "embed_vision", kProjection);
  if (!w || !embedder || !top.has("vision_config")) return nullptr;
  const ConfigReader c = top.object("vision_config");
  const int64_t side =
      c.in_range_or("patch_size", 16, 1, 256) * c.in_range_or("pooling_kernel_size", 3, 1, 64);
  const Gemma4UnifiedVision::Sizes sizes{3 * side * side, layers::read_width(c, "mm_embed_dim"),
                                         c.in_range_or("mm_posemb_size", 1120, 1, 1 << 20),
                                         layers::read_eps(c)};
  return std::make_unique<Gemma4UnifiedVision>(sizes, hidden, *w, *embedder);
}

std::unique_ptr<Tower> gemma4_unified_audio(const ConfigReader& top, int64_t hidden,
                                            const WeightScope& root) {
  const auto embedder = find_part(root, "embed_audio", kProjection);
  if (!embedder || !top.has("audio_config")) return nullptr;
  const ConfigReader c = top.object("audio_config");
  return std::make_unique<Gemma4UnifiedAudio>(layers::read_width_or(c, "audio_embed_dim", 640),
                                              hidden, layers::read_eps(c), *embedder);
}

}  // namespace decant
