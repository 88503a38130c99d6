#pragma once

#include <vector>

#include "graph/graph.h"

namespace decant {

/// Nodes in phases: all nodes of a phase may run at once, and every phase after the ones before it.
struct Schedule {
  std::vector<std::vector<int>> phases;
  std::vector<int> phase_of;  // by node id
};

/// Each node as early as its data allows. A node that makes a new version of a cache also waits for
/// all readers of the old one.
Schedule schedule_by_levels(const Graph& graph);

/// Room a backend wants at a node beside its results, e.g. partial results of an attention.
struct WorkspaceRequest {
  int node = -1;
  int64_t bytes = 0;
};

/// Where every value lies in one arena.
struct MemoryPlan {
  static constexpr int64_t kAlignment = 64;
  std::vector<int64_t> offset;  // by value id, of storage values only; -1 for views and externals
  std::vector<int64_t> workspace_offset;  // by request
  int64_t arena_bytes = 0;
};

/// Two values share bytes only if every use of one lies in an earlier phase than the writing of the
/// other. Outputs live to the end.
MemoryPlan plan_memory(const Graph& graph, const Schedule& schedule,
                       const std::vector<WorkspaceRequest>& workspaces = {});

/// Bytes of a storage value.
int64_t value_bytes(const ValueType& type);

}  // namespace decant
