#include "checkpoint/dummy_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <system_error>

#include "base/checked.h"
#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/parallel.h"
#include "checkpoint/recipe.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kBlockWords = (32u << 20) / 8;

bool is_tower(std::string_view module) {
  for (const char* part : {"vision_tower.", "visual.", "audio_tower.", "vision_embedder.",
                           "embed_vision.", "embed_audio."})
    if (module.find(part) != std::string_view::npos) return true;
  return false;
}

// What the words of a tensor become.
enum class Fill { kPacked, kE4m3, kE8m0Scale, kE4m3Scale, kAround, kScale, kBias };

struct Tensor {
  TensorDeclaration declaration;
  Fill fill = Fill::kPacked;
  uint64_t seed = 0;
  float center = 0;  // kAround: uniform from center - width to center + width
  float width = 0;   // of scales and biases: nominal scale of the group
  int bits = 0;      // kBias
};

// A counter-based generator: the value at an index needs no state, so threads and blocks agree.
uint64_t random_word(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ (z >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
  z = (z ^ (z >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
  return z ^ (z >> 32);
}

uint64_t name_seed(std::string_view name, uint64_t seed) {
  uint64_t hash = UINT64_C(0xCBF29CE484222325);
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * UINT64_C(0x100000001B3);
  return random_word(hash, seed);
}

// The value made of 16 random bits.
float value_of(const Tensor& tensor, uint16_t random) {
  const float unit = static_cast<float>(static_cast<int32_t>(random) - 32768) * (1.0f / 32768);
  if (tensor.fill == Fill::kAround) return tensor.center + tensor.width * unit;
  // Scales of either sign and of sizes that differ by half; biases put zero in the middle.
  const float scale = tensor.width * (1.0f + 0.25f * unit) * ((random & 1u) != 0 ? -1.0f : 1.0f);
  if (tensor.fill == Fill::kScale) return scale;
  return -scale * static_cast<float>((1 << tensor.bits) - 1) * 0.5f;
}

// 4 * kBatch values as 16-bit elements. The loops are this plain so that they become vectors; no
// value is a NaN.
constexpr uint64_t kBatch = 256;
using Randoms = std::array<uint16_t, 4 * kBatch>;
void values_of(const Tensor& tensor, const Randoms& randoms, std::array<float, 4 * kBatch>& out) {
  if (tensor.fill == Fill::kAround) {
    const float step = tensor.width * (1.0f / 32768);
    for (size_t i = 0; i < randoms.size(); ++i)
      out[i] = tensor.center + step * static_cast<float>(static_cast<int32_t>(randoms[i]) - 32768);
  } else {
    for (size_t i = 0; i < randoms.size(); ++i) out[i] = value_of(tensor, randoms[i]);
  }
}

bool is_bytes(Fill fill) {
  return fill == Fill::kPacked || fill == Fill::kE4m3 || fill == Fill::kE8m0Scale ||
         fill == Fill::kE4m3Scale;
}

// Eight bytes of data made of a random word.
uint64_t bytes_of(const Tensor& tensor, uint64_t random) {
  constexpr uint64_t kEach = UINT64_C(0x0101010101010101);
  switch (tensor.fill) {
    case Fill::kE4m3: {
      // A byte with all lower seven bits set is NaN: such bytes lose their lowest bit.
      uint64_t all = random & (random >> 1);
      all &= all >> 2;
      all &= random >> 4 & random >> 5 & random >> 6;
      return random & ~(all & kEach);
    }
    case Fill::kE8m0Scale: {
      // The power of two below the nominal scale or the one above it, in shares of an eighth that
      // give its mean square.
      const float below = std::clamp(std::floor(std::log2(tensor.width)), -126.0f, 126.0f);
      const float ratio = tensor.width / std::exp2(below);
      const auto share = static_cast<uint64_t>(std::lround(8 * (ratio * ratio - 1) / 3));
      const uint64_t above = ((random & kEach * 7) + kEach * share) >> 3 & kEach;
      return kEach * static_cast<uint64_t>(127 + below) + above;
    }
    case Fill::kE4m3Scale: {
      // Neighbouring codes around the nominal scale, of either sign; small ones are multiples of
      // 2^-9, so fewer of them.
      const float units = tensor.width * 512;
      const uint64_t more = units >= 16 ? 7 : units >= 6 ? 3 : units >= 2 ? 1 : 0;
      const float first = units >= 16 ? 0.7f : 0.75f;
      const uint64_t code = std::min<uint64_t>(float_to_e4m3(first * tensor.width), 0x77);
      return kEach * code + (random & kEach * more) + (random & kEach * 0x80);
    }
    case Fill::kPacked:
    case Fill::kAround:
    case Fill::kScale:
    case Fill::kBias:
      break;
  }
  return random;
}

// Words [begin, end) of the tensor's data, 8 bytes each: a word of a 16-bit type has four values,
// one of f32 two (of which the randoms are halves of one word).
void generate(const Tensor& tensor, uint64_t begin, uint64_t end, std::byte* out) {
  if (is_bytes(tensor.fill)) {
    for (uint64_t word = begin; word < end; ++word) {
      const uint64_t bits = bytes_of(tensor, random_word(tensor.seed, word));
      std::memcpy(out + (word - begin) * 8, &bits, 8);
    }
    return;
  }
  const DType dtype = tensor.declaration.dtype;
  const uint64_t words_per_random = dtype == DType::kF32 ? 2 : 1;
  Randoms randoms;
  std::array<float, 4 * kBatch> values;
  for (uint64_t first = begin / words_per_random; first * words_per_random < end; first += kBatch) {
    for (uint64_t k = 0; k < kBatch; ++k) {
      const uint64_t random = random_word(tensor.seed, first + k);
      std::memcpy(&randoms[4 * k], &random, 8);
    }
    values_of(tensor, randoms, values);
    const std::byte* source = reinterpret_cast<const std::byte*>(values.data());
    if (dtype != DType::kF32) {
      for (size_t i = 0; i < values.size(); ++i) {
        const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
        randoms[i] = dtype == DType::kBF16
                         ? static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)
                         : float_to_f16(values[i]);
      }
      source = reinterpret_cast<const std::byte*>(randoms.data());
    }
    // The batch holds words [low, low + kBatch * words_per_random): copy what was asked of it.
    const uint64_t low = first * words_per_random;
    const uint64_t from = std::max(low, begin);
    const uint64_t to = std::min(low + kBatch * words_per_random, end);
    std::memcpy(out + (from - begin) * 8, source + (from - low) * 8,
                static_cast<size_t>((to - from) * 8));
  }
}

void write_tensor(SafetensorsWriter& writer, const Tensor& tensor, std::vector<std::byte>& block) {
  const uint64_t bytes = tensor.declaration.bytes();
  const uint64_t words = div_up<uint64_t>(bytes, 8);
  for (uint64_t first = 0; first < words; first += kBlockWords) {
    const uint64_t count = std::min(kBlockWords, words - first);
    block.resize(static_cast<size_t>(count * 8));
    parallel_ranges(static_cast<int64_t>(count), 1 << 16, [&](int64_t begin, int64_t end) {
      generate(tensor, first + static_cast<uint64_t>(begin), first + static_cast<uint64_t>(end),
               block.data() + begin * 8);
    });
    writer.write(std::span(block).first(
        static_cast<size_t>(std::min<uint64_t>(count * 8, bytes - first * 8))));
  }
}

class Builder {
 public:
  Builder(const Format& format, uint64_t seed) : format_(format), seed_(seed) {
    quantization_["group_size"] = format.group;
    quantization_["bits"] = format.bits;
    quantization_["mode"] = mode_name(format);
  }

  void add(const WeightRequest& request) {
    const auto dims = request.shape.dims();
    std::vector<int64_t> shape(dims.begin(), dims.end());
    if (request.kind == WeightRequest::Kind::kVector) return add_vector(request.path, shape);
    if (request.kind == WeightRequest::Kind::kPlain) return add_plain(request);
    const bool experts = request.kind == WeightRequest::Kind::kExperts;
    if (!experts) return add_matrix(request.path, shape);  // or a stack of matrices
    const std::string prefix = request.path.empty() ? "" : request.path + ".";
    if (!format_.is_dense()) return add_matrix(prefix + "switch_mlp." + request.projection, shape);
    for (int64_t e = 0; e < shape[0]; ++e)
      add_matrix(fmt::format("{}experts.{}.{}", prefix, e, request.projection),
                 {shape[1], shape[2]});
  }

  std::vector<Tensor>& tensors() { return tensors_; }
  const Json& quantization() const { return quantization_; }

 private:
  Tensor& push(const std::string& name, DType dtype, std::vector<int64_t> shape, Fill fill) {
    Tensor tensor;
    tensor.declaration = {name, dtype, std::move(shape)};
    tensor.fill = fill;
    tensor.seed = name_seed(name, seed_);
    return tensors_.emplace_back(std::move(tensor));
  }

  // Of what is not quantised.
  DType float_type() const { return format_.is_micro() ? DType::kBF16 : format_.dtype; }

  void add_vector(const std::string& name, const std::vector<int64_t>& shape) {
    Tensor& tensor = push(name, float_type(), shape, Fill::kAround);
    const bool bias = name.ends_with("bias");
    tensor.center = shape.size() > 1 || bias ? 0.0f : 1.0f;
    tensor.width = shape.size() > 1
                       ? std::sqrt(3.0f / static_cast<float>(std::max<int64_t>(shape.back(), 1)))
                   : bias ? 0.02f
                          : 0.1f;
  }

  void add_plain(const WeightRequest& request) {
    push(request.path, float_type(), request.dims, Fill::kAround).width =
        std::sqrt(3.0f / static_cast<float>(std::max<int64_t>(request.shape[1], 1)));
  }

  void add_matrix(const std::string& module, const std::vector<int64_t>& shape) {
    const int64_t cols = shape.back();
    Format format = format_;
    // As mlx-lm: routers at eight bits, and modules narrower than a group in floating point.
    if (!format.is_dense()) {
      // As mlx-vlm: towers stay in floating point.
      if (cols % format.group != 0 || is_tower(module)) {
        format = Format::dense(float_type());
      } else if (cols % 64 == 0 && (matches_pattern("*.mlp.gate", module) ||
                                    matches_pattern("*.shared_expert_gate", module))) {
        format = Format::affine(8, 64, float_type());
        quantization_[module]["group_size"] = format.group;
        quantization_[module]["bits"] = format.bits;
      }
    }
    const float deviation = 1.0f / std::sqrt(static_cast<float>(std::max<int64_t>(cols, 1)));
    if (format.is_dense()) {
      push(module + ".weight", format.dtype, shape, Fill::kAround).width =
          std::sqrt(3.0f) * deviation;
      return;
    }
    std::vector<int64_t> packed = shape;
    packed.back() = format.data_row_bytes(cols) / 4;
    std::vector<int64_t> groups = shape;
    groups.back() = cols / format.group;
    const bool mxfp8 = format.kind == Format::Kind::kMxfp8;
    push(module + ".weight", DType::kU32, packed, mxfp8 ? Fill::kE4m3 : Fill::kPacked);
    if (format.is_micro()) {
      const bool nvfp4 = format.kind == Format::Kind::kNvfp4;
      // The deviations of elements whose codes are uniform.
      push(module + ".scales", DType::kU8, groups, nvfp4 ? Fill::kE4m3Scale : Fill::kE8m0Scale)
          .width = deviation / (mxfp8 ? 105.0f : 2.93f);
      return;
    }
    // Uniform codes have a deviation of their span / sqrt(12). Biases must follow the very numbers
    // of the scales, hence the shared seed.
    const float span = static_cast<float>((1 << format.bits) - 1);
    Tensor& scales = push(module + ".scales", format.dtype, groups, Fill::kScale);
    scales.width = std::sqrt(12.0f) * deviation / span;
    const uint64_t seed = scales.seed;
    const float width = scales.width;
    Tensor& biases = push(module + ".biases", format.dtype, groups, Fill::kBias);
    biases.seed = seed;
    biases.width = width;
    biases.bits = format.bits;
  }

  Format format_;
  uint64_t seed_;
  std::vector<Tensor> tensors_;
  Json quantization_ = Json::object();
};

}  // namespace

void write_dummy_checkpoint(std::span<const WeightRequest> requests, const Json& config,
                            const Format& format, uint64_t seed, const fs::path& folder,
                            int data_offset_mod64) {
  Builder builder(format, seed);
  for (const WeightRequest& request : requests) builder.add(request);
  std::vector<TensorDeclaration> declarations;
  for (const Tensor& tensor : builder.tensors()) declarations.push_back(tensor.declaration);

  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw RuntimeError("[dummy] cannot make {}: {}", folder.string(), error.message());
  SafetensorsWriter writer(folder / "model.safetensors", std::move(declarations),
                           {{"format", format.is_dense() ? "pt" : "mlx"}}, data_offset_mod64);
  std::vector<std::byte> block;
  for (const Tensor& tensor : builder.tensors()) write_tensor(writer, tensor, block);
  writer.commit();

  Json written = config;
  written.erase("quantization");
  written.erase("quantization_config");
  if (!format.is_dense()) {
    written["quantization"] = builder.quantization();
    written["quantization_config"] = builder.quantization();
  }
  AtomicFile file(folder / "config.json");
  file.write(written.dump(2));
  file.commit();
}

}  // namespace decant
