#pragma once

#include "base/json.h"

namespace decant {

/// A config.json with the keys by which mlx-lm knows what newer transformers spells otherwise:
/// `rope_theta`, `rope_scaling` and `rope_local_base_freq` beside `rope_parameters`, `num_experts`
/// beside `num_local_experts`, in `text_config` too. What is there already stays as it is.
Json with_mlx_spellings(Json config);

}  // namespace decant
