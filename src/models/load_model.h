#pragma once

#include <filesystem>
#include <memory>

#include "checkpoint/checkpoint.h"
#include "checkpoint/weight_load.h"
#include "models/model.h"

namespace decant {

/// A model and everything it stands on: the mapped files, its weights, and what the engine must
/// know of it.
struct LoadedModel {
  std::shared_ptr<const Checkpoint> checkpoint;
  std::shared_ptr<const WeightSet> weights;
  std::unique_ptr<Model> model;
  ModelSpec spec;  // the model's, with the end tokens of generation_config.json where it has some
};

struct LoadModelOptions {
  /// Also read the layer that drafts tokens, if there is one; else it is only reported (ModelSpec)
  /// and costs nothing.
  bool draft = false;
  /// False: what is transcoded stays unwritten and takes no memory; the model can be looked at, not
  /// run.
  bool contents = true;
};

/// Opens a model folder and builds its family from it; tensors stay in the mapped files, except
/// those that are transcoded.
/// Errors: ConfigError for config.json or generation_config.json; WeightError with every missing,
/// mis-shaped and left-over tensor; MemoryError where what is transcoded does not fit.
LoadedModel load_model(const std::filesystem::path& folder, const LoadModelOptions& options = {});

struct DummyOptions {
  Format format = Format::affine(4, 64);  // of the matrices
  uint64_t seed = 0;
  /// Where the checkpoint is written and kept; empty: a temporary folder, gone once it is mapped.
  std::filesystem::path folder = {};
  bool towers = false;  // with towers of pictures and sounds, where their sizes stand in the config
  int data_offset_mod64 = 8;  // of the first tensor: files of others are no better aligned
};

/// The model of a config (a config.json or the folder that has one) with random weights: writes
/// them as a checkpoint and loads that as any other.
/// Errors: as load_model; RuntimeError when the checkpoint cannot be written.
LoadedModel load_dummy(const std::filesystem::path& config, const DummyOptions& options = {});

}  // namespace decant
