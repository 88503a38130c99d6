#include "checkpoint/weight_load.h"

#include <algorithm>
#include <cstring>
#include <variant>

#include "base/errors.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/units.h"

namespace decant {
namespace {

constexpr size_t kReportLimit = 64;             // lines per kind of problem
constexpr int64_t kMaxPlaceholderViews = 4096;  // a config may ask for any number of experts

// Where the families of transformers and mlx-lm keep stacked experts below their module.
constexpr std::string_view kStacks[] = {"switch_mlp", "switch_glu", "experts.switch_glu",
                                        "experts"};

std::string file_name(const TensorRef& tensor) {
  return tensor.file ? tensor.file->path().filename().string() : std::string("no file");
}

void append_section(std::string& out, std::string_view headline, std::vector<std::string>& lines) {
  if (lines.empty()) return;
  Problems problems(kReportLimit);
  for (std::string& line : lines) problems.add(std::move(line));
  out += "\n" + problems.text(headline);
}

}  // namespace

// The planes of one module with their format.
struct WeightLoad::Plane {
  Format format;
  const std::byte* data = nullptr;
  const std::byte* scales = nullptr;
  const std::byte* biases = nullptr;
  std::vector<float> tensor_scales;  // nvfp4 with a global scale: one for each matrix of the stack
  std::vector<std::shared_ptr<const void>> owners;
  std::string source;
  int64_t made_row_bytes = 0;  // of one row of the planes that are made

