#include <array>
#include <cmath>
#include <numbers>

#include "backend/mlx/step.h"
#include "ops/altup.h"
#include "ops/binary.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/unary.h"

namespace decant::mlx {
namespace {

mx::array gelu_tanh(const mx::array& x) {
  const mx::array cubic = mx::multiply(mx::array(0.044715f), mx::multiply(x, mx::square(x)));
  const mx::array inner = mx::multiply(
      mx::array(static_cast<float>(std::sqrt(2 / std::numbers::pi))), mx::add(x, cubic));
  return mx::multiply(mx::multiply(mx::array(0.5f), x), mx::add(mx::array(1.0f), mx::tanh(inner)));
}

mx::array gelu_erf(const mx::array& x) {
  const mx::array inner = mx::multiply(x, mx::array(static_cast<float>(1 / std::numbers::sqrt2)));
  return mx::multiply(mx::multiply(mx::array(0.5f), x), mx::add(mx::array(1.0f), mx::erf(inner)));
}

mx::array applied(Unary kind, const mx::array& x, float constant) {
  const mx::array c(constant), zero(0.0f);
  switch (kind) {
    case Unary::kSilu:
      return mx::multiply(x, mx::sigmoid(x));
    case Unary::kGeluTanh:
      return gelu_tanh(x);
    case Unary::kGeluErf:
      return gelu_erf(x);
    case Unary::kSigmoid:
      return mx::sigmoid(x);
    case Unary::kTanh:
      return mx::tanh(x);
    case Unary::kRelu:
      return mx::maximum(x, zero);
    case Unary::kExp:
      return mx::exp(x);
    case Unary::kSqrt:
      return mx::sqrt(x);
    case Unary::kSoftplus:
      return mx::logaddexp(x, zero);
    case Unary::kSoftcap:
      return mx::multiply(c, mx::tanh(mx::divide(x, c)));
    case Unary::kClamp:
      return mx::clip(x, mx::array(-constant), c);
    case Unary::kScale:
      return mx::multiply(c, x);
  }
  throw InternalError("[mlx] unary {}: there is no lowering", name_of(kind));
}

void lower_unary(Step& step, const Node& node, NodeWeights) {
  const auto& params = node.as<UnaryParams>();
  step.set(node.outputs[0], applied(params.kind, step.value(node.inputs[0]), params.constant));
}

void lower_binary(Step& step, const Node& node, NodeWeights weights) {
  const mx::array a = step.flat(node.inputs[0]);
  const mx::array b =
      weights.empty() ? step.flat(node.inputs[1]) : mx::reshape(weights[0]->data, {1, -1});
  switch (node.as<BinaryParams>().kind) {
    case Binary::kAdd:
      return step.set(node.outputs[0], mx::add(a, b));
    case Binary::kSub:
      return step.set(node.outputs[0], mx::subtract(a, b));
    case Binary::kMul:
      return step.set(node.outputs[0], mx::multiply(a, b));
  }
}

void lower_concat(Step& step, const Node& node, NodeWeights) {
  std::vector<mx::array> parts;
  for (const int id : node.inputs) parts.push_back(step.flat(id));
  step.set(node.outputs[0], mx::concatenate(std::move(parts), 1));
}

void lower_rms_norm(Step& step, const Node& node, NodeWeights weights) {
  std::optional<mx::array> weight;
  if (!weights.empty()) weight = weights[0]->data;
  step.set(node.outputs[0],
           mx::fast::rms_norm(step.value(node.inputs[0]), weight, node.as<NormParams>().eps));
}

mx::array mean_square(const mx::array& x) { return mx::mean(mx::square(x), 1, true); }

void lower_match_magnitude(Step& step, const Node& node, NodeWeights) {
  const mx::array u = step.flat(node.inputs[0]);
  const mx::array wanted = mx::sqrt(mean_square(step.flat(node.inputs[1])));
  const mx::array floor(node.as<NormParams>().eps);
  const mx::array own = mx::sqrt(mx::maximum(mean_square(u), floor));
  step.set(node.outputs[0], mx::multiply(u, mx::divide(wanted, own)));
}

void lower_rope(Step& step, const Node& node, NodeWeights) {
  const auto& params = node.as<RopeParams>();
  const mx::array x = step.value(node.inputs[0]);  // [N, H, D]
  const int rows = x.shape(0), heads = x.shape(1), size = x.shape(2);
  const int half = dim(static_cast<int64_t>(params.inv_freq.size()));
  auto [cosine, sine] = step.angles(params);  // of every token
  if (step.graph().value(node.inputs[0]).type.rows == Rows::kOutputs) {
    cosine = mx::take(cosine, step.output_rows(), 0);
    sine = mx::take(sine, step.output_rows(), 0);
  }
  const mx::Shape pairs =
      params.interleaved ? mx::Shape{rows, heads, half, 2} : mx::Shape{rows, heads, 2, half};
  const mx::array rotary = mx::reshape(mx::slice(x, {0, 0, 0}, {rows, heads, 2 * half}), pairs);
  const int axis = params.interleaved ? 3 : 2;
  const mx::array a = mx::take(rotary, 0, axis), b = mx::take(rotary, 1, axis);
  const mx::array first = mx::subtract(mx::multiply(a, cosine), mx::multiply(b, sine));
  const mx::array second = mx::add(mx::multiply(b, cosine), mx::multiply(a, sine));
  mx::array turned = mx::reshape(mx::stack({first, second}, axis), {rows, heads, 2 * half});
  if (2 * half < size)
    turned = mx::concatenate({turned, mx::slice(x, {0, 0, 2 * half}, {rows, heads, size})}, 2);
  step.set(node.outputs[0], turned);
}

void lower_narrow_rows(Step& step, const Node& node, NodeWeights) {
  step.set(node.outputs[0], mx::take(step.value(node.inputs[0]), step.output_rows(), 0));
}

void lower_reduce(Step& step, const Node& node, NodeWeights) {
  const mx::array x = step.flat(node.inputs[0]);
  const mx::array mean = mx::mean(x, 1, true);
  step.set(node.outputs[0], node.as<ReduceParams>().kind == Reduce::kMean
                                ? mean
                                : mean_square(mx::subtract(x, mean)));
}

void lower_altup_mix(Step& step, const Node& node, NodeWeights) {
  const mx::array x = step.value(node.inputs[0]);  // [N, A, D]
  const int streams = x.shape(1);
  const mx::array coefs = mx::reshape(step.value(node.inputs[1]), {x.shape(0), streams, streams});
  step.set(node.outputs[0], mx::add(x, mx::matmul(coefs, x)));
}

void lower_altup_update(Step& step, const Node& node, NodeWeights) {
  const mx::array x = step.value(node.inputs[0]);
  const mx::array factor = mx::add(
      mx::reshape(step.value(node.inputs[1]), {x.shape(0), x.shape(1), 1}), mx::array(1.0f));
  const mx::array delta = mx::reshape(step.value(node.inputs[2]), {x.shape(0), 1, x.shape(2)});
  step.set(node.outputs[0], mx::add(x, mx::multiply(factor, delta)));
}

void lower_add_to_inactive(Step& step, const Node& node, NodeWeights) {
  const mx::array x = step.value(node.inputs[0]);
  const int rows = x.shape(0), streams = x.shape(1), size = x.shape(2);
  const mx::array t = mx::reshape(step.value(node.inputs[1]), {rows, 1, size});
  const mx::array active = mx::slice(x, {0, 0, 0}, {rows, 1, size});
  const mx::array others = mx::slice(x, {0, 1, 0}, {rows, streams, size});
  step.set(node.outputs[0], mx::concatenate({active, mx::add(others, t)}, 1));
}

}  // namespace

std::span<const Lowering> row_lowerings() {
  static const std::array all{
      Lowering{&unary_op(), lower_unary},
      Lowering{&binary_op(), lower_binary},
      Lowering{&concat_op(), lower_concat},
      Lowering{&rms_norm_op(), lower_rms_norm},
      Lowering{&match_magnitude_op(), lower_match_magnitude},
      Lowering{&rope_op(), lower_rope},
      Lowering{&narrow_rows_op(), lower_narrow_rows},
      Lowering{&reduce_op(), lower_reduce},
      Lowering{&altup_mix_op(), lower_altup_mix},
      Lowering{&altup_update_op(), lower_altup_update},
      Lowering{&add_to_inactive_op(), lower_add_to_inactive},
  };
  return all;
}

}  // namespace decant::mlx
