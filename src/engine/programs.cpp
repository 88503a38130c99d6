#include "engine/programs.h"

#include <algorithm>

#include "base/checked.h"
#include "ops/sample.h"

namespace decant {

std::vector<Capacity> capacity_ladder(int max_sequences, int prefill_chunk, bool features) {
  std::vector<Capacity> ladder;
  const int rows = std::min(max_sequences, kMaxDecodeRows);
  for (int n = 1; n < rows; n *= 2) ladder.push_back({Phase::kDecode, n, n, n});
  ladder.push_back({Phase::kDecode, rows, rows, rows});
  const auto prefill = [&](int tokens) {
    const int sequences = std::min({max_sequences, kMaxPrefillSequences, tokens});
    ladder.push_back({Phase::kPrefill, tokens, sequences, sequences, features});
  };
  for (int64_t n = 64; n < prefill_chunk; n *= 4) prefill(static_cast<int>(n));
  prefill(prefill_chunk);
  return ladder;
}

Graph record_step(const Model& model, const Capacity& capacity) {
  Graph graph(capacity);
  const Value logits = model.forward(graph);
  graph.mark_output(logits, "logits");
  graph.mark_output(sample(logits), "tokens");
  return graph;
}

std::unique_ptr<Program> ProgramSet::build(const Capacity& capacity) {
  auto program = backend_.compile(record_step(model_, capacity), pools_, options_);
  arena_bytes_ = std::max(arena_bytes_, program->arena_bytes());
  return program;
}

void ProgramSet::compile(const std::vector<Capacity>& capacities) {
  for (const Capacity& capacity : capacities) programs_.push_back(build(capacity));
}

Program& ProgramSet::find(Phase phase, int64_t tokens, int64_t sequences, int64_t outputs) {
  Program* best = nullptr;
  for (const auto& program : programs_) {
    const Capacity& c = program->capacity();
    if (c.phase != phase || c.tokens < tokens || c.sequences < sequences || c.outputs < outputs)
      continue;
    if (best == nullptr || c.tokens < best->capacity().tokens) best = program.get();
  }
  DECANT_ASSERT(best != nullptr, "every step the scheduler plans has a program");
  return *best;
}

Program& ProgramSet::scoring(int tokens) {
  for (const auto& program : scoring_)
    if (program->capacity().tokens >= tokens) return *program;
  const int rows = narrow<int>(round_up(int64_t{tokens}, int64_t{kPageSize}));
  scoring_.push_back(build({Phase::kPrefill, rows, 1, rows, features_}));
  return *scoring_.back();
}

}  // namespace decant
