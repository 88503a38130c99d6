#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "layers/attention.h"
#include "layers/config.h"
#include "layers/gated_delta_net.h"
#include "layers/moe.h"
#include "ops/rope.h"

namespace decant {

/// The members of the hybrid family.
enum class Qwen35Kind : uint8_t { kDense, kMoe, kNext };

/// The text config of Qwen3.5 and its relatives.
struct Qwen35Config {
  layers::DecoderConfig decoder;
  layers::AttentionConfig attention;
  layers::GatedDeltaNetConfig delta;
  layers::MoeConfig moe;           // no experts: every layer is dense
  int64_t inner = 0;               // of a dense MLP
  int64_t shared_inner = 0;        // of the shared expert
  std::vector<bool> is_attention;  // by layer; the others are gated delta nets
  std::shared_ptr<const RopeParams> rotation;

  /// Keys of Qwen3.5 that `config` (the whole file) or its text part lack, as transformers fills
  /// them in.
  static Json with_defaults(const Json& config, Qwen35Kind kind);
  /// Errors: ConfigError.
  static Qwen35Config read(const ConfigReader& text, Qwen35Kind kind);

 private:
  void read_layers(const ConfigReader& c);
  void read_rotation(const ConfigReader& c);
};

}  // namespace decant