  // The matrix `index` of a stack of [rows, cols] matrices.
  MatrixView view(int64_t index, int64_t rows, int64_t cols) const {
    MatrixView out;
    out.format = format;
    out.rows = rows;
    out.cols = cols;
    out.data = data + index * rows * format.data_row_bytes(cols);
    if (scales != nullptr) out.scales = scales + index * rows * format.scale_row_bytes(cols);
    if (biases != nullptr) out.biases = biases + index * rows * format.bias_row_bytes(cols);
    if (!tensor_scales.empty()) out.tensor_scale = tensor_scales[static_cast<size_t>(index)];
    return out;
  }
  void own(const std::shared_ptr<const void>& owner) {
    if (owner && std::find(owners.begin(), owners.end(), owner) == owners.end())
      owners.push_back(owner);
  }
  // Adds what `out` needs of this beside views, once those of this plane are in it.
  void describe(Weight& out, int64_t rows) const {
    for (const auto& owner : owners)
      if (std::find(out.owners.begin(), out.owners.end(), owner) == out.owners.end())
        out.owners.push_back(owner);
    out.source = source;
    out.made_bytes += rows * made_row_bytes;
  }
};

WeightLoad::WeightLoad(std::shared_ptr<const TensorSource> source, Renames renames, bool with_draft)
    : source_(std::move(source)),
      renames_(std::move(renames)),
      with_draft_(with_draft),
      set_(std::make_shared<WeightSet>()) {
  if (renames_.layouts.empty()) renames_.layouts.emplace_back();
  layout_ = renames_.layouts.front();
  for (const Renames::Layout& layout : renames_.layouts) {
    if (!exists(Renames::apply(layout, renames_.probe))) continue;
    layout_ = layout;
    break;
  }
}

bool WeightLoad::exists(const std::string& name) const {
  if (source_->find(name)) return true;
  constexpr std::string_view kWeight = ".weight";
  if (source_->quantization().foreign() == nullptr || !name.ends_with(kWeight)) return false;
  const std::string module = name.substr(0, name.size() - kWeight.size());
  return source_->find(module + ".weight_packed") || source_->find(module + ".qweight");
}

TensorRef WeightLoad::use(const std::string& name) {
  TensorRef tensor = source_->find(name);
  if (tensor) used_.insert(name);
  return tensor;
}

const Weight* WeightLoad::add(std::string key, Weight weight) {
  set_->storage_.push_back(std::move(weight));
  const Weight* out = &set_->storage_.back();
  set_->order_.push_back(out);
  asked_.emplace(std::move(key), out);
  return out;
}

const Weight* WeightLoad::placeholder(std::string key, std::string name, const Shape& shape) {
  Weight out;
  out.name = std::move(name);
  out.shape = shape;
  out.format = source_->recording().value_or(Format::dense(DType::kBF16));
  MatrixView view;
  view.format = out.format;
  view.cols = shape.rank() > 0 ? shape.back() : 1;
  view.rows = shape.rank() > 1 ? shape[-2] : 1;
  const int64_t views =
      shape.rank() == 3 ? std::clamp<int64_t>(shape[0], 1, kMaxPlaceholderViews) : 1;
  out.views.assign(static_cast<size_t>(views), view);
  return add(std::move(key), std::move(out));
}

const Weight* WeightLoad::record(std::string key, WeightRequest request) {
  source_->record(request);
  std::string name = request.path;
  if (!request.projection.empty()) name += "." + request.projection;
  const bool vector = request.kind == WeightRequest::Kind::kVector;
  const bool plain = request.kind == WeightRequest::Kind::kPlain;
  const Weight* out = placeholder(std::move(key), std::move(name), request.shape);
  if (vector || plain) {
    Weight& weight = set_->storage_.back();
    weight.format = Format::dense(vector ? DType::kF32 : DType::kBF16);
    for (MatrixView& view : weight.views) view.format = weight.format;
  }
  return out;
}

void WeightLoad::wrong(const TensorRef& tensor, std::string_view expected) {
  wrong_.push_back(unlike(tensor, expected));
}

// MLX's `global_scale` is the largest magnitude of a matrix, which the scales of nvfp4 are relative
// to: 448 * 6 stands for it.
bool WeightLoad::read_global_scale(const TensorRef& tensor, int64_t matrices, Plane& out) {
  constexpr float kLargest = 448.0f * 6.0f;
  const bool one = matrices == 1 && tensor->rank == 0;
  if (out.format.kind != Format::Kind::kNvfp4) {
    wrong(tensor, fmt::format("no global scale beside {} weights", out.format.name()));
    return false;
  }
  if (tensor->dtype != DType::kF32 || (!one && !tensor->has_shape(Shape{matrices}))) {
    wrong(tensor, fmt::format("F32 ({})", matrices));
    return false;
  }
  out.tensor_scales.resize(static_cast<size_t>(matrices));
  for (size_t i = 0; i < out.tensor_scales.size(); ++i)
    out.tensor_scales[i] =
        load_float(tensor->bytes.data(), DType::kF32, static_cast<int64_t>(i)) / kLargest;
  return true;
}

std::vector<std::string> WeightLoad::config_paths(const std::string& module) const {
  // The config may name a module as the file does or as the model did before it was converted: by
  // any other layout.
  std::vector<std::string> out{module};
  for (const Renames::Rule& own : layout_) {
    const std::string dotted = module + ".";
    if (!dotted.starts_with(own.stored)) continue;
    std::string asked = own.asked + dotted.substr(own.stored.size());
    asked.pop_back();
    out.push_back(asked);
    for (const Renames::Layout& layout : renames_.layouts)
      out.push_back(Renames::apply(layout, asked));
    return out;
  }
  for (const Renames::Layout& layout : renames_.layouts)
    out.push_back(Renames::apply(layout, module));
  return out;
}

bool WeightLoad::read_module(const std::string& module, const std::string& suffix,
                             std::span<const int64_t> leading, int64_t cols, Plane& out) {
  if (const auto foreign = read_foreign_module(module, suffix, leading, cols, out)) return *foreign;
  std::vector<int64_t> dims(leading.begin(), leading.end());
  dims.push_back(cols);
  const std::string dense_shape = dims_text(dims);
  const std::string name = module + suffix;
  const TensorRef weight = use(name), scales = use(module + ".scales"),
                  biases = use(module + ".biases");
  const TensorRef global = use(module + ".global_scale");
  if (!weight) {
    const auto* foreign = source_->quantization().foreign();
    const std::string_view packed = foreign != nullptr ? foreign->weight_name() : "weight";
    missing_.push_back(fmt::format("{}: expected {}{}, got no such tensor", name, dense_shape,
                                   packed == "weight" ? "" : fmt::format(" (or {})", packed)));
    return false;
  }
  const QuantizationEntry* entry = source_->quantization().find(config_paths(module));
  const auto found = format_of_tensors({weight.info, scales.info, biases.info}, cols);
  const auto leading_match = [&](const TensorRef& tensor) {
    const auto have = tensor->dims();
    return have.size() == dims.size() && std::equal(leading.begin(), leading.end(), have.begin());
  };
  if (const auto* problem = std::get_if<std::string>(&found)) {
    wrong_.push_back(fmt::format("{}: {} for {}: {} {} (in {})", name, *problem, dense_shape,
                                 name_of(weight->dtype), weight->shape_text(), file_name(weight)));
    return false;
  }
  out.format = std::get<Format>(found);
  if (out.format.is_dense()) {
    if (!leading_match(weight) || weight->dims().back() != cols) {
      wrong(weight, dense_shape);
      return false;
    }
  } else {
    bool good = true;
    for (const TensorRef* tensor : {&weight, &scales, &biases}) {
      if (!*tensor) continue;
      const int64_t last =
          tensor == &weight ? out.format.data_row_bytes(cols) / 4 : cols / out.format.group;
      dims.back() = last;
      if (!leading_match(*tensor) || (*tensor)->dims().back() != last) {
        wrong(*tensor,
              fmt::format("{} for {} {}", dims_text(dims), out.format.name(), dense_shape));
        good = false;
      }
    }
    if (!good) return false;
  }
  for (const TensorRef* tensor : {&weight, &scales, &biases}) out.own(tensor->file);
  out.data = weight->bytes.data();
  if (scales) out.scales = scales->bytes.data();
  if (biases) out.biases = biases->bytes.data();
  if (global && !read_global_scale(global, leading.size() > 1 ? leading[0] : 1, out)) return false;
  if (!global && entry != nullptr && entry->global_scale &&
      out.format.kind == Format::Kind::kNvfp4) {
    missing_.push_back(module +
                       ".global_scale: expected F32 as the config says, got no such tensor");
    return false;
  }
  // The file wins over the config, but not silently.
  if (entry != nullptr && (entry->quantized == out.format.is_dense() ||
                           (entry->format && (entry->format->kind != out.format.kind ||
                                              entry->format->bits != out.format.bits ||
                                              entry->format->group != out.format.group))))
    log_debug("[weights] {}: the config says {}, the file has {}; using the file", module,
              !entry->quantized ? "not quantised"
              : entry->format   ? entry->format->name()
                                : "quantised",
              out.format.name());
  return true;
}

std::optional<bool> WeightLoad::read_foreign_module(const std::string& module,
                                                    const std::string& suffix,
                                                    std::span<const int64_t> leading, int64_t cols,
                                                    Plane& out) {
  const std::string key = module + suffix + dims_text(leading) + std::to_string(cols);
  if (const auto known = foreign_modules_.find(key); known != foreign_modules_.end()) {
    out = *known->second;
    return true;
  }
  ForeignModule found;
  ForeignProblems problems;
  if (!find_foreign_module(*source_, module, suffix, leading, cols, found, problems))
    return std::nullopt;
  for (const TensorRef& tensor : found.tensors) used_.insert(tensor->name);
  if (!problems.missing.empty() || !problems.wrong.empty()) {
    std::ranges::move(problems.missing, std::back_inserter(missing_));
    std::ranges::move(problems.wrong, std::back_inserter(wrong_));
    return false;
  }
  out.format = found.format;
  out.source = found.source;
  out.tensor_scales = found.tensor_scales;
  out.made_row_bytes = found.made_bytes() / found.rows;
  for (const TensorRef& tensor : found.tensors)
    if (!found.makes_data() || tensor.info != found.tensors.front().info) out.own(tensor.file);
  if (found.make == nullptr) {
    out.data = found.data;
    out.scales = found.scales;
  } else {
    const std::byte *data = found.data, *scales = found.scales, *biases = found.biases;
    const ForeignPlanes::Room room = foreign_planes_.add(std::move(found));
    out.own(room.owner);
    out.data = data != nullptr ? data : room.planes.data;
    out.scales = scales != nullptr ? scales : room.planes.scales;
    out.biases = biases != nullptr ? biases : room.planes.biases;
  }
  foreign_modules_.emplace(key, std::make_shared<const Plane>(out));
  return true;
}

const Weight* WeightLoad::matrix(const std::string& path, const Shape& shape) {
  std::string name = stored(path);
  std::string key = "m " + name + shape.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording())
    return record(std::move(key), {WeightRequest::Kind::kMatrix, name, "", shape});
  Plane plane;
  const int64_t rows = shape[0];
  if (!read_module(name, ".weight", {&rows, 1}, shape[1], plane))
    return placeholder(std::move(key), std::move(name), shape);
  Weight out;
  out.name = std::move(name);
  out.shape = shape;
  out.format = plane.format;
  out.views.push_back(plane.view(0, shape[0], shape[1]));
  plane.describe(out, shape[0]);
  return add(std::move(key), std::move(out));
}

