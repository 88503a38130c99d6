#pragma once

#include "graph/graph.h"
#include "ops/unary.h"

namespace decant {

/// y = down(act(gate x) * up x). Composite. Shapes  x, y [N, D]; gate, up [F, D]; down [D, F].
Value gated_mlp(Value x, const Weight* gate, const Weight* up, const Weight* down, Unary act);

/// y = gelu_tanh(max(0, g - (mean(g) + q std(g)))) * up: keeps the largest gates of each row
/// (population deviation). Composite. Shapes  gate, up, y [N, F]. Source  gemma3n.md section 3.4.
Value gelu_topk(Value gate, Value up, float quantile);

/// logits = softcap(rms_norm(x) W^T). Composite. Shapes  x [rows, D]; W [V, D]; y [rows, V];
/// softcap 0: none.
Value lm_head(Value x, const Weight* norm, float eps, const Weight* head, float softcap);

const Op& gated_mlp_op();
const Op& gelu_topk_op();
const Op& lm_head_op();

}  // namespace decant
