#include "program/schedule.h"

#include <algorithm>
#include <numeric>

#include "base/checked.h"

namespace decant {

int64_t value_bytes(const ValueType& type) { return type.shape.count() * size_of(type.dtype); }

Schedule schedule_by_levels(const Graph& graph) {
  Schedule schedule;
  schedule.phase_of.assign(graph.nodes().size(), 0);
  std::vector<std::vector<int>> readers(
      graph.values().size());  // of caches: who read this version so far
  for (const Node& node : graph.nodes()) {
    int phase = 0;
    const auto wait_for = [&](int other) {
      phase = std::max(phase, schedule.phase_of[static_cast<size_t>(other)] + 1);
    };
    for (int id : node.inputs) {
      const int storage = graph.storage_of(id);
      if (graph.value(storage).producer >= 0) wait_for(graph.value(storage).producer);
      const ExternalKind kind = graph.value(storage).external;
      if (kind != ExternalKind::kKvCache && kind != ExternalKind::kState) continue;
      const bool makes_version =
          std::any_of(node.outputs.begin(), node.outputs.end(), [&](int out) {
            return graph.value(out).external == kind &&
                   graph.value(out).external_index == graph.value(storage).external_index;
          });
      if (makes_version)
        for (int reader : readers[static_cast<size_t>(storage)]) wait_for(reader);
      readers[static_cast<size_t>(storage)].push_back(node.id);
    }
    schedule.phase_of[static_cast<size_t>(node.id)] = phase;
    if (static_cast<size_t>(phase) >= schedule.phases.size())
      schedule.phases.resize(static_cast<size_t>(phase) + 1);
    schedule.phases[static_cast<size_t>(phase)].push_back(node.id);
  }
  return schedule;
}

MemoryPlan plan_memory(const Graph& graph, const Schedule& schedule,
                       const std::vector<WorkspaceRequest>& workspaces) {
  struct Block {
    int64_t bytes;
    int first, last;  // phases, inclusive
    int64_t* offset;
  };
  MemoryPlan plan;
  plan.offset.assign(graph.values().size(), -1);
  plan.workspace_offset.assign(workspaces.size(), -1);
  const int end = static_cast<int>(schedule.phases.size());
  std::vector<int> last_use(graph.values().size(), -1);
  const auto use = [&](int id, int phase) {
    int& last = last_use[static_cast<size_t>(graph.storage_of(id))];
    last = std::max(last, phase);
  };
  for (const Node& node : graph.nodes())
    for (int id : node.inputs) use(id, schedule.phase_of[static_cast<size_t>(node.id)]);
  for (const auto& [name, id] : graph.outputs()) use(id, end);

  std::vector<Block> blocks;
  for (size_t id = 0; id < graph.values().size(); ++id) {
    const ValueInfo& info = graph.values()[id];
    if (info.base >= 0 || info.producer < 0 || info.external != ExternalKind::kNone) continue;
    const int first = schedule.phase_of[static_cast<size_t>(info.producer)];
    // A result nobody reads is still written.
    blocks.push_back(
        {round_up(std::max<int64_t>(value_bytes(info.type), 1), MemoryPlan::kAlignment), first,
         std::max(first, last_use[id]), &plan.offset[id]});
  }
  for (size_t i = 0; i < workspaces.size(); ++i) {
    const int phase = schedule.phase_of[static_cast<size_t>(workspaces[i].node)];
    blocks.push_back({round_up(std::max<int64_t>(workspaces[i].bytes, 1), MemoryPlan::kAlignment),
                      phase, phase, &plan.workspace_offset[i]});
  }
  // Largest first, each at the lowest gap among the blocks that live at the same time.
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  std::vector<const Block*> placed;  // by ascending offset
  for (size_t index : order) {
    Block& block = blocks[index];
    int64_t at = 0;
    for (const Block* other : placed) {
      if (other->last < block.first || block.last < other->first) continue;
      if (*other->offset >= at + block.bytes) break;
      at = std::max(at, *other->offset + other->bytes);
    }
    *block.offset = at;
    plan.arena_bytes = std::max(plan.arena_bytes, at + block.bytes);
    placed.insert(std::upper_bound(
                      placed.begin(), placed.end(), at,
                      [](int64_t offset, const Block* other) { return offset < *other->offset; }),
                  &block);
  }
  return plan;
}

}  // namespace decant
