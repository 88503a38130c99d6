#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "models/model.h"
#include "program/ledger.h"

namespace decant::cli {

/// What one row of the benchmark says.
struct BenchRow {
  std::string phase;  // "decode" or "prefill"
  int batch = 1;
  int64_t context = 0;  // positions cached before the first step; of prefill: the prompt's length
  int64_t tokens = 0;   // timed steps, or prompt tokens
  double tok_s = 0;
  double gb_s = 0;        // weights (with scales and biases) and KV read
  double seconds = 0;     // of a tower: one picture or sound
  double probe_gb_s = 0;  // of decode: what a read probe moved between its steps; 0 without one
};

/// What a read probe moved, and how long it took.
struct ProbeReading {
  double bytes = 0;
  double seconds = 0;
  double gb_s() const { return seconds > 0 ? bytes / seconds / 1e9 : 0; }
  void read(ReadProbe& probe);
  void add(const ProbeReading& other);
};

/// Time and bytes of one kind of op over some steps.
struct OpProfile {
  std::string op;
  int nodes = 0;
  double seconds = 0;  // of one step
  double bytes = 0;    // weights and KV of one step
};

/// Runs steps of a model straight on a backend: the caches hold arbitrary values at any length, so
/// that a row at a long context needs no prompt of that length.
class BenchRunner {
 public:
  struct Limits {
    int sequences = 1;
    int64_t positions = 0;  // of one sequence
    int64_t chunk = 512;    // of prefill
    bool exact = false;
    bool dense_attention = false;
  };
  /// `probe` may be null. Errors: MemoryError when the caches do not fit.
  BenchRunner(Backend& backend, const Model& model, const Limits& limits, ReadProbe* probe);
  ~BenchRunner();

  /// `batch` sequences at `context` cached positions generate `tokens` tokens each; best of
  /// `repeats` after one untimed pass of the same length. The rate is over tokens - 1 intervals.
  /// Where memory is shared, its speed moves from one moment to the next: the probe reads between
  /// the steps, and a pass is measured by its own readings.
  BenchRow decode(int batch, int64_t context, int64_t tokens, int repeats);
  /// One prompt from an empty cache; best of `repeats` after one untimed pass.
  BenchRow prefill(int64_t prompt, int repeats);
  /// Mean time per op over `steps` decode steps, longest first.
  std::vector<OpProfile> profile(int batch, int64_t context, int steps);
  /// All readings so far.
  const ProbeReading& readings() const { return readings_; }

 private:
  struct Pass {
    double seconds = 0;
    double bytes = 0;
    ProbeReading probe;
  };
  Program& program(const Capacity& capacity);
  /// A step of `count` tokens in each of `sequences` sequences after `past` positions.
  Batch batch_of(Phase phase, int sequences, int64_t past, int64_t count, bool output);
  Pass decode_pass(Program& program, int batch, int64_t context, int64_t tokens);
  double prefill_pass(int64_t prompt);

  Backend& backend_;
  const Model& model_;
  Limits limits_;
  ReadProbe* probe_;
  ProbeReading readings_;
  std::unique_ptr<Pools> pools_;
  std::vector<std::vector<int32_t>> tables_;  // by sequence; all groups share them
  std::vector<std::pair<Capacity, std::unique_ptr<Program>>> programs_;
  uint64_t random_ = 1;
};

/// Bytes a step reads of weights, scales, biases and caches, as its program is executed.
double step_bytes(const Program& program, const Batch& batch,
                  const std::vector<int64_t>& distinct_experts);

}  // namespace decant::cli
