#pragma once

#include "layers/mlp.h"
#include "layers/moe.h"
#include "ops/binary.h"

namespace decant::layers {

/// Routed experts and one that every token takes, weighed by a gate of its own:
///   y = routed(x) + sigmoid(shared_expert_gate x) shared_expert(x)
/// Weights  those of Moe; shared_expert (an Mlp); shared_expert_gate [1, hidden].
/// Source  transformers, Qwen3NextSparseMoeBlock; qwen3_5.md section 3.5.
struct SharedExpertMoe {
  Moe routed;
  Mlp shared_expert;
  Linear shared_expert_gate;

  SharedExpertMoe(const MoeConfig& config, int64_t shared_inner, const WeightScope& w,
                  int64_t hidden)
      : routed(config, w, hidden),
        shared_expert(w / "shared_expert", hidden, shared_inner,
                      static_cast<Unary>(config.routing.act)),
        shared_expert_gate(w / "shared_expert_gate", 1, hidden) {}
  Value operator()(Value x) const {
    Value y = routed(x);
    const Graph::ScopeGuard guard(x.graph(), "mlp.shared_expert");
    Value gate = unary(shared_expert_gate(x), Unary::kSigmoid);
    return add(y, mul(gated_mlp(x, shared_expert.gate_proj.weight, shared_expert.up_proj.weight,
                                shared_expert.down_proj.weight, shared_expert.act),
                      gate));
  }
};

}  // namespace decant::layers
