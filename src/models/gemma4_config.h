#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "layers/attention.h"
#include "layers/config.h"
#include "ops/experts.h"
#include "ops/rope.h"

namespace decant {

/// The text config of Gemma 4. What the references would guess differently must be written in it.
struct Gemma4Config {
  /// What the layers of one kind, sliding or full attention, have in common.
  struct Kind {
    layers::AttentionConfig attention;
    bool values_are_keys = false;  // one projection gives both, before norm and rotation
    std::shared_ptr<const RopeParams> rotation;
  };
  layers::DecoderConfig decoder;
  Kind sliding, full;
  std::vector<int> windows;    // by layer, 0: full attention
  std::vector<int> kv_source;  // by layer: which layer's keys and values it reads
  int num_owning = 0;          // layers that own keys and values come first
  std::vector<int64_t> inner;  // of the dense MLP, by layer
  int64_t ple_vocab_size = 0;
  int64_t ple_width = 0;    // 0: no per-layer inputs
  float logit_softcap = 0;  // 0: none
  int64_t num_experts = 0;  // 0: no experts
  int64_t expert_inner = 0;
  RouteParams routing;
  /// Placeholders of a picture see each other, in layers with a window.
  bool both_ways = false;
  int32_t pad_token = 0;

  /// `unified`: a gemma4_unified, whose config has no keys for per-layer inputs, for it has none.
  /// Errors: ConfigError.
  static Gemma4Config read(const ConfigReader& c, bool unified);
  const Kind& kind(int layer) const {
    return windows[static_cast<size_t>(layer)] > 0 ? sliding : full;
  }

 private:
  void read_kinds(const ConfigReader& c);
  void read_per_layer(const ConfigReader& c);
  void read_sharing(const ConfigReader& c);
  void read_experts(const ConfigReader& c);
};

}  // namespace decant
