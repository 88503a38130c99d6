#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace decant {

/// Edits (insert, delete, replace, swap neighbours) that turn `a` into `b`, ASCII case ignored.
/// Texts longer than 256 bytes count as that far apart.
size_t edit_distance(std::string_view a, std::string_view b);

/// The candidates a mistyped `text` was likely meant to be, nearest first, at most `limit`: those
/// within half the length of `text` in edits, and those that contain it.
std::vector<std::string> nearest(std::string_view text, std::span<const std::string> candidates,
                                 size_t limit = 3);

}  // namespace decant
