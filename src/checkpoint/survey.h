#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace decant {

/// What a model folder looks like from outside: config, names and headers, no weights read.
struct FolderSurvey {
  enum class State : uint8_t {
    kComplete,
    kMissingShards,  // see missing
    kNoWeights,      // nothing decant reads; see problem
    kBroken,         // config, index or a header cannot be read; see problem
  };
  State state = State::kComplete;
  std::string model_type;  // of config.json; empty if it does not say
  std::string format;      // in which most bytes are: "4bit-g64", "bf16", ...; empty if unknown
  uint64_t bytes = 0;      // of all files, each counted once
  std::vector<std::string> missing;
  std::string problem;
};
/// "complete", "missing shards", "no weights", "broken".
std::string_view name_of(FolderSurvey::State state);

/// Looks at a folder; what is wrong with it becomes its state, never an error.
FolderSurvey survey_folder(const std::filesystem::path& folder);

}  // namespace decant
