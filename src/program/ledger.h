#pragma once

#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace decant {

/// What each node of a program moved and computed in a step.
struct LedgerRow {
  int node = -1;
  std::string op;
  std::string scope;
  Cost cost;
};

/// Costs of every node for a batch. `distinct_experts` holds, by node id, how many experts a node
/// touched (or is empty).
std::vector<LedgerRow> ledger(const Graph& graph, const Batch& batch,
                              const std::vector<int64_t>& distinct_experts = {});
Cost total(const std::vector<LedgerRow>& rows);

/// A batch with no pages that stands for a step of `sequences` sequences with `past` cached and
/// `count` new tokens each: enough to ask for costs.
Batch batch_for_costs(Phase phase, int sequences, int64_t past, int count);

/// How often each op occurs.
std::map<std::string, int> histogram(const Graph& graph);

/// The graph in the DOT language: nodes with op, parameters and result shapes; edges with the
/// values.
std::string to_dot(const Graph& graph, const std::string& title);

}  // namespace decant