const Weight* WeightLoad::experts(const std::string& path, std::string_view projection,
                                  const Shape& shape) {
  const std::string parent = stored(path);
  const std::string prefix = parent.empty() ? "" : parent + ".";
  std::string key = "e " + parent + " " + std::string(projection) + shape.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording())
    return record(std::move(key),
                  {WeightRequest::Kind::kExperts, parent, std::string(projection), shape});
  const Weight* out = nullptr;
  const std::string name = std::string(projection);
  for (std::string_view stack : kStacks) {
    const std::string base = prefix + std::string(stack) + ".";
    if (exists(base + name + ".weight")) {
      out = stacked_experts(base + name, ".weight", shape, 0, shape[1]);
    } else if (source_->find(base + name)) {  // transformers 5: no suffix
      out = stacked_experts(base + name, "", shape, 0, shape[1]);
    } else if (name == "gate_proj" || name == "up_proj") {
      const int64_t first = name == "up_proj" ? shape[1] : 0;  // the gate's rows come first
      if (exists(base + "gate_up_proj.weight"))
        out = stacked_experts(base + "gate_up_proj", ".weight", shape, first, 2 * shape[1]);
      else if (source_->find(base + "gate_up_proj"))
        out = stacked_experts(base + "gate_up_proj", "", shape, first, 2 * shape[1]);
    }
    if (out != nullptr) break;
  }
  if (out == nullptr) out = separate_experts(parent, projection, shape);
  asked_.emplace(std::move(key), out);
  return out;
}

