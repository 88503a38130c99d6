#include "layers/moe.h"

#include <fmt/format.h>

#include "layers/config.h"

namespace decant::layers {

MoeConfig MoeConfig::read(const ConfigReader& config, int64_t num_layers, Unary act) {
  MoeConfig out;
  out.is_moe.assign(static_cast<size_t>(num_layers), false);
  const std::string experts = config.first_of({"num_experts", "num_local_experts"});
  out.num_experts = config.in_range(experts, 0, kMaxExperts);
  const int64_t step = config.positive_or("decoder_sparse_step", 1);
  for (int64_t i = 0; i < num_layers; ++i)
    out.is_moe[static_cast<size_t>(i)] = out.num_experts > 0 && (i + 1) % step == 0;
  if (config.has("mlp_only_layers"))
    for (int64_t i : config.ints("mlp_only_layers")) {
      if (i < 0 || i >= num_layers)
        config.fail("mlp_only_layers", fmt::format("layers from 0 to {}", num_layers - 1));
      out.is_moe[static_cast<size_t>(i)] = false;
    }
  if (out.num_experts == 0) return out;
  out.inner = read_width(config, "moe_intermediate_size");
  out.routing.top_k = static_cast<int>(config.in_range("num_experts_per_tok", 1, out.num_experts));
  out.routing.normalize = config.value_or("norm_topk_prob", false);
  out.routing.act = static_cast<uint8_t>(act);
  return out;
}

}  // namespace decant::layers
