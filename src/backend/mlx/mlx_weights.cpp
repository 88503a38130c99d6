#include "backend/mlx/mlx_weights.h"

#include <cstring>

#include "base/file.h"

namespace decant::mlx {
namespace {

/// Codes of one bit become codes of two: MLX packs no fewer, and the values stay the same.
void widen_one_bit_codes(const std::byte* from, int64_t bytes, std::byte* to) {
  for (int64_t i = 0; i < bytes; ++i) {
    const auto bits = static_cast<uint32_t>(from[i]);
    uint32_t wide = 0;
    for (uint32_t j = 0; j < 8; ++j) wide |= (bits >> j & 1u) << (2 * j);
    to[2 * i] = static_cast<std::byte>(wide);
    to[2 * i + 1] = static_cast<std::byte>(wide >> 8);
  }
}

/// Leading dimensions of the weight followed by `columns`: all but the last of its own.
mx::Shape plane_shape(const Weight& weight, int64_t columns) {
  mx::Shape shape;
  for (int i = 0; i + 1 < weight.shape.rank(); ++i) shape.push_back(dim(weight.shape[i]));
  shape.push_back(dim(columns));
  return shape;
}

mx::array scale_plane(const Weight& weight, const std::byte* MatrixView::* plane) {
  const Format& format = weight.format;
  const MatrixView& first = weight.view();
  const int64_t count = first.rows * (first.cols / format.group);
  return filled_array(plane_shape(weight, first.cols / format.group), mx::float32,
                      [&](std::byte* out) {
                        auto* floats = reinterpret_cast<float*>(out);
                        for (const MatrixView& view : weight.views)
                          for (int64_t i = 0; i < count; ++i)
                            *floats++ = load_float(view.*plane, format.dtype, i);
                      });
}

DeviceWeight copy_packed(const Weight& weight) {
  const Format& format = weight.format;
  const MatrixView& first = weight.view();
  const int bits = format.bits == 1 ? 2 : format.bits;
  mx::array data =
      filled_array(plane_shape(weight, first.cols * bits / 32), mx::uint32, [&](std::byte* out) {
        const int64_t bytes = first.rows * format.data_row_bytes(first.cols);
        for (const MatrixView& view : weight.views) {
          if (format.bits == 1) {
            widen_one_bit_codes(view.data, bytes, out);
          } else {
            std::memcpy(out, view.data, static_cast<size_t>(bytes));
          }
          out += bytes * bits / format.bits;
        }
      });
  return {std::move(data), scale_plane(weight, &MatrixView::scales),
          scale_plane(weight, &MatrixView::biases), bits, format.group};
}

DeviceWeight copy_dense(const Weight& weight, DType dtype) {
  const MatrixView& first = weight.view();
  const int64_t count = first.rows * first.cols;
  mx::Shape shape;
  for (const int64_t size : weight.shape.dims()) shape.push_back(dim(size));
  mx::array data = filled_array(std::move(shape), to_mlx(dtype), [&](std::byte* out) {
    for (const MatrixView& view : weight.views) {
      if (dtype == weight.format.dtype) {
        std::memcpy(out, view.data, static_cast<size_t>(count * size_of(dtype)));
      } else {
        auto* floats = reinterpret_cast<float*>(out);
        for (int64_t i = 0; i < count; ++i)
          floats[i] = load_float(view.data, weight.format.dtype, i);
      }
      out += count * size_of(dtype);
    }
  });
  return {std::move(data), std::nullopt, std::nullopt, 0, 0};
}

}  // namespace

std::string unsupported_reason(const Weight& weight) {
  const Format& format = weight.format;
  if (format.is_dense()) return is_dense_float(format.dtype) ? "" : "its element type";
  if (format.kind != Format::Kind::kAffine || !affine_supported(format.bits, format.group))
    return "its format";
  const int64_t columns = weight.view().cols;
  return columns % 32 == 0 && columns % format.group == 0 ? "" : "a row that ends within a group";
}

std::shared_ptr<const DeviceWeight> WeightStore::get(const Weight& weight, WeightUse use) {
  if (!weight.format.is_dense()) use = WeightUse::kProduct;  // one packed copy serves both
  auto& known = known_[{&weight, use}];
  if (auto alive = known.lock()) return alive;
  auto made = std::make_shared<const DeviceWeight>(
      !weight.format.is_dense()
          ? copy_packed(weight)
          : copy_dense(weight, use == WeightUse::kTable ? weight.format.dtype : DType::kF32));
  if (const std::string damaged = damaged_mapping(); !damaged.empty())
    throw RuntimeError("[weights] {}: the file was cut or became unreadable while in use", damaged);
  known = made;
  return made;
}

}  // namespace decant::mlx
