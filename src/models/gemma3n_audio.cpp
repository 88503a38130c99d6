#include "models/gemma3n_audio.h"

#include <fmt/format.h>

#include <array>

#include "base/errors.h"
#include "layers/config.h"
#include "models/beside_towers.h"
#include "models/gemma3n_audio_encoder.h"
#include "models/gemma3n_embedder.h"
#include "ops/frames.h"

namespace decant {
namespace {

class Gemma3nAudio final : public Tower {
 public:
  Gemma3nAudio(const Gemma3nAudioEncoder& encoder, const Gemma3nEmbedder& embedder,
               const MediaSpec::TokenRange& ids, int64_t tokens)
      : encoder_(encoder), embedder_(embedder), ids_(ids), tokens_(tokens) {}

  int64_t rows(const TowerInput& input) const override {
    if (input.ids.empty()) {
      const int64_t soft = encoder_.rows(encoder_.cut(input).frames);
      if (soft > tokens_)
        throw RequestError("[media] input_features: expected a sound of at most {} tokens, got {}",
                           tokens_, soft);
      return tokens_;
    }
    for (const int32_t id : input.ids)
      if (id < ids_.first || id - ids_.first >= ids_.count)
        throw RequestError("[media] audio token: expected {} to {}, got {}", ids_.first,
                           ids_.first + ids_.count - 1, id);
    return std::ssize(input.ids);
  }
  TowerSize size(const TowerInput& input) const override {
    if (!input.ids.empty()) return {{Phase::kPrefill, rows_capacity(rows(input)), 1, 1}};
    return {{Phase::kPrefill, 1, 1, 1}, encoder_.cut(input).fixed()};
  }
  Value forward(Graph& graph, const TowerSize& size) const override {
    const bool sound = size.fixed != std::array<int64_t, 4>{};
    const Value encoded = sound ? encoder_(graph, size.fixed) : Value();
    const Graph::ScopeGuard guard(graph, "embed_audio");
    const Value hard = embedder_.hard(graph);
    if (!sound) return hard;
    const Value soft = embedder_.soft(encoded);
    // The one row that fills up what the sound is too short for comes last.
    std::vector<int64_t> rows;
    for (int64_t i = 0; i <= soft.shape()[0]; ++i) rows.push_back(i);
    return pick_rows(std::array{soft, hard}, std::move(rows));
  }
  void feed(const TowerInput& input, TowerFeed& out) const override {
    for (const int32_t id : input.ids) out.batch.tokens.push_back(id - ids_.first);
    if (!input.ids.empty()) return;
    out.batch.tokens.push_back(ids_.count - 1);
    const Gemma3nAudioEncoder::Cut cut = encoder_.cut(input);
    if (cut.frames > 0) encoder_.feed(input, cut, out);
  }
  std::vector<int64_t> taken(const TowerInput& input) const override {
    std::vector<int64_t> places;
    if (!input.ids.empty()) return places;
    const int64_t soft = encoder_.rows(encoder_.cut(input).frames);
    for (int64_t i = 0; i < tokens_; ++i) places.push_back(std::min(i, soft));
    return places;
  }

 private:
  Gemma3nAudioEncoder encoder_;
  Gemma3nEmbedder embedder_;
  MediaSpec::TokenRange ids_;  // the last of them stands where a sound is too short
  int64_t tokens_;             // rows of every sound
};

}  // namespace

std::unique_ptr<Tower> make_gemma3n_audio(const ConfigReader& top, int64_t hidden,
                                          int64_t vocab_size, const WeightScope& root,
                                          MediaSpec& media) {
  const auto tower =
      find_part(root, "audio_tower", "subsample_conv_projection.input_proj_linear.weight");
  const auto part = find_part(root, "embed_audio", "embedding.weight");
  if (!tower || !part || !top.has("audio_config")) return nullptr;
  const ConfigReader c = top.object("audio_config");
  const Gemma3nAudioConfig config = Gemma3nAudioConfig::read(c);
  const auto first = c.in_range_or("vocab_offset", 262272, 0, layers::kMaxWidth);
  const auto count = c.in_range_or("vocab_size", 128, 1, layers::kMaxWidth);
  // A sound that is too short is filled up with the last id of all.
  if (first + count != vocab_size)
    c.fail("vocab_offset", fmt::format("the last {} ids of {}", count, vocab_size));
  const MediaSpec::TokenRange ids{Medium::kAudio, static_cast<int32_t>(first),
                                  static_cast<int32_t>(count)};
  media.audio_token =
      static_cast<int32_t>(top.in_range_or("audio_token_id", 262273, 0, vocab_size - 1));
  media.tower_tokens.push_back(ids);
  return std::make_unique<Gemma3nAudio>(
      Gemma3nAudioEncoder(config, *tower),
      Gemma3nEmbedder(*part, count, config.conformer.width, hidden, layers::read_eps(c)), ids,
      top.in_range_or("audio_soft_tokens_per_image", 188, 1, 1 << 16));
}

}  // namespace decant
