// Qwen3-Next: Qwen3.5 MoE whose gated delta nets have fused projections, grouped by key head.
// Source  transformers, modeling_qwen3_next.py; qwen3_5.md section 2.1.
#include "models/qwen3_5.h"
#include "models/registry.h"

namespace decant {

Family qwen3_next_family() { return qwen3_5_family_of({"qwen3_next"}, Qwen35Kind::kNext); }

}  // namespace decant
