#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace decant::jinja {

/// The stable order of `count` items under less(a, b) over their indexes. A merge sort of our own:
/// values of a template need not be ordered consistently (nan), which std::sort does not survive.
template <typename Less>
std::vector<size_t> stable_order(size_t count, const Less& less) {
  std::vector<size_t> order(count), merged(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (size_t width = 1; width < count; width *= 2) {
    for (size_t from = 0; from < count; from += 2 * width) {
      const size_t middle = std::min(from + width, count), end = std::min(middle + width, count);
      size_t left = from, right = middle;
      for (size_t out = from; out < end; ++out) {
        const bool take_right = left == middle || (right < end && less(order[right], order[left]));
        merged[out] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

}  // namespace decant::jinja