const Weight* WeightLoad::stack(const std::string& path, const Shape& shape) {
  std::string name = stored(path);
  std::string key = "t " + name + shape.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  if (source_->recording())
    return record(std::move(key), {WeightRequest::Kind::kStack, name, "", shape});
  const Weight* out = stacked_experts(name, ".weight", shape, 0, shape[1]);
  asked_.emplace(std::move(key), out);
  return out;
}

const Weight* WeightLoad::cut(const std::string& path, const WeightScope::Cut& cut) {
  const std::string name = stored(path);
  const Shape shape =
      cut.transposed ? Shape{cut.count, cut.cols, cut.rows} : Shape{cut.count, cut.rows, cut.cols};
  std::string label = fmt::format("{}[*,{}:{}]{}", name, cut.first, cut.first + cut.rows,
                                  cut.transposed ? "^T" : "");
  std::string key = "c " + label + shape.to_string();
  if (const auto found = asked_.find(key); found != asked_.end()) return found->second;
  const int64_t total = cut.count * cut.stride;
  if (source_->recording()) {
    const Weight* whole = matrix(path, {total, cut.cols});
    DECANT_ASSERT(whole != nullptr, "a recording gives placeholders");
    return placeholder(std::move(key), std::move(label), shape);
  }
  Plane plane;
  if (!read_module(name, ".weight", {&total, 1}, cut.cols, plane))
    return placeholder(std::move(key), std::move(label), shape);
  Weight out;
  out.name = std::move(label);
  out.shape = shape;
  const MatrixView whole = plane.view(0, total, cut.cols);
  if (!cut.transposed) {
    out.format = plane.format;
    for (int64_t i = 0; i < cut.count; ++i)
      out.views.push_back(whole.slice_rows(i * cut.stride + cut.first, cut.rows));
    plane.describe(out, cut.count * cut.rows);
    return add(std::move(key), std::move(out));
  }
  const bool dense = plane.format.is_dense();
  out.format = dense ? plane.format : Format::dense(DType::kF32);
  const int64_t size = size_of(out.format.dtype), matrix_bytes = cut.rows * cut.cols * size;
  const std::shared_ptr<std::byte[]> copy(
      new std::byte[static_cast<size_t>(cut.count * matrix_bytes)]);
  for (int64_t i = 0; i < cut.count; ++i)
    out.views.push_back(
        {copy.get() + i * matrix_bytes, nullptr, nullptr, out.format, cut.cols, cut.rows});
  out.source = plane.source;
  out.made_bytes = cut.count * matrix_bytes;
  out.owners.push_back(copy);
  copies_.push_back([whole, cut, copy, size, dense, owners = plane.owners] {
    std::vector<float> row(static_cast<size_t>(cut.cols));
    std::byte* to = copy.get();
    for (int64_t i = 0; i < cut.count; ++i, to += cut.rows * cut.cols * size)
      for (int64_t r = 0; r < cut.rows; ++r) {
        const int64_t from = i * cut.stride + cut.first + r;
        const std::byte* source = whole.data + from * cut.cols * size;
        if (!dense) {
          dequantize_row(whole, from, row.data());
          source = reinterpret_cast<const std::byte*>(row.data());
        }
        for (int64_t c = 0; c < cut.cols; ++c)
          std::memcpy(to + (c * cut.rows + r) * size, source + c * size, static_cast<size_t>(size));
      }
  });
  return add(std::move(key), std::move(out));
}

