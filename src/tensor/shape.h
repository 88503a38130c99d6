#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/checked.h"

namespace decant {

/// Up to four dimensions, outermost first. Sizes are validated where they come from (files,
/// configs), so count() is exact arithmetic here.
class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) {
    DECANT_ASSERT(dims.size() <= kMaxRank, "a shape has at most four dimensions");
    for (int64_t dim : dims) dims_[static_cast<size_t>(rank_++)] = dim;
  }

  int rank() const { return rank_; }
  int64_t operator[](int axis) const {
    DECANT_ASSERT(axis >= -rank_ && axis < rank_, "axis within rank");
    return dims_[static_cast<size_t>(axis < 0 ? axis + rank_ : axis)];
  }
  int64_t back() const { return (*this)[-1]; }
  /// Product of all dimensions; 1 for rank 0.
  int64_t count() const {
    int64_t product = 1;
    for (int i = 0; i < rank_; ++i) {
      const auto next = checked_mul(product, dims_[static_cast<size_t>(i)]);
      DECANT_ASSERT(next.has_value(), "the element count of a shape fits 64 bits");
      product = *next;
    }
    return product;
  }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  /// "(96,64)"
  std::string to_string() const;
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace decant
