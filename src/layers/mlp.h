#pragma once

#include "layers/linear.h"
#include "ops/mlp.h"

namespace decant::layers {

/// y = down(act(gate x) * up x). Weights  gate_proj, up_proj [inner, hidden], down_proj [hidden,
/// inner].
struct Mlp {
  Linear gate_proj, up_proj, down_proj;
  Unary act;

  Mlp(const WeightScope& w, int64_t hidden, int64_t inner, Unary activation, bool bias = false)
      : gate_proj(w / "gate_proj", inner, hidden, bias),
        up_proj(w / "up_proj", inner, hidden, bias),
        down_proj(w / "down_proj", hidden, inner, bias),
        act(activation) {}
  Value operator()(Value x) const {
    const Graph::ScopeGuard guard(x.graph(), "mlp");
    if (gate_proj.bias != nullptr) return down_proj(act_mul(gate_proj(x), up_proj(x), act));
    return gated_mlp(x, gate_proj.weight, up_proj.weight, down_proj.weight, act);
  }
};

}  // namespace decant::layers