const Weight* WeightLoad::stacked_experts(const std::string& module, const std::string& suffix,
                                          const Shape& shape, int64_t first_row,
                                          int64_t total_rows) {
  const std::string name = total_rows == shape[1]
                               ? module
                               : fmt::format("{}[{}:{}]", module, first_row, first_row + shape[1]);
  Plane plane;
  const int64_t leading[] = {shape[0], total_rows};
  // The key of a placeholder or weight made here is never asked for: experts() has its own.
  if (!read_module(module, suffix, leading, shape[2], plane))
    return placeholder("s " + name, name, shape);
  Weight out;
  out.name = name;
  out.shape = shape;
  out.format = plane.format;
  out.views.reserve(static_cast<size_t>(shape[0]));
  for (int64_t expert = 0; expert < shape[0]; ++expert)
    out.views.push_back(plane.view(expert, total_rows, shape[2]).slice_rows(first_row, shape[1]));
  plane.describe(out, shape[0] * shape[1]);
  return add("s " + name, std::move(out));
}

const Weight* WeightLoad::separate_experts(const std::string& parent, std::string_view projection,
                                           const Shape& shape) {
  const std::string prefix = (parent.empty() ? "" : parent + ".") + "experts.";
  const std::string name = fmt::format("{}*.{}", prefix, projection);
  const auto module_of = [&](int64_t expert) {
    return fmt::format("{}{}.{}", prefix, expert, projection);
  };
  Weight out;
  out.name = name;
  out.shape = shape;
  bool good = true;
  for (int64_t expert = 0; expert < shape[0]; ++expert) {
    const std::string module = module_of(expert);
    // The config names the count; look no further than the first expert the files lack.
    if (!exists(module + ".weight")) {
      missing_.push_back(fmt::format("{}.weight: expected {} experts of ({},{}), got {}",
                                     expert == 0 ? name : module, shape[0], shape[1], shape[2],
                                     expert));
      good = false;
      break;
    }
    Plane plane;
    if (!read_module(module, ".weight", {&shape.dims()[1], 1}, shape[2], plane)) {
      good = false;
      continue;
    }
    if (out.views.empty()) {
      out.format = plane.format;
    } else if (out.format != plane.format) {
      wrong_.push_back(fmt::format("{}: expected {} like the other experts, got {}", module,
                                   out.format.name(), plane.format.name()));
      good = false;
      continue;
    }
    out.views.push_back(plane.view(0, shape[1], shape[2]));
    plane.describe(out, shape[1]);
  }
  if (!good) return placeholder("s " + name, name, shape);
  return add("s " + name, std::move(out));
}

