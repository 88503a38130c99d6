// Parameters that are never quantised: vectors, tables, and the kernels of convolutions, which
// files have in two orders.
#include <cstring>

#include "checkpoint/weight_load.h"

namespace decant {

const Weight* WeightLoad::vector(const std::string& path, const Shape& shape, float clip,
                                 float offset) {
  std::string name = stored(path);
  std::string key = "v " + name + shape.to_string();
  if (clip > 0) key += fmt::format(" clip {}", clip);
  if (offset != 0) key += fmt::format(" offset {}", offset);
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording())
    return record(std::move(key), {WeightRequest::Kind::kVector, name, "", shape});
  const TensorRef tensor = use(name);
  if (!tensor) {
    missing_.push_back(fmt::format("{}: expected {}, got no such tensor", name, shape.to_string()));
    return placeholder(std::move(key), std::move(name), shape);
  }
  if (!tensor->has_shape(shape) || !is_dense_float(tensor->dtype)) {
    wrong(tensor, is_dense_float(tensor->dtype) ? shape.to_string()
                                                : "F32, F16 or BF16 " + shape.to_string());
    return placeholder(std::move(key), std::move(name), shape);
  }
  Weight out;
  out.name = std::move(name);
  out.shape = shape;
  out.format = Format::dense(DType::kF32);
  const int64_t count = shape.count();
  const std::byte* data = tensor->bytes.data();
  const bool as_is = tensor->dtype == DType::kF32 && clip <= 0 && offset == 0;
  if (as_is && reinterpret_cast<uintptr_t>(data) % alignof(float) == 0) {
    out.owners.push_back(tensor.file);
  } else {
    const std::shared_ptr<float[]> copy(new float[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) {
      const float value = load_float(data, tensor->dtype, i);
      copy[i] = (clip > 0 ? std::clamp(value, -clip, clip) : value) + offset;
    }
    data = reinterpret_cast<const std::byte*>(copy.get());
    out.owners.push_back(copy);
  }
  const int64_t cols = shape.rank() > 0 ? shape.back() : 1;
  out.views.push_back({data, nullptr, nullptr, out.format, cols > 0 ? count / cols : 0, cols});
  return add(std::move(key), std::move(out));
}

const Weight* WeightLoad::plain(const std::string& path, std::span<const int64_t> dims,
                                int64_t rows) {
  std::string name = stored(path);
  int64_t count = 1;
  for (const int64_t dim : dims) count *= dim;
  const Shape shape{rows, count / rows};
  std::string key = "p " + name + shape.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording()) {
    WeightRequest request{WeightRequest::Kind::kPlain, name, "", shape, {}};
    request.dims.assign(dims.begin(), dims.end());
    return record(std::move(key), std::move(request));
  }
  const TensorRef tensor = use(name);
  if (!tensor) {
    missing_.push_back(fmt::format("{}: expected {}, got no such tensor", name, dims_text(dims)));
    return placeholder(std::move(key), std::move(name), shape);
  }
  const auto have = tensor->dims();
  if (!is_dense_float(tensor->dtype) ||
      !std::equal(dims.begin(), dims.end(), have.begin(), have.end())) {
    wrong(tensor, (is_dense_float(tensor->dtype) ? "" : "F32, F16 or BF16 ") + dims_text(dims));
    return placeholder(std::move(key), std::move(name), shape);
  }
  Weight out;
  out.name = std::move(name);
  out.shape = shape;
  out.format = Format::dense(tensor->dtype);
  out.owners.push_back(tensor.file);
  out.views.push_back({tensor->bytes.data(), nullptr, nullptr, out.format, shape[0], shape[1]});
  return add(std::move(key), std::move(out));
}

