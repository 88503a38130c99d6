#pragma once

// Helpers of tests above the graph: a small model of the test's own, and a backend that can fail.

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "models/model.h"
#include "ops/attention.h"
#include "ops/binary.h"
#include "ops/case.h"
#include "ops/embed.h"
#include "ops/features.h"
#include "ops/leaky_sum.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/unary.h"

namespace decant::testing {

struct TestModelOptions {
  int window = 40;         // of the second attention layer
  bool recurrent = false;  // adds a leaky sum between them
  int64_t vocab = 96;
  int64_t context = 1024;
  Format format = Format::dense(DType::kF32);
  bool media = false;      // takes pictures: rows that are features as they come
  bool both_ways = false;  // which see each other in the layer with a window
  int merge = 0;           // and have axes of their own
  static constexpr int32_t kPicture = 90, kTowerToken = 80;
};

/// Features are the values of a picture [rows, hidden], or constants for tokens it stands for.
class TestTower final : public Tower {
 public:
  explicit TestTower(int64_t hidden) : hidden_(hidden) {}
  int64_t rows(const TowerInput& input) const override {
    return input.ids.empty() ? input.shape.at(0) : std::ssize(input.ids);
  }
  TowerSize size(const TowerInput& input) const override {
    return {{Phase::kPrefill, rows_capacity(rows(input)), 1, 1}};
  }
  Value forward(Graph& graph, const TowerSize&) const override {
    return scale(graph.input(0, {DType::kF32, {graph.capacity().tokens, hidden_}}), 1);
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    out.batch.tokens.assign(static_cast<size_t>(rows(input)), 0);
    out.floats[0] = input.values;
    for (const int32_t id : input.ids)
      out.floats[0].insert(out.floats[0].end(), static_cast<size_t>(hidden_),
                           static_cast<float>(id));
  }

 private:
  int64_t hidden_;
};

/// Full attention, a recurrent layer if asked for, sliding attention, head. The last token's
/// embedding is NaN: a prompt that has it gives NaN logits, and
/// no answer ever has it.
class TestModel final : public Model {
 public:
  static constexpr int64_t kHidden = 64;
  static constexpr int kHeads = 4, kKvHeads = 2, kDim = 16;

  explicit TestModel(const TestModelOptions& options = {})
      : bank_({Phase::kDecode, 1, 1, 1}, 11), options_(options) {
    spec_.model_type = "test";
    spec_.vocab_size = options.vocab;
    spec_.hidden_size = kHidden;
    spec_.max_position_embeddings = options.context;
    spec_.windows = {0, options.window};
    spec_.kv = {{kKvHeads, kDim, 0, 0}, {kKvHeads, kDim, options.window, 1}};
    if (options.recurrent) spec_.states = {{kHidden, kHidden, 1}};
    if (options.media) {
      spec_.media.image_token = TestModelOptions::kPicture;
      spec_.media.tower_tokens = {{Medium::kImage, TestModelOptions::kTowerToken, 2}};
      spec_.media.both_ways = options.both_ways;
      spec_.media.longest_span = 100;
      spec_.media.merge = options.merge;
    }
    embed_ = bank_.matrix(options.vocab, kHidden, Format::dense(DType::kF32));
    auto* nan_row = const_cast<std::byte*>(embed_->view().data) + (options.vocab - 1) * kHidden * 4;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (int64_t i = 0; i < kHidden; ++i) std::memcpy(nan_row + i * 4, &nan, 4);
    for (auto& layer : layers_) {
      layer.norm = bank_.vector({kHidden}, 1.0f, 0.1f);
      layer.q = bank_.matrix(kHeads * kDim, kHidden, options.format);
      layer.k = bank_.matrix(kKvHeads * kDim, kHidden, options.format);
      layer.v = bank_.matrix(kKvHeads * kDim, kHidden, options.format);
      layer.o = bank_.matrix(kHidden, kHeads * kDim, options.format);
    }
    gate_ = bank_.vector({kHidden}, 0.5f, 0.1f);
    head_norm_ = bank_.vector({kHidden}, 3.0f, 0.1f);
    head_ = bank_.matrix(options.vocab, kHidden, options.format);
    head_bias_ = bank_.vector({options.vocab}, 0.0f, 0.1f);
    const float never = -1e4f;
    std::memcpy(const_cast<std::byte*>(head_bias_->view().data) + (options.vocab - 1) * 4, &never,
                4);
    rope_ = std::make_shared<RopeParams>();
    for (int i = 0; i < kDim / 2; ++i)
      rope_->inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / kDim));
  }

  const ModelSpec& spec() const override { return spec_; }
  const Tower* tower(Medium medium) const override {
    return options_.media && medium == Medium::kImage ? &tower_ : nullptr;
  }
  /// A picture whose features are these tokens' embeddings.
  std::shared_ptr<TowerInput> picture_of(std::span<const int32_t> tokens) const {
    auto input = std::make_shared<TowerInput>();
    input->shape = {std::ssize(tokens), kHidden};
    for (const int32_t token : tokens) {
      std::vector<float> row(kHidden);
      dequantize_row(embed_->view(), token, row.data());
      input->values.insert(input->values.end(), row.begin(), row.end());
    }
    return input;
  }
  Value forward(Graph& graph) const override {
    Value x = embed(graph, embed_);
    if (graph.capacity().features) x = merge_features(x, graph.input(kFeatureInput, x.type()));
    x = attend(graph, x, 0);
    if (options_.recurrent) x = add(x, leaky_sum(x, gate_, graph.state(0, spec_.states[0])).first);
    x = attend(graph, x, 1);
    return linear(rms_norm(narrow_rows(x), head_norm_, 1e-6f), head_, head_bias_);
  }

 private:
  struct Layer {
    const Weight *norm, *q, *k, *v, *o;
  };
  Value attend(Graph& graph, Value x, int i) const {
    const Layer& w = layers_[i];
    const Value y = rms_norm(x, w.norm, 1e-6f);
    const Value q = rope(linear(y, w.q).reshape({kHeads, kDim}), rope_);
    const Value k = rope(linear(y, w.k).reshape({kKvHeads, kDim}), rope_);
    const Value v = linear(y, w.v).reshape({kKvHeads, kDim});
    const Value cache = kv_append(k, v, graph.kv_cache(i, spec_.kv[static_cast<size_t>(i)]));
    const bool spans = options_.both_ways && i == 1 && graph.capacity().features;
    const Value a = attention(q, cache, 0.25f, 0, spans).reshape({kHeads * kDim});
    return add(x, linear(a, w.o));
  }

  CaseBuilder bank_;
  TestModelOptions options_;
  TestTower tower_{kHidden};
  ModelSpec spec_;
  const Weight* embed_;
  Layer layers_[2];
  const Weight* gate_;
  const Weight* head_norm_;
  const Weight* head_;
  const Weight* head_bias_;
  std::shared_ptr<RopeParams> rope_;
};

