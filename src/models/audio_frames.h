#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/errors.h"
#include "models/tower.h"

namespace decant {

/// More than the processors of any family give: 11 minutes.
inline constexpr int64_t kMaxAudioFrames = INT64_C(1) << 16;

/// How many frames of a sound are valid: those come first. `values`: of one frame.
/// Errors: RequestError naming what is not as the family's processor makes it.
inline int64_t valid_frames(const TowerInput& input, int64_t values) {
  if (input.shape.size() != 2 || input.shape[0] < 1 || input.shape[0] > kMaxAudioFrames ||
      input.shape[1] != values)
    throw RequestError("[media] input_features: expected (1 to {} frames, {}), got ({})",
                       kMaxAudioFrames, values, fmt::join(input.shape, ", "));
  if (std::ssize(input.values) != input.shape[0] * values)
    throw RequestError("[media] input_features: expected {} values, got {}",
                       input.shape[0] * values, input.values.size());
  if (input.mask.empty()) return input.shape[0];
  if (std::ssize(input.mask) != input.shape[0])
    throw RequestError("[media] input_features_mask: expected {} frames, got {}", input.shape[0],
                       input.mask.size());
  const auto end = std::find(input.mask.begin(), input.mask.end(), uint8_t{0});
  if (std::any_of(end, input.mask.end(), [](uint8_t valid) { return valid != 0; }))
    throw RequestError("[media] input_features_mask: expected valid frames before the others");
  return end - input.mask.begin();
}

}  // namespace decant
