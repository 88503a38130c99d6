#pragma once

#include <mlx/mlx.h>

#include <span>
#include <vector>

#include "base/checked.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace decant::mlx {

namespace mx = ::mlx::core;  // decant::mlx would hide it

/// The element type of a dense weight or a cache.
inline mx::Dtype to_mlx(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return mx::float32;
    case DType::kF16:
      return mx::float16;
    case DType::kBF16:
      return mx::bfloat16;
    case DType::kI32:
      return mx::int32;
    default:
      throw InternalError("[mlx] element type {}: it has no counterpart here", name_of(dtype));
  }
}

inline int dim(int64_t value) { return narrow<int>(value); }

/// [rows, inner...] of a graph's shape [capacity, inner...].
inline mx::Shape with_rows(int rows, const Shape& shape) {
  mx::Shape out{rows};
  for (const int64_t size : shape.dims().subspan(1)) out.push_back(dim(size));
  return out;
}

inline mx::array int_array(const std::vector<int32_t>& values, mx::Shape shape) {
  return mx::array(values.begin(), std::move(shape), mx::int32);
}

/// A fresh array whose bytes `fill` writes: for data at addresses of any alignment.
template <typename Fill>
mx::array filled_array(mx::Shape shape, mx::Dtype dtype, const Fill& fill) {
  size_t bytes = mx::size_of(dtype);
  for (const int size : shape) bytes *= static_cast<size_t>(size);
  mx::allocator::Buffer buffer = mx::allocator::malloc(bytes);
  mx::array out(buffer, std::move(shape), dtype);
  if (bytes > 0) fill(static_cast<std::byte*>(buffer.raw_ptr()));
  return out;
}

}  // namespace decant::mlx
