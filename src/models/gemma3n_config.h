#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "layers/attention.h"
#include "layers/config.h"
#include "ops/rope.h"

namespace decant {

/// The text config of Gemma 3n; absent keys mean the E4B model, as in transformers.
struct Gemma3nConfig {
  layers::DecoderConfig decoder;
  layers::AttentionConfig attention;
  int64_t ple_vocab_size = 0, ple_width = 0, laurel_rank = 0;
  int64_t num_streams = 0, active_stream = 0;
  float coef_clip = 0;
  bool scale_output = true;
  float logit_softcap = 0;                // 0: none
  std::vector<int64_t> inner;             // of the MLP, by layer
  std::vector<std::optional<float>> cut;  // normal quantile of the sparsity, by layer
  std::vector<int> windows;               // by layer, 0: full attention
  std::vector<int> kv_source;             // by layer: which layer's keys and values it reads
  int num_owning = 0;                     // layers that own keys and values come first
  std::shared_ptr<const RopeParams> full_rotation, sliding_rotation;

  /// Errors: ConfigError.
  static Gemma3nConfig read(const ConfigReader& c);

 private:
  void read_windows(const ConfigReader& c);
  void read_sharing(const ConfigReader& c);
  void read_mlps(const ConfigReader& c);
};

}  // namespace decant
