// The vision tower of Gemma 3n: MobileNetV5 and the embedder that takes its features to the text
// model. Ids of its own range go through the embedder alone.
// Source  transformers, modeling_gemma3n.py; gemma3n.md section 4.
#include "models/gemma3n_vision.h"

#include <numeric>

#include "base/checked.h"
#include "base/errors.h"
#include "layers/mobilenet.h"
#include "models/gemma3n_embedder.h"

namespace decant {
namespace {

// Sides of a picture: five halvings leave a pixel, and activations fit any machine.
constexpr int64_t kLeastSide = 32, kMostSide = 1536;

enum Fixed : size_t { kIds, kHeight, kWidth };  // TowerSize::fixed

class Gemma3nVision final : public Tower {
 public:
  Gemma3nVision(const ConfigReader& c, int64_t hidden, const WeightScope& root)
      : width_(c.positive_or("hidden_size", 2048)),
        first_id_(c.in_range_or("vocab_offset", 262144, 0, INT32_MAX / 2)),
        id_count_(c.in_range_or("vocab_size", 128, 1, INT32_MAX / 2)),
        net_(root / "model" / "vision_tower" / "timm_model", width_),
        embedder_(root / "model" / "embed_vision", id_count_, width_, hidden,
                  static_cast<float>(c.positive_number_or("rms_norm_eps", 1e-6))) {}

  MediaSpec::TokenRange tokens() const {
    return {Medium::kImage, static_cast<int32_t>(first_id_), static_cast<int32_t>(id_count_)};
  }

  int64_t rows(const TowerInput& input) const override {
    if (input.ids.empty()) {
      check_picture(input);
      return layers::MobileNet::kSide * layers::MobileNet::kSide;
    }
    for (const int32_t id : input.ids)
      if (id < first_id_ || id >= first_id_ + id_count_)
        throw RequestError("[gemma3n] image token: expected {} to {}, got {}", first_id_,
                           first_id_ + id_count_ - 1, id);
    return std::ssize(input.ids);
  }
  TowerSize size(const TowerInput& input) const override {
    TowerSize size;
    if (input.ids.empty()) {
      size.fixed[kHeight] = input.shape[1];
      size.fixed[kWidth] = input.shape[2];
    } else {
      size.capacity.tokens = rows_capacity(std::ssize(input.ids));
      size.fixed[kIds] = 1;
    }
    return size;
  }
  Value forward(Graph& graph, const TowerSize& size) const override {
    if (size.fixed[kIds] != 0) {
      const Graph::ScopeGuard guard(graph, "embed_vision");
      return embedder_.hard(graph);
    }
    const int64_t height = size.fixed[kHeight], width = size.fixed[kWidth];
    Value features;
    {
      const Graph::ScopeGuard guard(graph, "vision_tower");
      const Value pixels = graph.input(0, {DType::kF32, {height * width, 3}, Rows::kFixed});
      features = net_({pixels, height, width});
    }
    const Graph::ScopeGuard guard(graph, "embed_vision");
    return embedder_.soft(scale(features, std::sqrt(static_cast<float>(width_))));
  }
  void feed(const TowerInput& input, TowerFeed& feed) const override {
    feed.batch.phase = Phase::kPrefill;
    if (input.ids.empty()) {
      // Planes become pixels.
      const size_t pixels = input.values.size() / 3;
      std::vector<float>& values = feed.floats[0];
      values.resize(input.values.size());
      for (size_t plane = 0; plane < 3; ++plane)
        for (size_t i = 0; i < pixels; ++i)
          values[3 * i + plane] = input.values[plane * pixels + i];
      return;
    }
    const auto count = narrow<int32_t>(std::ssize(input.ids));
    for (const int32_t id : input.ids)
      feed.batch.tokens.push_back(id - static_cast<int32_t>(first_id_));
    feed.batch.positions.resize(input.ids.size());
    std::iota(feed.batch.positions.begin(), feed.batch.positions.end(), 0);
    feed.batch.sequence_of.assign(input.ids.size(), 0);
    feed.batch.sequences.push_back({.first = 0, .count = count});
  }

 private:
  static void check_picture(const TowerInput& input) {
    const auto& shape = input.shape;
    const auto is_side = [](int64_t side) { return side >= kLeastSide && side <= kMostSide; };
    if (shape.size() != 3 || shape[0] != 3 || !is_side(shape[1]) || !is_side(shape[2]))
      throw RequestError("[gemma3n] picture: expected 3 planes with sides of {} to {}, got {}",
                         kLeastSide, kMostSide, fmt::format("({})", fmt::join(shape, ",")));
    if (std::ssize(input.values) != 3 * shape[1] * shape[2])
      throw RequestError("[gemma3n] picture: expected {} values, got {}", 3 * shape[1] * shape[2],
                         input.values.size());
  }

  int64_t width_, first_id_, id_count_;
  layers::MobileNet net_;
  Gemma3nEmbedder embedder_;
};

}  // namespace

std::unique_ptr<Tower> make_gemma3n_vision(const ConfigReader& top, int64_t hidden,
                                           const WeightScope& root, MediaSpec& media) {
  const WeightScope model = root / "model";
  const bool stored =
      (model / "vision_tower" / "timm_model" / "conv_stem" / "conv").has("weight") ||
      (model / "embed_vision" / "embedding").has("weight");
  if (!stored || !top.has("vision_config")) return nullptr;
  auto tower = std::make_unique<Gemma3nVision>(top.object("vision_config"), hidden, root);
  media.image_token = static_cast<int32_t>(top.in_range_or("image_token_id", 262145, 0, INT32_MAX));
  media.tower_tokens.push_back(tower->tokens());
  return tower;
}

}  // namespace decant