bool WeightLoad::has(const std::string& path) const { return exists(stored(path)); }

std::vector<int64_t> WeightLoad::dims(const std::string& path) const {
  const TensorRef tensor = source_->find(stored(path));
  if (!tensor) return {};
  const auto dims = tensor->dims();
  return {dims.begin(), dims.end()};
}

void WeightLoad::ignore(const std::string& path) { ignored_.insert(stored(path)); }

void WeightLoad::find_left_over() {
  const auto is_ignored = [&](std::string_view name) {
    // Rotary tables are computed, whatever a file stores.
    if (name.ends_with(".rotary_emb.inv_freq")) return true;
    for (size_t end = name.size(); end != std::string_view::npos && end > 0;
         end = name.rfind('.', end - 1))
      if (ignored_.contains(std::string(name.substr(0, end)))) return true;
    return false;
  };
  size_t alone = 0;
  for (std::string_view name : source_->names()) {
    if (used_.contains(std::string(name)) || is_ignored(name)) continue;
    const TensorRef tensor = source_->find(name);
    if (is_left_alone(tensor)) {
      ++alone;
    } else {
      left_over_.push_back(unlike(tensor, "no such tensor"));
    }
  }
  if (alone > 0)
    log_info(
        "[weights] {}: {} scales of activations and caches are not used: those are not "
        "quantised as the file says",
        source_->description(), alone);
}

bool WeightLoad::is_left_alone(const TensorRef& tensor) const {
  if (source_->quantization().foreign() == nullptr) return false;
  if (is_activation_scale(tensor->name)) return true;
  // GPTQ's first writers gave every linear a bias, of zeros where the model has none.
  constexpr std::string_view kBias = ".bias";
  return tensor->name.ends_with(kBias) &&
         source_->find(tensor->name.substr(0, tensor->name.size() - kBias.size()) + ".qweight") &&
         std::ranges::all_of(tensor->bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

void WeightLoad::make_planes() {
  int64_t bytes = foreign_planes_.bytes();
  if (bytes > available_memory())
    throw MemoryError(
        "[memory] {}: expected at most {} of free memory for weights that are converted at load, "
        "got {}",
        source_->description(), format_bytes(static_cast<uint64_t>(available_memory())),
        format_bytes(static_cast<uint64_t>(bytes)));
  wrong_ = foreign_planes_.make();
  foreign_modules_.clear();
  if (!wrong_.empty()) return;
  for (const auto& copy : copies_) copy();
  copies_.clear();
}

std::shared_ptr<WeightSet> WeightLoad::finish(bool contents) {
  if (source_->recording()) return set_;
  find_left_over();
  if (contents && missing_.empty() && wrong_.empty() && left_over_.empty()) make_planes();
  if (missing_.empty() && wrong_.empty() && left_over_.empty()) return set_;
  std::string text =
      fmt::format("[weights] {}: {} missing, {} of another shape or type, {} left over",
                  source_->description(), missing_.size(), wrong_.size(), left_over_.size());
  append_section(text, "missing:", missing_);
  append_section(text, "of another shape or type:", wrong_);
  append_section(text, "left over:", left_over_);
  throw WeightError("{}", text);
}

TensorRef DummySource::find(std::string_view name) const {
  TensorRef out;
  if (present_.contains(std::string(name))) out.info = &present_info_;
  return out;
}

}  // namespace decant
