#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>

#include "checkpoint/weight_load.h"

namespace decant {

using Json = nlohmann::ordered_json;

/// Writes a checkpoint of seeded random weights for everything a family asked a DummySource for.
/// It loads through the normal path: matrices are about 1/sqrt(in) in size, norms about 1. A dense
/// format gives the layout of transformers (one tensor per expert), a packed one that of MLX
/// (stacked experts, 8-bit routers, modules narrower than a group dense). The values depend on
/// seed and tensor name only.
/// `config` is written as config.json, with the quantisation added. `data_offset_mod64` places the
/// first tensor's byte. `folder` is made if needed; existing model files in it are replaced.
/// Errors: WeightError for sizes past 64 bits; RuntimeError for files.
void write_dummy_checkpoint(std::span<const WeightRequest> requests, const Json& config,
                            const Format& format, uint64_t seed,
                            const std::filesystem::path& folder, int data_offset_mod64 = 0);

}  // namespace decant
