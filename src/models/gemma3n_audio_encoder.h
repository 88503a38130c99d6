#pragma once

#include <array>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "layers/conformer.h"
#include "models/tower.h"

namespace decant {

/// `audio_config` of Gemma 3n; absent keys mean the released models.
struct Gemma3nAudioConfig {
  int64_t features = 0;  // of a mel frame
  int64_t layers = 0;
  int64_t reduction = 0;              // frames after the conformer of which one is kept
  std::array<int64_t, 2> channels{};  // of the two convolutions
  float conv_eps = 1e-3f;             // of their norms
  layers::ConformerConfig conformer;

  /// Errors: ConfigError.
  static Gemma3nAudioConfig read(const ConfigReader& c);

 private:
  void read_conformer(const ConfigReader& c);
};

/// Gemma 3n's audio encoder: mel frames through two convolutions, each with a norm over all of the
/// sound so far, and a conformer, of whose frames one in four is kept.
/// Source  transformers, Gemma3nAudioEncoder; gemma3n.md section 5.
class Gemma3nAudioEncoder {
 public:
  /// What of a sound the program takes. Invalid frames follow the valid ones, and a valid row looks
  /// ahead through the convolutions alone: what they do not reach is cut off.
  struct Cut {
    int64_t mel = 0;     // mel frames the first convolution reads, some of them invalid
    int64_t middle = 0;  // frames between the convolutions
    int64_t frames = 0;  // valid ones after them
    Cut(int64_t valid, int64_t all);
    std::array<int64_t, 4> fixed() const { return {mel, middle, frames, 0}; }
  };

  Gemma3nAudioEncoder(const Gemma3nAudioConfig& config, const WeightScope& w);
  /// Errors: RequestError for shapes and masks that are not the family's.
  Cut cut(const TowerInput& input) const;
  /// Rows for a sound of so many valid frames after the convolutions.
  int64_t rows(int64_t frames) const;
  /// [rows, width] of a sound cut to TowerSize::fixed. Takes the graph's inputs 0 and 1.
  Value operator()(Graph& graph, const std::array<int64_t, 4>& fixed) const;
  void feed(const TowerInput& input, const Cut& cut, TowerFeed& out) const;

 private:
  static constexpr int kFeatures = 0, kDistances = 1;
  Gemma3nAudioConfig config_;
  std::array<const Weight*, 2> kernels_{}, norms_{};
  const Weight* input_proj_ = nullptr;
  std::vector<layers::ConformerBlock> blocks_;
};

}  // namespace decant
