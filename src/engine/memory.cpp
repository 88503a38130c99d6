#include "engine/memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <set>

#include "base/checked.h"
#include "base/units.h"
#include "state/page_pool.h"

namespace decant {
namespace {

std::string bytes_text(int64_t bytes) {
  return format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, bytes)));
}

/// Pools for `tokens` positions of full attention; groups with a window hold what they need of
/// them, for at most max_sequences sequences.
PoolSpec pools_for(const ModelSpec& model, const PoolRequest& request, int64_t tokens) {
  PoolSpec pools;
  pools.kv = model.kv;
  pools.states = model.states;
  pools.kv_dtype = request.kv_dtype;
  pools.slots = model.states.empty() ? 0 : request.max_sequences;
  for (int window : model.windows) {
    const int64_t one =
        KvPages::pages_for(request.recycle ? window : 0, request.ctx_size, request.ahead);
    const int64_t all = div_up(tokens, int64_t{kPageSize});
    pools.pages_per_group.push_back(std::min(one * request.max_sequences, std::max(one, all)));
  }
  return pools;
}

MemoryBreakdown breakdown(const PoolSpec& pools, const PoolRequest& request, int64_t tokens) {
  PoolSpec states = pools;
  states.kv.clear();
  MemoryBreakdown memory;
  memory.weights = request.weights;
  memory.states = states.bytes();
  memory.kv = pools.bytes() - memory.states;
  memory.arena = request.arena;
  memory.budget = request.budget;
  memory.ctx_size = request.ctx_size;
  memory.kv_tokens = tokens;
  return memory;
}

}  // namespace

std::string MemoryBreakdown::text() const {
  return fmt::format(
      "weights  {}\nKV cache {} ({} tokens, context {})\nstates   {}\narena    {}\nfree     {}",
      bytes_text(weights), bytes_text(kv), kv_tokens, ctx_size, bytes_text(states),
      bytes_text(arena), bytes_text(budget));
}

PoolPlan plan_pools(const ModelSpec& model, const PoolRequest& asked) {
  PoolRequest request = asked;
  for (const KvSpec& kv : model.kv)
    DECANT_ASSERT(kv.group >= 0 && static_cast<size_t>(kv.group) < model.windows.size(),
                  "every caching layer belongs to a group");
  DECANT_ASSERT(request.max_sequences >= 1, "an engine runs a sequence");
  const int64_t model_context = model.max_position_embeddings;
  if (request.ctx_size < 0 || (model_context > 0 && request.ctx_size > model_context))
    throw UsageError("[engine] ctx_size: expected 1 to {} (max_position_embeddings), got {}",
                     model_context, request.ctx_size);

  const auto fits = [&](int64_t ctx_size, int64_t tokens) {
    PoolRequest smaller = request;
    smaller.ctx_size = ctx_size;
    return pools_for(model, smaller, tokens).bytes() + request.arena <= request.budget;
  };
  // Largest x in [0, high] with ok(x), where ok holds up to some point.
  const auto largest = [](int64_t high, const auto& ok) {
    int64_t low = 0;
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (ok(middle))
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  };
  constexpr int64_t kDefaultContext = 4096;  // where the config names none
  constexpr int64_t kMinimumContext = 256;   // below it a context chosen for the user is no use
  const int64_t wanted = request.ctx_size > 0 ? request.ctx_size
                         : model_context > 0  ? model_context
                                              : kDefaultContext;
  const int64_t pages = largest(div_up(wanted, int64_t{kPageSize}), [&](int64_t p) {
    return p == 0 || fits(p * kPageSize, p * kPageSize);
  });
  const int64_t fitting = std::min(wanted, pages * kPageSize);
  if (fitting < wanted && (request.ctx_size > 0 || fitting < std::min(kMinimumContext, wanted))) {
    request.ctx_size = wanted;
    const MemoryBreakdown memory = breakdown(pools_for(model, request, wanted), request, wanted);
    throw MemoryError(
        "[memory] context of {} tokens: expected at most {} for caches and arena, got {}"
        " (the largest context that fits is {})\n{}",
        wanted, bytes_text(request.budget), bytes_text(memory.needed()), fitting, memory.text());
  }
  request.ctx_size = fitting;
  const int64_t context_pages = div_up(fitting, int64_t{kPageSize});
  const int64_t total_pages =
      context_pages + largest(context_pages * (request.max_sequences - 1), [&](int64_t more) {
        return fits(fitting, (context_pages + more) * kPageSize);
      });
  PoolPlan plan;
  plan.pools = pools_for(model, request, total_pages * kPageSize);
  plan.memory = breakdown(plan.pools, request, total_pages * kPageSize);
  return plan;
}

namespace {

template <typename F>
int64_t sum_over_weights(const Graph& graph, const F& bytes_of) {
  std::set<const Weight*> seen;
  int64_t bytes = 0;
  for (const Node& node : graph.nodes())
    for (const Weight* weight : node.weights)
      if (weight != nullptr && seen.insert(weight).second) bytes += bytes_of(*weight);
  return bytes;
}

}  // namespace

int64_t weight_bytes(const Graph& graph) {
  return sum_over_weights(graph, [](const Weight& weight) { return weight.bytes(); });
}

int64_t made_weight_bytes(const Graph& graph) {
  return sum_over_weights(graph, [](const Weight& weight) { return weight.made_bytes; });
}

int64_t peak_process_bytes() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return usage.ru_maxrss;
#else
  return int64_t{usage.ru_maxrss} * 1024;
#endif
}

}  // namespace decant
