#pragma once

#include <cstdint>
#include <vector>

namespace decant::media {

/// A dense row-major array, as a processor hands it to a tower.
template <typename T>
struct Array {
  std::vector<int64_t> shape;
  std::vector<T> data;
};

}  // namespace decant::media
