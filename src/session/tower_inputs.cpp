#include "session/tower_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/checked.h"
#include "checkpoint/safetensors.h"

namespace decant {
namespace {

using Inputs = std::vector<std::shared_ptr<const TowerInput>>;

template <typename T>
int64_t load_as(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return static_cast<int64_t>(value);
}

int64_t load_int(const TensorInfo& tensor, int64_t index) {
  const std::byte* data = tensor.bytes.data();
  switch (tensor.dtype) {
    case DType::kI64:
    case DType::kU64:  // nothing here is that large: it fails its range
      return load_as<int64_t>(data, index);
    case DType::kI32:
      return load_as<int32_t>(data, index);
    case DType::kU32:
      return load_as<uint32_t>(data, index);
    case DType::kI16:
      return load_as<int16_t>(data, index);
    case DType::kU16:
      return load_as<uint16_t>(data, index);
    case DType::kI8:
      return load_as<int8_t>(data, index);
    default:
      return load_as<uint8_t>(data, index);
  }
}

bool is_integer(DType dtype) {
  switch (dtype) {
    case DType::kI64:
    case DType::kU64:
    case DType::kI32:
    case DType::kU32:
    case DType::kI16:
    case DType::kU16:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return true;
    default:
      return false;
  }
}

/// Tensors of one file, taken one by one so that what nobody asked for is known at the end.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : file_(SafetensorsFile::open(path)) {}

