// Qwen3.5 MoE: Qwen3.5 with routed experts and a gated shared one in every layer.
// Source  transformers, modeling_qwen3_5_moe.py; qwen3_5.md section 3.5.
#include "models/qwen3_5.h"
#include "models/registry.h"

namespace decant {

Family qwen3_5_moe_family() {
  return qwen3_5_family_of({"qwen3_5_moe", "qwen3_5_moe_text"}, Qwen35Kind::kMoe);
}

}  // namespace decant