/// Passes everything on to another backend, and shows every batch to `before_run`, which may throw.
class WatchedBackend final : public Backend {
 public:
  using Hook = std::function<void(const Capacity&, const Batch&)>;
  explicit WatchedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  Hook before_run;
  int64_t free = 0;  // 0: the inner backend's
  bool maps = false;

  std::string_view name() const override { return inner_->name(); }
  std::string description() const override { return inner_->description(); }
  std::unique_ptr<Pools> make_pools(const PoolSpec& spec) override {
    return inner_->make_pools(spec);
  }
  std::unique_ptr<Program> compile(const Graph& graph, Pools& pools,
                                   const CompileOptions& options) override {
    return std::make_unique<Watched>(inner_->compile(graph, pools, options), *this);
  }
  int64_t free_bytes() const override { return free > 0 ? free : inner_->free_bytes(); }
  bool maps_weights() const override { return maps; }
  bool takes_media() const override { return inner_->takes_media(); }

 private:
  class Watched final : public Program {
   public:
    Watched(std::unique_ptr<Program> inner, WatchedBackend& backend)
        : inner_(std::move(inner)), backend_(backend) {}
    const Graph& graph() const override { return inner_->graph(); }
    const Capacity& capacity() const override { return inner_->capacity(); }
    int64_t arena_bytes() const override { return inner_->arena_bytes(); }
    void set_input(int index, std::span<const float> v) override { inner_->set_input(index, v); }
    void set_input(int index, std::span<const int32_t> v) override { inner_->set_input(index, v); }
    void run(const Batch& batch) override {
      if (backend_.before_run) backend_.before_run(capacity(), batch);
      inner_->run(batch);
    }
    std::span<const float> output(int index) const override { return inner_->output(index); }
    std::span<const int32_t> int_output(int index) const override {
      return inner_->int_output(index);
    }

   private:
    std::unique_ptr<Program> inner_;
    WatchedBackend& backend_;
  };
  std::unique_ptr<Backend> inner_;
};

/// Deterministic token ids below `vocab`, different for every `seed`.
inline std::vector<int32_t> random_tokens(size_t count, uint64_t seed, int64_t vocab = 95) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens)
    token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
  return tokens;
}

}  // namespace decant::testing