  const TensorInfo* find(std::string_view name) {
    const TensorInfo* found = file_->find(name);
    if (found != nullptr) used_.emplace_back(name);
    return found;
  }
  [[noreturn]] void wrong(const TensorInfo& tensor, std::string_view expected) const {
    throw RequestError("[inputs] {}: {}: expected {}, got {} {}", file_->path().string(),
                       tensor.name, expected, name_of(tensor.dtype), tensor.shape_text());
  }
  [[noreturn]] void missing(std::string_view name, std::string_view beside) const {
    throw RequestError("[inputs] {}: expected {} beside {}, got no such tensor",
                       file_->path().string(), name, beside);
  }
  /// Every tensor is a processor's output that was read, or something the reader names.
  void check_all_used() const {
    for (const TensorInfo& tensor : file_->tensors())
      if (std::find(used_.begin(), used_.end(), tensor.name) == used_.end())
        throw RequestError(
            "[inputs] {}: {}: expected pixel_values, image_grid_thw, image_position_ids, "
            "pixel_values_videos, video_grid_thw, video_position_ids, input_features or "
            "input_features_mask, got another name",
            file_->path().string(), tensor.name);
  }
  void check_ints(const TensorInfo& tensor, size_t rank, int64_t last) const {
    if (!is_integer(tensor.dtype) || tensor.dims().size() != rank ||
        (last > 0 && tensor.dims().back() != last))
      wrong(tensor, last > 0 ? fmt::format("integers of rank {} with {} columns", rank, last)
                             : fmt::format("integers of rank {}", rank));
  }
  void check_floats(const TensorInfo& tensor, size_t least, size_t most) const {
    if (!is_dense_float(tensor.dtype) || tensor.dims().size() < least ||
        tensor.dims().size() > most)
      wrong(tensor, fmt::format("F32, F16 or BF16 of rank {} to {}", least, most));
  }
  int32_t small(const TensorInfo& tensor, int64_t index) const {
    const int64_t value = load_int(tensor, index);
    if (value < -1 || value > INT32_MAX) wrong(tensor, fmt::format("-1 to {} in it", INT32_MAX));
    return static_cast<int32_t>(value);
  }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
  std::vector<std::string> used_;
};

std::vector<float> load_floats(const TensorInfo& tensor, int64_t first, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    out[static_cast<size_t>(i)] = load_float(tensor.bytes.data(), tensor.dtype, first + i);
  return out;
}

/// Rows of the flat list of patches that belong to each grid; frames of a video stand alone.
void read_by_grid(Reader& reader, const TensorInfo& pixels, const TensorInfo& grid, Medium medium,
                  Inputs& out) {
  reader.check_floats(pixels, 2, 2);
  reader.check_ints(grid, 2, 3);
  const int64_t patches = pixels.dims()[0], width = pixels.dims()[1];
  int64_t at = 0;
  for (int64_t i = 0; i < grid.dims()[0]; ++i) {
    const int64_t t = reader.small(grid, 3 * i), h = reader.small(grid, 3 * i + 1),
                  w = reader.small(grid, 3 * i + 2);
    const auto frame = checked_mul(h, w);
    const auto all = frame ? checked_mul(*frame, t) : std::nullopt;
    if (t < 1 || h < 1 || w < 1 || !all || *all > patches - at)
      reader.wrong(grid, fmt::format("grids of {} patches in all", patches));
    const int64_t parts = medium == Medium::kVideo ? t : 1, each = *all / parts;
    for (int64_t part = 0; part < parts; ++part, at += each) {
      auto input = std::make_shared<TowerInput>();
      input->medium = medium;
      input->shape = {each, width};
      input->grid = {t / parts, h, w};
      input->values = load_floats(pixels, at * width, each * width);
      out.push_back(std::move(input));
    }
  }
  if (at != patches) reader.wrong(pixels, fmt::format("{} patches as the grids have them", at));
}

/// One picture or frame per index of the first dimensions: [pictures, (frames,) patches, values].
void read_by_position(Reader& reader, const TensorInfo& pixels, const TensorInfo& positions,
                      Medium medium, Inputs& out) {
  reader.check_floats(pixels, 3, 4);
  const auto dims = pixels.dims();
  reader.check_ints(positions, dims.size(), 2);
  if (!std::equal(dims.begin(), dims.end() - 1, positions.dims().begin()))
    reader.wrong(positions, "the patches of the pixel values");
  const int64_t patches = dims[dims.size() - 2], width = dims.back();
  int64_t pictures = 1;
  for (size_t i = 0; i + 2 < dims.size(); ++i) pictures *= dims[i];
  for (int64_t p = 0; p < pictures; ++p) {
    auto input = std::make_shared<TowerInput>();
    input->medium = medium;
    input->shape = {patches, width};
    input->values = load_floats(pixels, p * patches * width, patches * width);
    bool any = false;
    for (int64_t i = 0; i < patches; ++i) {
      const int64_t index = 2 * (p * patches + i);
      input->positions.push_back(
          {reader.small(positions, index), reader.small(positions, index + 1)});
      any = any || input->positions.back()[0] >= 0;
    }
    if (any) out.push_back(std::move(input));  // else the place of a frame that is not there
  }
}

void read_pictures(Reader& reader, Medium medium, Inputs& out) {
  const bool video = medium == Medium::kVideo;
  const TensorInfo* pixels = reader.find(video ? "pixel_values_videos" : "pixel_values");
  if (pixels == nullptr) return;
  const TensorInfo* grid = reader.find(video ? "video_grid_thw" : "image_grid_thw");
  if (grid == nullptr && !video) grid = reader.find("grid_thw");
  if (grid != nullptr) return read_by_grid(reader, *pixels, *grid, medium, out);
  if (const TensorInfo* positions =
          reader.find(video ? "video_position_ids" : "image_position_ids"))
    return read_by_position(reader, *pixels, *positions, medium, out);
  reader.check_floats(*pixels, 2, 5);
  const auto dims = pixels->dims();
  if (dims.size() < 4)
    reader.missing(
        video ? "video_grid_thw or video_position_ids" : "image_grid_thw or image_position_ids",
        pixels->name);
  // [pictures, (frames,) channels, height, width]
  const size_t tail = dims.size() - 3;
  int64_t pictures = 1;
  for (size_t i = 0; i < tail; ++i) pictures *= dims[i];
  const int64_t each = dims[tail] * dims[tail + 1] * dims[tail + 2];
  for (int64_t p = 0; p < pictures; ++p) {
    auto input = std::make_shared<TowerInput>();
    input->medium = medium;
    input->shape.assign(dims.begin() + static_cast<int64_t>(tail), dims.end());
    input->values = load_floats(*pixels, p * each, each);
    out.push_back(std::move(input));
  }
}

void read_sounds(Reader& reader, Inputs& out) {
  const TensorInfo* features = reader.find("input_features");
  if (features == nullptr) return;
  reader.check_floats(*features, 3, 3);
  const int64_t frames = features->dims()[1], width = features->dims()[2];
  const TensorInfo* mask = reader.find("input_features_mask");
  if (mask != nullptr) {
    reader.check_ints(*mask, 2, frames);
    if (mask->dims()[0] != features->dims()[0])
      reader.wrong(*mask, fmt::format("{} rows", features->dims()[0]));
  }
  for (int64_t s = 0; s < features->dims()[0]; ++s) {
    auto input = std::make_shared<TowerInput>();
    input->medium = Medium::kAudio;
    input->shape = {frames, width};
    input->values = load_floats(*features, s * frames * width, frames * width);
    if (mask != nullptr)
      for (int64_t f = 0; f < frames; ++f)
        input->mask.push_back(load_int(*mask, s * frames + f) != 0 ? 1 : 0);
    out.push_back(std::move(input));
  }
}

}  // namespace

