#pragma once

#include <algorithm>
#include <cstdint>

#include "graph/graph.h"

namespace decant::cpu {

/// The CPU's own steps, made visible in the graph so that scheduling and memory planning see them.

/// x as int8 in groups of 32 (kernels/linear_kernels.h, QuantizedRows): one result of bytes, shared
/// by all products of x.
const Op& quantize_rows_op();
/// linear and linear_add on such rows. Inputs: quantised x, x (for its shape), and the residual of
/// linear_add.
const Op& linear_int8_op();
/// The step's (token, slot) pairs sorted by expert, as the i32 of a RoutingPlan.
const Op& expert_plan_op();
/// expert_linear over a plan. Inputs: x or quantised x, x, ids, plan.
const Op& expert_product_op();

/// head_linear. Inputs: x or quantised x, x.
const Op& head_product_op();

struct LoweredParams : OpParams {
  bool int8 = false;
  bool has_bias = false;
  bool has_residual = false;
  std::string text() const override;
};

struct QuantizedParams : OpParams {
  int64_t rows = 0;  // capacity, expert slots counted as rows of their own
  int64_t cols = 0;
  int64_t step = 0;  // elements from row to row within one of x; 0: cols
};

struct PlanParams : OpParams {
  int64_t experts = 0;
};

/// What expert_plan leaves and expert_product reads, for up to `pairs` pairs.
struct RoutingPlan {
  static constexpr int32_t kNoExpert = -1;
  int32_t* offsets;  // [experts + 1]: where the pairs of each expert begin
  int32_t* pairs;    // [pairs] token * slots + slot, by expert
  int32_t* tokens;   // [pairs] of the pairs
  int32_t* chosen;   // [min(pairs, experts)]: experts with pairs, ascending, then kNoExpert

  static int64_t count(int64_t experts, int64_t pairs) {
    return experts + 1 + 2 * pairs + std::min(pairs, experts);
  }
  static RoutingPlan over(int32_t* buffer, int64_t experts, int64_t pairs) {
    int32_t* sorted = buffer + experts + 1;
    return {buffer, sorted, sorted + pairs, sorted + 2 * pairs};
  }
};

/// Replaces products by their CPU form: quantised weights take int8 activations unless `exact`.
Graph lower(const Graph& graph, bool exact);

/// True if this weight's products take the int8 route when the program is not exact.
bool takes_int8(const Weight& weight);

}  // namespace decant::cpu
