#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "models/model.h"

namespace decant {

/// Most rows of one decode program; more are run in slices.
inline constexpr int kMaxDecodeRows = 64;
/// Most prompts that share one prefill program.
inline constexpr int kMaxPrefillSequences = 8;

/// The capacities an engine compiles for: decode of 1, 2, 4 ... rows, prefill of 64, 256, 1024 ...
/// tokens up to `prefill_chunk`. The largest of each class stands last of its class.
/// With `features`, prefill programs take rows of towers.
std::vector<Capacity> capacity_ladder(int max_sequences, int prefill_chunk, bool features = false);

/// The compiled steps of a model on one backend: forward, logits (output 0) and the sampled token
/// of every output row (output 1).
class ProgramSet {
 public:
  static constexpr int kLogits = 0;
  static constexpr int kTokens = 1;

  ProgramSet(const Model& model, Backend& backend, Pools& pools, const CompileOptions& options,
             bool features = false)
      : model_(model), backend_(backend), pools_(pools), options_(options), features_(features) {}

  /// Compiles these steps. Errors: those of Backend::compile.
  void compile(const std::vector<Capacity>& capacities);
  /// The smallest compiled program these counts fit.
  Program& find(Phase phase, int64_t tokens, int64_t sequences, int64_t outputs);
  /// A prefill program of one sequence that gives the logits of all its rows, of at least `tokens`
  /// rows; compiled when first asked for.
  Program& scoring(int tokens);
  /// The largest arena of all programs so far: they share it.
  int64_t arena_bytes() const { return arena_bytes_; }
  const std::vector<std::unique_ptr<Program>>& programs() const { return programs_; }

 private:
  std::unique_ptr<Program> build(const Capacity& capacity);
  const Model& model_;
  Backend& backend_;
  Pools& pools_;
  CompileOptions options_;
  bool features_;
  std::vector<std::unique_ptr<Program>> programs_;
  std::vector<std::unique_ptr<Program>> scoring_;
  int64_t arena_bytes_ = 0;
};

/// Records the step of a capacity.
Graph record_step(const Model& model, const Capacity& capacity);

}  // namespace decant
