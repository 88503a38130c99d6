#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "models/model.h"

namespace decant {

/// Where the memory of an engine goes, in bytes; known before a step runs.
struct MemoryBreakdown {
  int64_t weights = 0;  // mapped or copied: not part of `budget`
  int64_t kv = 0;       // pages of all layers
  int64_t states = 0;   // recurrent slots
  int64_t arena = 0;    // activations of the largest program
  int64_t budget = 0;   // what the pools and the arena may take
  int64_t ctx_size = 0;
  int64_t kv_tokens = 0;  // positions of full attention that the pools hold, all sequences together
  int64_t needed() const { return kv + states + arena; }
  /// One line per part.
  std::string text() const;
};

/// Sizes the pools: `contexts` full sequences of ctx_size positions, or as many positions as
/// `budget` has room for beside the arena, at least one full sequence.
struct PoolRequest {
  int64_t ctx_size = 0;  // 0: the model's, or what fits
  int max_sequences = 1;
  int64_t ahead = 1;  // largest advance of a sequence
  bool recycle = true;
  DType kv_dtype = DType::kBF16;
  int64_t arena = 0;
  int64_t budget = 0;
  int64_t weights = 0;
};
struct PoolPlan {
  PoolSpec pools;
  MemoryBreakdown memory;
};
/// Errors: UsageError for a context the model does not have; MemoryError with the breakdown and the
/// largest context that fits.
PoolPlan plan_pools(const ModelSpec& model, const PoolRequest& request);

/// Bytes of the distinct weights of a graph.
int64_t weight_bytes(const Graph& graph);
/// Those of them that were made at load: unlike mapped ones they no longer count as free memory.
int64_t made_weight_bytes(const Graph& graph);
/// The most memory this process has held so far, in bytes; 0 where the system does not tell.
int64_t peak_process_bytes();

}  // namespace decant
