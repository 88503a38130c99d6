#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "cli/model_name.h"
#include "models/load_model.h"

namespace decant::cli {

/// Which model an instrument looks at: one by MODEL, or a config with random weights.
struct ModelChoice {
  ModelArgument model;
  std::string dummy;
  std::string format = "4bit";
  int group = 64;
  uint64_t seed = 0;
  bool towers = false;  // of a dummy
  /// Where the model's settings lie; empty for a dummy.
  std::filesystem::path model_folder() const {
    return model.given() ? model.folder() : std::filesystem::path();
  }
};

/// Declares MODEL with its flags, --dummy, --format, --group and --seed.
void add_model_flags(CLI::App& app, ModelChoice& choice);

/// Loads it. The weights of a dummy lie in a temporary folder that is gone afterwards.
/// Errors: UsageError without a choice or with two; those of load_model and load_dummy.
LoadedModel load_choice(const ModelChoice& choice);

/// "qwen3, 596.0 M parameters, 4bit-g64": one line about a model.
std::string describe_model(const LoadedModel& loaded);
/// Parameters: elements of all weights, a shared one counted once.
int64_t parameters_of(const LoadedModel& loaded);
/// The format that most bytes of a model are in.
std::string main_format(const LoadedModel& loaded);

}  // namespace decant::cli
