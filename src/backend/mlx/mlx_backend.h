#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace decant {

/// MLX underneath: Metal on Apple silicon, MLX's CPU or CUDA package elsewhere. Activations, scales
/// and accumulation in f32; weights are copied into MLX's memory once, packed ones stay packed.
/// Promises results within float32 rounding of the reference, not bitwise equality across row
/// counts. Errors: RuntimeError when MLX cannot start.
std::unique_ptr<Backend> make_mlx_backend(const BackendOptions& options);

/// Copies caches from host memory into these pools, which must have been made by this backend for
/// the same specs: what parity tests start from.
void load_mlx_pools(Pools& pools, std::span<const KvPool> kv, std::span<const StatePool> states);
/// The recurrent state of layer `index`, [slots][width].
std::vector<float> read_mlx_state(const Pools& pools, int index);

}  // namespace decant
