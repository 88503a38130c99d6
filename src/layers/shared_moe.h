#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "layers/mlp.h"
#include "layers/moe.h"
#include "ops/binary.h"

namespace decant::layers {

/// The mixture of the DeepSeek V3 line: sigmoid scores, a bias that takes part in the choice only,
/// groups of experts, and experts that every token passes through.
struct SharedMoeConfig : MoeConfig {
  int64_t shared_inner = 0;  // of all shared experts together; 0: there are none

  /// Layers: those `mlp_layer_types` calls "sparse", else those from first_k_dense_replace on.
  /// Errors: ConfigError for values out of range and for another score or choice.
  static SharedMoeConfig read(const ConfigReader& config, int64_t num_layers, Unary act);
};

/// y = routed experts + shared experts. Weights  those of Moe; gate.e_score_correction_bias [E];
/// shared_experts' gate_proj, up_proj [S, hidden] and down_proj [hidden, S].
/// Source  transformers, Glm4MoeMoE; glm_moe_dsa.md section 3.4.
struct SharedMoe {
  Moe routed;
  const Weight* bias;
  std::optional<Mlp> shared;

  SharedMoe(const SharedMoeConfig& config, const WeightScope& scope, int64_t hidden)
      : routed(config, scope, hidden),
        bias((scope / "gate").vector("e_score_correction_bias", Shape{config.num_experts})) {
    if (config.shared_inner > 0)
      shared.emplace(scope / "shared_experts", hidden, config.shared_inner,
                     static_cast<Unary>(config.routing.act));
  }
  Value operator()(Value x) const {
    const Graph::ScopeGuard guard(x.graph(), "mlp");
    Value y =
        routed_experts(x, routed.router, routed.gate, routed.up, routed.down, routed.routing, bias);
    if (!shared) return y;
    const Graph::ScopeGuard inner(x.graph(), "shared_experts");
    return add(y, gated_mlp(x, shared->gate_proj.weight, shared->up_proj.weight,
                            shared->down_proj.weight, shared->act));
  }
};

}  // namespace decant::layers