// The tensor of a convolution if it has one of the two shapes; else what is wrong is noted.
TensorRef WeightLoad::find_kernel(const std::string& path, const std::string& name,
                                  const Shape& first, const Shape& last) {
  TensorRef tensor = use(name);
  const std::string shapes =
      first == last ? first.to_string() : first.to_string() + " or " + last.to_string();
  if (!tensor) {
    missing_.push_back(fmt::format("{}: expected {}, got no such tensor", name, shapes));
    return {};
  }
  if (source_->find(stored(path) + ".scales") || !is_dense_float(tensor->dtype) ||
      (!tensor->has_shape(first) && !tensor->has_shape(last))) {
    wrong(tensor, "F32, F16 or BF16 " + shapes);
    return {};
  }
  return tensor;
}

const Weight* WeightLoad::kernel(const std::string& path, const WeightScope::Kernel& kernel) {
  std::string name = stored(path) + ".weight";
  const Shape first{kernel.out, kernel.in, kernel.rows, kernel.columns};
  const Shape last{kernel.out, kernel.rows, kernel.columns, kernel.in};
  const int64_t taps = kernel.rows * kernel.columns, cols = taps * kernel.in;
  const Shape shape{kernel.out, cols};
  std::string key = "k " + name + first.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording()) {
    const auto dims = first.dims();
    return record(std::move(key),
                  {WeightRequest::Kind::kPlain, name, "", shape, {dims.begin(), dims.end()}});
  }
  const TensorRef tensor = find_kernel(path, name, first, last);
  if (!tensor) return placeholder(std::move(key), std::move(name), shape);
  const bool channels_last =
      tensor->has_shape(last) && (!tensor->has_shape(first) || kernel.channels_last);
  Weight out;
  out.name = std::move(name);
  out.shape = shape;
  out.format = Format::dense(tensor->dtype);
  const std::byte* data = tensor->bytes.data();
  if (channels_last || taps == 1 || kernel.in == 1) {
    out.owners.push_back(tensor.file);
  } else {
    const int64_t size = size_of(tensor->dtype);
    const std::shared_ptr<std::byte[]> copy(
        new std::byte[static_cast<size_t>(kernel.out * cols * size)]);
    std::byte* to = copy.get();
    for (int64_t o = 0; o < kernel.out; ++o)
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t i = 0; i < kernel.in; ++i, to += size)
          std::memcpy(to, data + (o * cols + i * taps + t) * size, static_cast<size_t>(size));
    data = copy.get();
    out.owners.push_back(copy);
  }
  out.views.push_back({data, nullptr, nullptr, out.format, kernel.out, cols});
  return add(std::move(key), std::move(out));
}

const Weight* WeightLoad::taps(const std::string& path, int64_t channels, int64_t rows,
                               int64_t columns) {
  std::string name = stored(path) + ".weight";
  const Shape first{channels, 1, rows, columns};
  const int64_t taps = rows * columns;
  const Shape shape{taps, channels};
  std::string key = "d " + name + first.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording()) {
    const auto dims = first.dims();
    const Weight* out = record(
        std::move(key), {WeightRequest::Kind::kPlain, name, "", shape, {dims.begin(), dims.end()}});
    set_->storage_.back().format = Format::dense(DType::kF32);
    set_->storage_.back().views.front().format = Format::dense(DType::kF32);
    return out;
  }
  const TensorRef tensor = find_kernel(path, name, first, {channels, rows, columns, 1});
  if (!tensor) return placeholder(std::move(key), std::move(name), shape);
  const std::shared_ptr<float[]> copy(new float[static_cast<size_t>(taps * channels)]);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < taps; ++t)
      copy[t * channels + c] = load_float(tensor->bytes.data(), tensor->dtype, c * taps + t);
  Weight out;
  out.name = std::move(name);
  out.shape = shape;
  out.format = Format::dense(DType::kF32);
  out.owners.push_back(copy);
  out.views.push_back({reinterpret_cast<const std::byte*>(copy.get()), nullptr, nullptr, out.format,
                       taps, channels});
  return add(std::move(key), std::move(out));
}

}  // namespace decant
