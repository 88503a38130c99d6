#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "state/page_pool.h"

namespace decant {

/// What one step computes: a token of each decoding sequence, then chunks of prompts.
struct StepPlan {
  struct Chunk {
    RequestId id = 0;
    int64_t past = 0;
    int64_t count = 0;
    bool last = false;  // its last row gives the first token
  };
  std::vector<RequestId> decode;
  std::vector<Chunk> prefill;
};

struct SchedulerLimits {
  int max_sequences = 1;
  int64_t prefill_chunk = 64;   // prompt tokens of a step, all chunks together
  int prefill_sequences = 1;    // chunks of a step
  bool aligned_chunks = false;  // cuts at absolute multiples of kPageSize only (recurrent states)
  int64_t longest_span = 0;     // what a chunk may grow to so that a span is whole
};

/// Decides who runs, from counts and ids alone. First come, first served: a request is admitted
/// once the pages of all its positions and a slot are promised to it; until then it and all behind
/// it wait.
class Scheduler {
 public:
  /// `kv` and `slots` (null: no recurrent states) must outlive the scheduler.
  Scheduler(const SchedulerLimits& limits, KvPages& kv, SlotPool* slots)
      : limits_(limits), kv_(kv), slots_(slots) {}

  /// `positions`: how many tokens of the sequence may ever be computed.
  /// No chunk ends within one of the `spans` [begin, end) of prompt positions, ascending.
  using Spans = std::vector<std::pair<int64_t, int64_t>>;
  void enqueue(RequestId id, int64_t prompt_tokens, int64_t positions, Spans spans = {});
  /// Admits from the head of the queue; returns the ids admitted now.
  std::vector<RequestId> admit();
  StepPlan plan() const;
  /// A chunk of the plan was computed.
  void prefilled(RequestId id, int64_t count);
  /// A token of a decoding sequence was computed.
  void decoded(RequestId id) { ++running_.at(id).past; }
  /// The last token of a decoding sequence is computed as if it were the prompt's.
  void prefill_next(RequestId id);
  /// Forgets a request wherever it is and gives back what it holds.
  void finish(RequestId id);

  /// Tokens cached, and the recurrent slot (-1: none), of an admitted sequence.
  int64_t past(RequestId id) const { return running_.at(id).past; }
  int32_t slot(RequestId id) const { return running_.at(id).slot; }
  int64_t waiting() const { return static_cast<int64_t>(queue_.size()); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }

 private:
  struct Waiting {
    RequestId id;
    int64_t prompt_tokens, positions;
    Spans spans;
  };
  struct Running {
    int64_t prompt_tokens = 0;
    int64_t past = 0;
    int32_t slot = -1;
    Spans spans;
  };
  int64_t chunk_of(const Running& sequence, int64_t room, bool alone) const;
  SchedulerLimits limits_;
  KvPages& kv_;
  SlotPool* slots_;
  std::deque<Waiting> queue_;
  std::map<RequestId, Running> running_;  // ids rise, so this is the order of arrival
};

}  // namespace decant
