#include "engine/scheduler.h"

#include <algorithm>

namespace decant {

void Scheduler::enqueue(RequestId id, int64_t prompt_tokens, int64_t positions, Spans spans) {
  DECANT_ASSERT(prompt_tokens >= 1 && positions >= prompt_tokens, "a request has a prompt");
  queue_.push_back({id, prompt_tokens, positions, std::move(spans)});
}

std::vector<RequestId> Scheduler::admit() {
  std::vector<RequestId> admitted;
  while (!queue_.empty() && running() < limits_.max_sequences) {
    Waiting& next = queue_.front();
    if (slots_ != nullptr && slots_->free_slots() == 0) break;
    if (!kv_.admit(next.id, next.positions)) break;
    const int32_t slot = slots_ != nullptr ? slots_->allocate(next.id) : -1;
    running_[next.id] = {next.prompt_tokens, 0, slot, std::move(next.spans)};
    admitted.push_back(next.id);
    queue_.pop_front();
  }
  return admitted;
}

// How much of a prompt is computed next. A cut within a span moves to its end where the step has
// room for that, else to its beginning; the first chunk of a step may grow by a span.
int64_t Scheduler::chunk_of(const Running& sequence, int64_t room, bool alone) const {
  const int64_t left = sequence.prompt_tokens - sequence.past;
  int64_t count = std::min(left, room);
  if (limits_.aligned_chunks && count < left) count = count / kPageSize * kPageSize;
  for (const auto& [begin, end] : sequence.spans) {
    const int64_t cut = sequence.past + count;
    if (cut <= begin || cut >= end) continue;
    const int64_t most = alone ? std::max(room, limits_.longest_span) : room;
    if (end - sequence.past <= most)
      count = end - sequence.past;
    else
      count = begin - sequence.past;
    break;
  }
  return count;
}

StepPlan Scheduler::plan() const {
  StepPlan plan;
  int64_t room = limits_.prefill_chunk;
  for (const auto& [id, sequence] : running_) {
    if (sequence.past >= sequence.prompt_tokens) {
      plan.decode.push_back(id);
      continue;
    }
    if (static_cast<int>(plan.prefill.size()) >= limits_.prefill_sequences) continue;
    const int64_t count = chunk_of(sequence, room, plan.prefill.empty());
    if (count == 0) continue;
    plan.prefill.push_back(
        {id, sequence.past, count, count == sequence.prompt_tokens - sequence.past});
    room = std::max<int64_t>(0, room - count);
  }
  return plan;
}

void Scheduler::prefilled(RequestId id, int64_t count) {
  Running& sequence = running_.at(id);
  sequence.past += count;
  DECANT_ASSERT(sequence.past <= sequence.prompt_tokens, "a prompt is computed once");
}

void Scheduler::prefill_next(RequestId id) {
  Running& sequence = running_.at(id);
  DECANT_ASSERT(sequence.past >= sequence.prompt_tokens, "a decoding sequence");
  sequence.prompt_tokens = sequence.past + 1;
}

void Scheduler::finish(RequestId id) {
  if (const auto at = running_.find(id); at != running_.end()) {
    kv_.release(id);
    if (at->second.slot >= 0) slots_->release(at->second.slot, id);
    running_.erase(at);
    return;
  }
  const auto at =
      std::find_if(queue_.begin(), queue_.end(), [&](const Waiting& w) { return w.id == id; });
  if (at != queue_.end()) queue_.erase(at);
}

}  // namespace decant
