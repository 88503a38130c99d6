#include "models/patch_grid.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/errors.h"

namespace decant {

PatchGrid read_patch_grid(const TowerInput& input, int64_t values, int64_t pool, int64_t limit) {
  const auto patches = std::ssize(input.positions);
  if (input.shape != std::vector<int64_t>{patches, values})
    throw RequestError(
        "[media] pixel_values: expected ({}, {}), as image_position_ids has it, got ({})", patches,
        values, fmt::join(input.shape, ", "));
  PatchGrid grid;
  int64_t valid = 0;
  for (const auto& [x, y] : input.positions) {
    if (x == -1 && y == -1) continue;
    if (x < 0 || y < 0 || x >= limit || y >= limit)
      throw RequestError("[media] image_position_ids: expected 0 to {} (or -1, -1), got {}, {}",
                         limit - 1, x, y);
    grid.columns = std::max<int64_t>(grid.columns, x + 1);
    grid.rows = std::max<int64_t>(grid.rows, y + 1);
    ++valid;
  }
  if (valid == 0 || valid != grid.columns * grid.rows || grid.columns % pool != 0 ||
      grid.rows % pool != 0)
    throw RequestError(
        "[media] image_position_ids: expected a grid with sides of a multiple of {}, each place "
        "once, got {} places of {} x {}",
        pool, valid, grid.columns, grid.rows);
  grid.order.assign(static_cast<size_t>(valid), -1);
  for (size_t i = 0; i < input.positions.size(); ++i) {
    const auto [x, y] = input.positions[i];
    if (x < 0) continue;
    const int64_t cell = y / pool * (grid.columns / pool) + x / pool;
    int32_t& place = grid.order[static_cast<size_t>((cell * pool + y % pool) * pool + x % pool)];
    if (place >= 0)
      throw RequestError("[media] image_position_ids: expected each place once, got {}, {} twice",
                         x, y);
    place = narrow<int32_t>(i);
  }
  return grid;
}

}  // namespace decant
