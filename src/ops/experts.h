#pragma once

#include "graph/graph.h"
#include "ops/unary.h"

namespace decant {

enum class RouteScore : uint8_t { kSoftmax, kSigmoid };

struct RouteParams : OpParams {
  int top_k = 1;
  RouteScore score = RouteScore::kSoftmax;
  bool normalize = true;  // divide the chosen scores by their sum
  float scale = 1.0f;
  int groups = 1;  // experts in equal groups; only the best `top_groups` (by the sum of their two
                   // best) compete
  int top_groups = 1;
  // Which weights a node has, in this order; set by the functions below.
  bool has_bias = false;
  bool has_expert_scale = false;
  std::string text() const override;
};

/// Chooses experts: scores = softmax or sigmoid over all E in f32; choice by score (+ bias), equal
/// scores go to the lower index; weights are the unbiased scores, normalised and scaled as asked,
/// then times the scale of their expert.
/// Shapes  logits [N, E]; bias, expert_scale [E] or null; ids [N, K] i32 in descending order of
/// choice; weights [N, K]. Source  transformers, Qwen3MoeSparseMoeBlock, Glm4MoeTopkRouter,
/// Gemma4TextRouter; qwen3.md section 3; gemma4.md section 3.6.
std::pair<Value, Value> top_k_route(Value logits, const RouteParams& params,
                                    const Weight* bias = nullptr,
                                    const Weight* expert_scale = nullptr);

/// y[n, k] = W[ids[n, k]] x: one matrix of a table per (token, slot).
/// Shapes  x [N, in] (the same input for every slot) or [N, K, in]; ids [N, K]; W [E, out, in]; y
/// [N, K, out].
Value expert_linear(Value x, Value ids, const Weight* table);

/// y[n] = sum over slots ascending of weights[n, k] * x[n, k]. Shapes  x [N, K, D]; weights [N, K];
/// y [N, D].
Value combine_experts(Value x, Value weights);

/// Records the products of chosen experts: y = sum over slots of weights * down(act(gate x) * up
/// x). Shapes  x, y [N, D]; ids, weights [N, K]; gate, up [E, F, D]; down [E, D, F].
Value expert_mlp(Value x, Value ids, Value weights, const Weight* gate, const Weight* up,
                 const Weight* down, Unary act);

struct RoutedExpertsParams : RouteParams {
  uint8_t act = 0;  // ops/unary.h, Unary
};

/// Router to combined output: route(x W_r), then down(act(gate x) * up x) of each chosen expert,
/// combined. Composite. Shapes  x, y [N, D]; router [E, D]; gate, up [E, F, D]; down [E, D, F];
/// bias (of the choice) [E] or null.
Value routed_experts(Value x, const Weight* router, const Weight* gate, const Weight* up,
                     const Weight* down, const RoutedExpertsParams& params,
                     const Weight* bias = nullptr);

const Op& top_k_route_op();
const Op& expert_linear_op();
const Op& combine_experts_op();
const Op& routed_experts_op();

}  // namespace decant
