#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cli/bench_runner.h"
#include "models/load_model.h"

namespace decant::cli {

/// The picture or sound of a benchmark.
struct MediaChoice {
  std::string type;              // "image" or "audio"
  std::string value;             // a file, WIDTHxHEIGHT or seconds
  std::filesystem::path folder;  // with the processors' settings; empty: the family's defaults
};

/// A tower alone, and prompts of equal length with and without what it gives.
class MediaBench {
 public:
  /// Errors: UsageError for a value that is neither; RequestError for a model that does not take
  /// it; those of the processors and of Engine.
  MediaBench(Backend& backend, const LoadedModel& loaded, MediaChoice choice,
             const BenchRunner::Limits& limits);
  /// "tower TYPE", "prefill text", "prefill TYPE", "decode text", "decode TYPE"; the best of
  /// `repeats` each, after an untimed one. `probe` reads before and after each of them, and a
  /// rate of decode is measured by the readings around it; it may be null.
  std::vector<BenchRow> rows(int64_t tokens, int repeats, ReadProbe* probe);
  const ProbeReading& readings() const { return readings_; }

 private:
  Backend& backend_;
  const Model& model_;
  MediaChoice choice_;
  BenchRunner::Limits limits_;
  std::shared_ptr<const TowerInput> input_;
  ProbeReading readings_;
};

}  // namespace decant::cli
