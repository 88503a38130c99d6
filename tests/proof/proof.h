#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace decant::proof {

/// What a backend promises beyond agreeing with the reference.
struct Promises {
  /// A row's result in a decode step is the same bits whatever rows stand beside it.
  bool bitwise_rows = true;
  /// Agreement with the reference in parts of the largest logit; 0: what float32 sums of the
  /// model's length give. Backends with bf16 activations state their own.
  double bound = 0;
  /// Experts are chosen from the same scores up to float32 rounding: routes equal the reference's.
  bool exact_routes = true;
  /// How the programs are compiled.
  CompileOptions compile;
};

/// One property of a backend, checked with GoogleTest expectations against float64-accumulating
/// reference kernels in one pass over each sequence.
struct Proof {
  std::string name;
  std::function<void(Backend&, const Promises&)> check;
};

/// Growing context over page and split borders, rows that join and leave between replays of one
/// program, 1 row = 2, 3, 8, 17, 64 rows, unequal routing per row, sampling, rewind of recurrent
/// state; for dense and routed models in f32, bf16 and 4-bit.
std::vector<Proof> all_proofs();

/// Registers all_proofs() as GoogleTest tests "proof_<backend>.<name>"; call it before
/// RUN_ALL_TESTS. Where `unavailable` gives a reason, the tests skip with it.
bool register_proofs(const std::string& backend, std::function<std::unique_ptr<Backend>()> make,
                     const Promises& promises = {}, std::function<std::string()> unavailable = {});

}  // namespace decant::proof
