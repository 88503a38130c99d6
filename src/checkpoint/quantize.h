#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/quantize_rows.h"
#include "checkpoint/recipe.h"
#include "checkpoint/weight_load.h"
#include "tensor/format.h"

namespace decant {

/// What a family adds to a recipe.
struct FamilyQuantization {
  /// Formats of modules no rule of the recipe names: MLX keeps the routers of the Qwen families and
  /// of Gemma 4 at eight bits.
  std::vector<RecipeRule> overrides = {{"*.mlp.gate", Format::affine(8, 64)},
                                       {"*.router.proj", Format::affine(8, 64)},
                                       {"*.shared_expert_gate", Format::affine(8, 64)}};
  std::vector<std::string> keep;  // patterns of modules that are never quantised
  std::vector<std::string> drop;  // patterns of tensors that are not written
  Renames::Layout renames;        // prefixes of the source (asked) as they are written (stored)
};

struct QuantizeOptions {
  FamilyQuantization family;
  /// Type of scales, biases and what stays dense; by default what the config names, else the
  /// source's own.
  std::optional<DType> dtype;
  uint64_t shard_limit_bytes = UINT64_C(5) << 30;
  /// Search every group for the scales of the least error instead of rounding to nearest.
  bool search = false;
  /// Called after every module with its path, how many are done and how many there are.
  std::function<void(const std::string&, size_t, size_t)> progress;
};

struct QuantizeReport {
  uint64_t bytes = 0;  // of all tensors
  int64_t parameters = 0;
  size_t shards = 0;
  size_t kept_shards = 0;  // that an interrupted run had written
  QuantizeError error;     // with search: of the shards of this run
};

/// Where an unfinished conversion to `target` is kept.
std::filesystem::path partial_folder(std::filesystem::path target);

/// Writes `source` quantised into the folder `target`, in the layout and with the config mlx-lm
/// writes; tokenizer and template files are copied. Modules of fp8 count as the bf16 they load as.
/// Streams: of the source, a block of 32 MiB is in
/// memory; of the target, one block and the scales of one module. The target appears complete or
/// not at all. When it fails or is interrupted, shards that are complete stay in partial_folder(),
/// and the same conversion of the same files goes on from there; another one replaces them.
/// Errors: ConfigError or WeightError for the source (also one that is already quantised);
/// UsageError if `target` exists and is not an empty folder, or another process is writing it;
/// RuntimeError if it cannot be written.
QuantizeReport quantize_checkpoint(const std::filesystem::path& source,
                                   const std::filesystem::path& target, const Recipe& recipe,
                                   const QuantizeOptions& options = {});

}  // namespace decant
