#pragma once

#include "models/model.h"

namespace decant {

// The families, one per file of this folder.
Family llama_family();
Family qwen3_family();
Family qwen3_moe_family();
Family gemma3n_family();
Family gemma4_family();
Family qwen3_5_family();
Family qwen3_5_moe_family();
Family qwen3_next_family();
Family glm4_moe_family();
Family glm4_moe_lite_family();
Family glm_moe_dsa_family();

}  // namespace decant
