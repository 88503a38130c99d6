#include <algorithm>

#include "base/checked.h"
#include "engine/engine.h"

namespace decant {

// Rows hold pages and slots as requests do, under ids of their own, so that scoring may run between
// the steps of others.
void Engine::score(std::span<const std::vector<int32_t>> rows, const ScoreOptions& options,
                   const TakeLogits& take) {
  struct Held {
    Engine& engine;
    std::vector<OwnerId> owners;
    std::vector<int32_t> slots;
    ~Held() {
      for (size_t i = 0; i < owners.size(); ++i) {
        engine.kv_->release(owners[i]);
        if (slots[i] >= 0) engine.slots_->release(slots[i], owners[i]);
      }
    }
  } held{*this, {}, {}};
  int64_t longest = 0;
  for (const std::vector<int32_t>& tokens : rows) {
    check_tokens(tokens);
    const auto length = static_cast<int64_t>(tokens.size());
    if (length > options_.ctx_size)
      throw RequestError("[request] row of tokens: expected at most {} (the context), got {}",
                         options_.ctx_size, length);
    longest = std::max(longest, length);
    const OwnerId owner = new_id();
    if ((slots_ != nullptr && slots_->free_slots() == 0) || !kv_->admit(owner, length))
      throw RequestError("[request] rows of tokens: expected at most {} at a time here, got {}",
                         held.owners.size(), rows.size());
    held.owners.push_back(owner);
    held.slots.push_back(slots_ != nullptr ? slots_->allocate(owner) : -1);
    if (slots_ != nullptr) pools_->reset_slot(held.slots.back());
  }
  std::vector<Placed> placed(rows.size());
  if (towers_ != nullptr)
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::span<const PromptMedia> media =
          r < options.media.size() ? std::span(options.media[r]) : std::span<const PromptMedia>();
      placed[r].placement = place_media(*model_, rows[r], media, options_.prefill_chunk);
      run_towers(placed[r]);
    }
  const int chunk = score_chunk(options.chunk);
  const int64_t decode_from = options.decode_from >= 0 ? options.decode_from : longest;

  for (size_t r = 0; r < rows.size(); ++r) {
    const auto prompt = std::min(rows[r].size(), static_cast<size_t>(decode_from));
    for (size_t i = prompt; i < placed[r].placement.sources.size(); ++i)
      if (placed[r].placement.sources[i].item >= 0)
        throw RequestError(
            "[request] row {}: expected placeholders in the prefilled part (below {}), got one at "
            "{}",
            r, prompt, i);
    score_prefill(r, held.owners[r], held.slots[r], std::span(rows[r]).first(prompt), 0, chunk,
                  &placed[r], take);
  }
  for (int64_t position = decode_from; position < longest; ++position) {
    std::vector<size_t> live;
    for (size_t r = 0; r < rows.size(); ++r)
      if (position < static_cast<int64_t>(rows[r].size())) live.push_back(r);
    const auto slice = static_cast<size_t>(std::min(options_.max_sequences, kMaxDecodeRows));
    for (size_t begin = 0; begin < live.size(); begin += slice) {
      const auto part = std::span(live).subspan(begin, std::min(slice, live.size() - begin));
      std::vector<Row> batch_rows;
      for (size_t r : part)
        batch_rows.push_back({held.owners[r], held.slots[r], position,
                              slots_ != nullptr && position > decode_from ? 1 : 0,
                              std::span(rows[r]).subspan(static_cast<size_t>(position), 1),
                              &placed[r]});
      Batch batch = batch_of(Phase::kDecode, batch_rows);
      for (size_t i = 0; i < part.size(); ++i) batch.outputs.push_back(narrow<int32_t>(i));
      batch.sampling.resize(part.size());
      feed_media(batch_rows, batch, nullptr);
      const int64_t n = batch.num_tokens();
      Program& program = programs_->find(Phase::kDecode, n, n, n);
      program.run(batch);
      const std::span<const float> logits = program.output(ProgramSet::kLogits);
      const size_t width = logits.size() / part.size();
      for (size_t i = 0; i < part.size(); ++i)
        take(part[i], position, logits.subspan(i * width, width));
    }
  }
}

