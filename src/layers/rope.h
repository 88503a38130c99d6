#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "checkpoint/config_reader.h"
#include "ops/rope.h"

namespace decant::layers {

/// Where a config describes a kind of rotation: in `rope_parameters` (for one kind of layer:
/// `rope_parameters.<layer_type>`), or in a theta of its own and `rope_scaling`.
struct RopeSource {
  std::string_view layer_type = {};
  std::string_view theta_key = "rope_theta";
  double theta = 10000;
  bool scaling = true;  // false: rope_scaling is about the other layers
  double partial = 1;   // the share of a head that turns, which `rotary` already is
};

/// Frequencies of a rotation over `rotary` dimensions: types default, linear, llama3, yarn and
/// proportional (of the pairs of all dimensions only the first turn, the rest have frequency 0).
/// Computed in float32 step by step, as the official code does: at long positions another rounding
/// is another angle.
/// Errors: ConfigError for other types and for values outside their meaning.
/// Source  transformers, modeling_rope_utils.py; qwen3.md section 3.1; gemma4.md section 3.4.
std::shared_ptr<const RopeParams> read_rope(const ConfigReader& config, int64_t rotary,
                                            const RopeSource& source = {});

/// The rotation of a picture's patches: the first half of a head's pairs turns by one axis of
/// M-RoPE, the other by another, both at the same frequencies theta^(-2i / (head_dim / 2)).
/// `head_dim` is a multiple of 4. In float32 step by step, as above. Source  transformers,
/// compute_axial_rope_parameters; gemma4.md section 4.2; qwen3_5.md section 4.4.
std::shared_ptr<const RopeParams> axial_rope(double theta, int64_t head_dim,
                                             std::array<uint8_t, 2> axes);

/// `partial_rotary_factor` of a config (in `rope_parameters` or beside it): the first `dims` of a
/// head's dimensions turn. Errors: ConfigError for a share of an odd number or of none.
struct PartialRotary {
  double share;
  int64_t dims;

  static PartialRotary read(const ConfigReader& config, int64_t head_dim, double default_share);
};

}  // namespace decant::layers
