#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "models/tower.h"

namespace decant {

/// The patches of a picture by their places, as a tower that pools `pool` x `pool` of them wants
/// them: the patches of a pooled cell side by side, cells row by row.
struct PatchGrid {
  int64_t columns = 0, rows = 0;
  std::vector<int32_t> order;  // which patch of the input comes next; filling is left out
  int64_t cells(int64_t pool) const { return columns * rows / (pool * pool); }
};

/// Reads TowerInput::positions. Errors: RequestError unless `shape` is [patches, values] with as
/// many positions, which fill a grid whose sides are multiples of `pool` and at most `limit`.
PatchGrid read_patch_grid(const TowerInput& input, int64_t values, int64_t pool, int64_t limit);

}  // namespace decant
