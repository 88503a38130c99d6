#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "models/model.h"

namespace decant {

/// A picture or sound of a prompt. Its placeholders stand side by side, one per row of features.
struct PromptMedia {
  int64_t first = 0;  // position of the first placeholder
  std::shared_ptr<const TowerInput> input;
  std::string
      key;  // equal keys stand for equal inputs: features are kept by it; empty: they are not
};

/// What the media of a prompt mean for its steps.
struct Placement {
  /// By position: which input's features, and which row of them; item -1: the token's embedding.
  struct Source {
    int32_t item = -1;
    int32_t row = 0;
  };
  std::vector<std::shared_ptr<const TowerInput>> inputs;
  std::vector<std::string> keys;                   // of the inputs
  std::vector<Source> sources;                     // [prompt]; empty: no features
  std::vector<std::array<int32_t, 3>> axes;        // [prompt] of M-RoPE; empty: the positions
  int32_t shift = 0;                               // from a later position to its axes
  std::vector<int32_t> last_seen;                  // [prompt]; empty: nobody sees ahead
  std::vector<std::pair<int64_t, int64_t>> spans;  // [begin, end) no chunk may end within
};

/// Checks the media of a prompt against its tokens and works out their placement. Errors:
/// RequestError for a model without such a tower, placeholders that are not there or left over,
/// media that overlap, and spans longer than `longest_span` where tokens see both ways.
Placement place_media(const Model& model, std::span<const int32_t> tokens,
                      std::span<const PromptMedia> media, int64_t longest_span);

/// True for a token whose embedding comes from a tower whatever stands beside it.
bool is_tower_token(const MediaSpec& spec, int32_t token);
/// Adds the last of `tokens`, such a token that the model itself gave, to the placement of those
/// before it.
void place_generated(const MediaSpec& spec, std::span<const int32_t> tokens, Placement& placement);

/// Rows of features [rows, hidden] of one input.
struct Features {
  int64_t rows = 0;
  int64_t width = 0;
  std::vector<float> values;
  const float* row(int64_t i) const { return values.data() + i * width; }
};

/// Runs a model's towers and keeps what they made of the inputs seen last. Not thread safe; a run
/// uses the backend as a step does.
class TowerRunner {
 public:
  struct Options {
    CompileOptions compile = {};
    int64_t budget = 0;                       // bytes for caches and arena of one run; 0: no limit
    int64_t kept_bytes = int64_t{256} << 20;  // of features kept by key
    size_t kept_programs = 8;                 // each size of a picture or sound may need its own
  };
  TowerRunner(const Model& model, Backend& backend, const Options& options)
      : model_(model), backend_(backend), options_(options) {}

  /// The features of an input that its tower accepts. Errors: those of Backend::compile and
  /// Program::run; MemoryError for an input that needs more than the budget.
  std::shared_ptr<const Features> run(const TowerInput& input, const std::string& key);
  /// Seconds spent in towers, and inputs that were computed or found.
  struct Stats {
    double seconds = 0;
    int64_t computed = 0;
    int64_t reused = 0;
  };
  const Stats& stats() const { return stats_; }

 private:
  using ProgramKey = std::pair<Medium, decltype(TowerSize().key())>;
  struct Compiled {
    std::unique_ptr<Pools> pools;
    std::unique_ptr<Program> program;
    std::vector<int32_t> pages;  // 0, 1, 2, ...: a run has the caches for itself
    int64_t last_run = 0;
  };
  Compiled& compiled(const TowerInput& input, const Tower& tower, const TowerSize& size);
  std::shared_ptr<const Features> find(const std::string& key);
  void keep(const std::string& key, std::shared_ptr<const Features> features);

  const Model& model_;
  Backend& backend_;
  Options options_;
  std::map<ProgramKey, Compiled> programs_;  // the last ones used
  int64_t runs_ = 0;
  struct Kept {
    std::string key;
    std::shared_ptr<const Features> features;
  };
  std::list<Kept> kept_;  // the last used first
  std::unordered_map<std::string, std::list<Kept>::iterator> by_key_;
  int64_t kept_bytes_ = 0;
  Stats stats_;
};

}  // namespace decant