int Engine::score_chunk(int asked) const {
  const int chunk = asked > 0 ? std::min(asked, options_.prefill_chunk)
                              : std::min(options_.prefill_chunk, 4 * kPageSize);
  return slots_ != nullptr ? narrow<int>(round_up(int64_t{chunk}, int64_t{kPageSize})) : chunk;
}

void Engine::score_prefill(size_t index, OwnerId owner, int32_t slot,
                           std::span<const int32_t> tokens, size_t begin, int chunk,
                           const Placed* placed, const TakeLogits& take) {
  // A cut within a span moves to its end.
  const auto count_at = [&](size_t past) {
    size_t end = std::min(tokens.size(), past + static_cast<size_t>(chunk));
    if (placed != nullptr)
      for (const auto& [first, last] : placed->placement.spans)
        if (static_cast<int64_t>(end) > first && static_cast<int64_t>(end) < last)
          end = static_cast<size_t>(last);
    return std::min(end, tokens.size()) - past;
  };
  int64_t longest = 0;
  for (size_t past = begin; past < tokens.size(); past += count_at(past))
    longest = std::max(longest, static_cast<int64_t>(count_at(past)));
  Program* program = nullptr;
  for (size_t past = begin, count = 0; past < tokens.size(); past += count) {
    count = count_at(past);
    if (program == nullptr) {
      program = &programs_->scoring(narrow<int>(longest));
      if (memory_.kv + memory_.states + programs_->arena_bytes() > memory_.budget)
        throw MemoryError(
            "[memory] logits of {} rows: expected an arena of at most {} bytes, got {}", chunk,
            memory_.budget - memory_.kv - memory_.states, programs_->arena_bytes());
    }
    const Row row{owner, slot, static_cast<int64_t>(past), 0, tokens.subspan(past, count), placed};
    Batch batch = batch_of(Phase::kPrefill, {&row, 1});
    for (int32_t i = 0; i < batch.num_tokens(); ++i) batch.outputs.push_back(i);
    batch.sampling.resize(batch.outputs.size());
    feed_media({&row, 1}, batch, program);
    program->run(batch);
    const std::span<const float> logits = program->output(ProgramSet::kLogits);
    const size_t width = logits.size() / batch.outputs.size();
    for (size_t i = 0; i < batch.outputs.size(); ++i)
      take(index, static_cast<int64_t>(past + i), logits.subspan(i * width, width));
  }
}

RowScoring::RowScoring(Engine& engine, std::vector<int32_t> tokens)
    : engine_(engine), tokens_(std::move(tokens)), chunk_(engine.score_chunk(0)) {
  engine_.check_tokens(tokens_);
  const auto length = static_cast<int64_t>(tokens_.size());
  if (length > engine_.options_.ctx_size)
    throw RequestError("[request] row of tokens: expected at most {} (the context), got {}",
                       engine_.options_.ctx_size, length);
  owner_ = engine_.new_id();
  SlotPool* slots = engine_.slots_.get();
  if ((slots != nullptr && slots->free_slots() == 0) || !engine_.kv_->admit(owner_, length))
    throw RequestError("[request] row of {} tokens: expected free pages and a slot, got none",
                       length);
  if (slots == nullptr) return;
  slot_ = slots->allocate(owner_);
  engine_.pools_->reset_slot(slot_);
}

RowScoring::~RowScoring() {
  engine_.kv_->release(owner_);
  if (slot_ >= 0) engine_.slots_->release(slot_, owner_);
}

void RowScoring::advance(
    const std::function<void(int64_t position, std::span<const float> logits)>& take) {
  const size_t end = std::min(tokens_.size(), next_ + static_cast<size_t>(chunk_));
  engine_.score_prefill(
      0, owner_, slot_, std::span(tokens_).first(end), next_, chunk_, nullptr,
      [&](size_t, int64_t position, std::span<const float> logits) { take(position, logits); });
  next_ = end;
}

}  // namespace decant
