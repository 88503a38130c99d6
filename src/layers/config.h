#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "ops/unary.h"

namespace decant::layers {

/// Largest width of a matrix (hidden sizes, vocabularies, heads times head size) and largest number
/// of experts a config may name: far above real models, and such that the element count of any
/// table of matrices fits 64 bits.
inline constexpr int64_t kMaxWidth = INT64_C(1) << 24;
inline constexpr int64_t kMaxExperts = INT64_C(1) << 14;

/// A width: 1 to kMaxWidth.
int64_t read_width(const ConfigReader& config, std::string_view key);
int64_t read_width_or(const ConfigReader& config, std::string_view key, int64_t fallback);

/// `rms_norm_eps`: above 0, at most 1; absent: 1e-6.
float read_eps(const ConfigReader& config, std::string_view key = "rms_norm_eps");

/// The activation named at `key`; absent: `fallback`. Errors: ConfigError naming the known ones.
Unary read_activation(const ConfigReader& config, std::string_view key, std::string_view fallback);

/// `eos_token_id`: one id or a list of at most 64; absent: none.
std::vector<int32_t> read_eos(const ConfigReader& config);

/// What every decoder has: its sizes, and whether the head is the embedding table.
struct DecoderConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t max_positions = 0;
  float eps = 1e-6f;

  /// Sizes must be there; `max_positions` is the family's default for max_position_embeddings.
  static DecoderConfig read(const ConfigReader& config, int64_t max_positions);
};

/// `tie_word_embeddings`; where the key is absent a model is tied iff it has no `lm_head.weight`.
bool read_tied(const ConfigReader& config, const WeightScope& root);

}  // namespace decant::layers
