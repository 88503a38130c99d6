#pragma once

#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/weight_scope.h"
#include "ops/experts.h"
#include "ops/unary.h"

namespace decant::layers {

struct MoeConfig {
  int64_t num_experts = 0;  // 0: every layer is dense
  int64_t inner = 0;        // of one expert
  RoutedExpertsParams routing;
  std::vector<bool> is_moe;  // by layer

  /// A layer i has experts iff there are any, i is not in mlp_only_layers, and decoder_sparse_step
  /// divides i + 1. Errors: ConfigError for values out of range.
  static MoeConfig read(const ConfigReader& config, int64_t num_layers, Unary act);
};

/// Routed experts. Weights  gate (the router) [E, hidden]; experts' gate_proj, up_proj [inner,
/// hidden] and down_proj [hidden, inner].
struct Moe {
  const Weight *router, *gate, *up, *down;
  RoutedExpertsParams routing;

  Moe(const MoeConfig& config, const WeightScope& scope, int64_t hidden)
      : router((scope / "gate").matrix(config.num_experts, hidden)),
        gate(scope.experts("gate_proj", config.num_experts, config.inner, hidden)),
        up(scope.experts("up_proj", config.num_experts, config.inner, hidden)),
        down(scope.experts("down_proj", config.num_experts, hidden, config.inner)),
        routing(config.routing) {}
  Value operator()(Value x) const {
    const Graph::ScopeGuard guard(x.graph(), "mlp");
    return routed_experts(x, router, gate, up, down, routing);
  }
};

}  // namespace decant::layers