TowerInput to_tower_input(media::ImageInputs inputs, Medium medium) {
  TowerInput out;
  out.medium = medium;
  out.shape = std::move(inputs.pixel_values.shape);
  if (out.shape.size() > 2) out.shape.erase(out.shape.begin());  // the batch of one
  out.values = std::move(inputs.pixel_values.data);
  if (inputs.image_grid_thw.data.size() == 3)
    for (size_t i = 0; i < 3; ++i) out.grid[i] = inputs.image_grid_thw.data[i];
  const auto& places = inputs.image_position_ids.data;
  for (size_t i = 0; i + 1 < places.size(); i += 2)
    out.positions.push_back({places[i], places[i + 1]});
  return out;
}

TowerInput to_tower_input(media::AudioInputs inputs) {
  TowerInput out;
  out.medium = Medium::kAudio;
  out.shape = std::move(inputs.input_features.shape);
  if (out.shape.size() > 2) out.shape.erase(out.shape.begin());
  out.values = std::move(inputs.input_features.data);
  out.mask = std::move(inputs.input_features_mask.data);
  return out;
}

std::vector<std::shared_ptr<const TowerInput>> read_tower_inputs(
    const std::filesystem::path& path) {
  Reader reader(path);
  Inputs out;
  read_pictures(reader, Medium::kImage, out);
  read_pictures(reader, Medium::kVideo, out);
  read_sounds(reader, out);
  reader.check_all_used();
  return out;
}

std::vector<PromptMedia> place_in_order(const Model& model, std::span<const int32_t> tokens,
                                        std::span<const std::shared_ptr<const TowerInput>> inputs,
                                        std::span<const std::string> keys) {
  std::map<Medium, int64_t> next;
  std::vector<PromptMedia> out;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Medium medium = inputs[i]->medium;
    const Tower* tower = model.tower(medium);
    if (tower == nullptr)
      throw RequestError("[request] {}: expected a model that takes it, got {}, which does not",
                         name_of(medium), model.spec().model_type);
    const int32_t placeholder = model.spec().media.placeholder(medium);
    int64_t& at = next[medium];
    while (at < std::ssize(tokens) && tokens[static_cast<size_t>(at)] != placeholder) ++at;
    const int64_t rows = tower->rows(*inputs[i]);
    if (at == std::ssize(tokens))
      throw RequestError(
          "[request] {}: expected {} placeholders (id {}) in the prompt, got none left",
          name_of(medium), rows, placeholder);
    out.push_back({at, inputs[i], i < keys.size() ? keys[i] : std::string()});
    at += rows;
  }
  std::sort(out.begin(), out.end(),
            [](const PromptMedia& a, const PromptMedia& b) { return a.first < b.first; });
  return out;
}

}  // namespace decant
