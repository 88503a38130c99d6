#include <array>

#include "backend/mlx/step.h"
#include "ops/embed.h"
#include "ops/experts.h"
#include "ops/linear.h"

namespace decant::mlx {
namespace {

void lower_embed(Step& step, const Node& node, NodeWeights weights) {
  const DeviceWeight& table = *weights[0];
  const int count = step.rows(step.graph().value(node.outputs[0]).type);
  std::vector<int32_t> ids = step.batch().tokens;
  if (node.as<EmbedParams>().out_of_range_is_row_zero)
    for (int32_t& id : ids)
      if (id >= table.data.shape(0)) id = 0;
  ids.resize(static_cast<size_t>(count), 0);
  const mx::array rows = int_array(ids, {count});
  const mx::array data = mx::take(table.data, rows, 0);
  step.set(node.outputs[0], table.packed() ? mx::dequantize(data, mx::take(*table.scales, rows, 0),
                                                            mx::take(*table.biases, rows, 0),
                                                            table.group, table.bits)
                                           : mx::astype(data, mx::float32));
}

void lower_linear(Step& step, const Node& node, NodeWeights weights) {
  const DeviceWeight& weight = *weights[0];
  const mx::array x = step.flat(node.inputs[0]);
  mx::array y = weight.packed()
                    ? mx::quantized_matmul(x, weight.data, *weight.scales, weight.biases, true,
                                           weight.group, weight.bits)
                    : mx::matmul(x, mx::transpose(weight.data));
  if (weights.size() > 1) y = mx::add(y, weights[1]->data);
  step.set(node.outputs[0], y);
}

/// Scores of all experts with those outside the best groups set to -inf.
mx::array best_groups_only(const mx::array& choice, const RouteParams& params) {
  const int rows = choice.shape(0), groups = params.groups, size = choice.shape(1) / groups;
  const mx::array grouped = mx::reshape(choice, {rows, groups, size});
  const int top = std::min(2, size);
  const mx::array best = mx::slice(mx::sort(grouped, 2), {0, 0, size - top}, {rows, groups, size});
  const mx::array order = mx::argsort(mx::negative(mx::sum(best, 2)), 1);
  const mx::array rank = mx::argsort(order, 1);
  const mx::array kept = mx::less(mx::astype(rank, mx::int32), mx::array(params.top_groups));
  return mx::reshape(mx::where(mx::reshape(kept, {rows, groups, 1}), grouped,
                               mx::array(-std::numeric_limits<float>::infinity())),
                     choice.shape());
}

void lower_top_k_route(Step& step, const Node& node, NodeWeights weights) {
  const auto& params = node.as<RouteParams>();
  const mx::array logits = step.flat(node.inputs[0]);
  const mx::array score =
      params.score == RouteScore::kSoftmax ? mx::softmax(logits, 1, true) : mx::sigmoid(logits);
  // Scores rise with logits, and logits keep apart what the scores' rounding makes equal.
  const bool by_logits = !params.has_bias && params.groups == 1;
  mx::array choice = by_logits ? logits : score;
  if (params.has_bias) choice = mx::add(choice, weights.front()->data);
  if (params.groups > 1) choice = best_groups_only(choice, params);
  // A stable sort: equal scores go to the lower index.
  const mx::array order = mx::argsort(mx::negative(choice), 1);
  const mx::array ids =
      mx::astype(mx::slice(order, {0, 0}, {order.shape(0), params.top_k}), mx::int32);
  mx::array chosen = mx::take_along_axis(score, ids, 1);
  if (params.normalize) chosen = mx::divide(chosen, mx::sum(chosen, 1, true));
  chosen = mx::multiply(chosen, mx::array(params.scale));
  if (params.has_expert_scale)
    chosen = mx::multiply(chosen, mx::take(mx::flatten(weights.back()->data), ids));
  step.set(node.outputs[0], ids);
  step.set(node.outputs[1], chosen);
}

void lower_expert_linear(Step& step, const Node& node, NodeWeights weights) {
  const DeviceWeight& table = *weights[0];
  const mx::array x = step.value(node.inputs[0]);
  const mx::array ids = step.value(node.inputs[1]);  // [N, K]
  const bool per_slot = x.ndim() == 3;
  // One row per (token, slot), or one per token that all its slots share: [N, K or 1, 1, in].
  const mx::array rows = mx::reshape(
      x, {x.shape(0), per_slot ? x.shape(1) : 1, 1, x.shape(static_cast<int>(x.ndim()) - 1)});
  step.set(node.outputs[0],
           table.packed() ? mx::gather_qmm(rows, table.data, *table.scales, table.biases,
                                           std::nullopt, ids, true, table.group, table.bits)
                          : mx::gather_mm(rows, mx::swapaxes(table.data, 1, 2), std::nullopt, ids));
  step.expert_ids.emplace_back(node.id, ids);
}

void lower_combine_experts(Step& step, const Node& node, NodeWeights) {
  const mx::array x = step.value(node.inputs[0]);  // [N, K, D]
  const mx::array weights = mx::reshape(step.value(node.inputs[1]), {x.shape(0), x.shape(1), 1});
  step.set(node.outputs[0], mx::sum(mx::multiply(x, weights), 1));
}

}  // namespace

std::span<const Lowering> product_lowerings() {
  static const std::array all{
      Lowering{&embed_op(), lower_embed, WeightUse::kTable},
      Lowering{&linear_op(), lower_linear},
      Lowering{&top_k_route_op(), lower_top_k_route},
      Lowering{&expert_linear_op(), lower_expert_linear},
      Lowering{&combine_experts_op(), lower_combine_experts},
  };
  return all;
}

}  // namespace decant::mlx
