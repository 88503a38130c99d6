#include "layers/shared_moe.h"

#include <fmt/format.h>

#include "layers/config.h"

namespace decant::layers {

SharedMoeConfig SharedMoeConfig::read(const ConfigReader& config, int64_t num_layers, Unary act) {
  SharedMoeConfig out;
  config.expect("scoring_func", "sigmoid");
  config.expect("topk_method", "noaux_tc");
  config.expect("moe_layer_freq", 1);
  config.expect("mlp_bias", false);
  if (config.has("mlp_layer_types")) {
    for (const std::string& type : config.strings("mlp_layer_types", num_layers)) {
      if (type != "dense" && type != "sparse")
        config.fail("mlp_layer_types", "\"dense\" or \"sparse\"");
      out.is_moe.push_back(type == "sparse");
    }
  } else {
    const int64_t dense = config.in_range_or("first_k_dense_replace", 0, 0, num_layers);
    for (int64_t i = 0; i < num_layers; ++i) out.is_moe.push_back(i >= dense);
  }
  out.num_experts = config.in_range("n_routed_experts", 1, kMaxExperts);
  out.inner = read_width(config, "moe_intermediate_size");
  const int64_t shared = config.in_range_or("n_shared_experts", 0, 0, kMaxExperts);
  out.shared_inner = shared * out.inner;
  if (out.shared_inner > kMaxWidth)
    config.fail("n_shared_experts",
                fmt::format("experts of at most {} columns together", kMaxWidth));

  RoutedExpertsParams& routing = out.routing;
  routing.score = RouteScore::kSigmoid;
  routing.act = static_cast<uint8_t>(act);
  routing.normalize = config.value_or("norm_topk_prob", true);
  routing.scale = static_cast<float>(config.number_in_range("routed_scaling_factor", 1e-6, 1e6));
  routing.groups = static_cast<int>(config.in_range_or("n_group", 1, 1, out.num_experts));
  if (out.num_experts % routing.groups != 0)
    config.fail("n_group", fmt::format("a divisor of {} experts", out.num_experts));
  routing.top_groups = static_cast<int>(config.in_range_or("topk_group", 1, 1, routing.groups));
  routing.top_k = static_cast<int>(config.in_range(
      "num_experts_per_tok", 1, out.num_experts / routing.groups * routing.top_groups));
  return out;
}

}  // namespace decant::layers
