#include "checkpoint/quantization.h"

#include <system_error>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/shards.h"

namespace decant {
namespace {

constexpr std::string_view kLanguageModel = "language_model.";

struct Mode {
  std::string_view name;
  Format::Kind kind;
  int bits;  // default; for the microscaling modes the only value
  int group;
};
constexpr Mode kModes[] = {
    {"affine", Format::Kind::kAffine, 4, 64},
    {"mxfp4", Format::Kind::kMxfp4, 4, 32},
    {"mxfp8", Format::Kind::kMxfp8, 8, 32},
    {"nvfp4", Format::Kind::kNvfp4, 4, 16},
};

// The text of an error without the "[config] " that the list's headline has already.
std::string line_of(const ConfigError& error) {
  const std::string_view text = error.what();
  constexpr std::string_view kPrefix = "[config] ";
  return std::string(text.starts_with(kPrefix) ? text.substr(kPrefix.size()) : text);
}

}  // namespace

Format read_format(const ConfigReader& reader) {
  const std::string name = reader.value_or<std::string>("mode", "affine");
  for (const Mode& mode : kModes) {
    if (mode.name != name) continue;
    const int64_t bits = reader.value_or<int64_t>("bits", mode.bits);
    const int64_t group = reader.value_or<int64_t>("group_size", mode.group);
    if (mode.kind == Format::Kind::kAffine) {
      if (bits < 1 || bits > 8 || bits == 7) reader.fail("bits", "1, 2, 3, 4, 5, 6 or 8");
      if (group != 32 && group != 64 && group != 128) reader.fail("group_size", "32, 64 or 128");
      return Format::affine(static_cast<int>(bits), static_cast<int>(group));
    }
    if (bits != mode.bits) reader.fail("bits", fmt::format("{} for {}", mode.bits, name));
    if (group != mode.group) reader.fail("group_size", fmt::format("{} for {}", mode.group, name));
    return {mode.kind, DType::kU8, mode.bits, mode.group};
  }
  reader.fail("mode", "affine, mxfp4, mxfp8 or nvfp4");
}

std::optional<Format> micro_format(std::string_view name) {
  for (const Mode& mode : kModes)
    if (mode.kind != Format::Kind::kAffine && mode.name == name)
      return Format{mode.kind, DType::kU8, mode.bits, mode.group};
  return std::nullopt;
}

QuantizationConfig QuantizationConfig::parse(const Json& config, std::string_view where) {
  QuantizationConfig out;
  const ConfigReader reader(config, std::string(where));
  if (!reader.has("quantization") && !reader.has("quantization_config")) {
    // A multimodal config may have another tool's in its text part.
    if (!reader.is_object("text_config")) return out;
    const ConfigReader text = reader.object("text_config");
    if (text.is_object("quantization_config") &&
        text.object("quantization_config").has("quant_method"))
      out.foreign_ = read_foreign_quantization(text.object("quantization_config"));
    return out;
  }
  const ConfigReader object =
      reader.object(reader.first_of({"quantization", "quantization_config"}));
  if (object.has("quant_method")) {
    out.foreign_ = read_foreign_quantization(object);
    return out;
  }
  Problems problems;
  const auto collect = [&](auto&& read) {
    try {
      read();
    } catch (const ConfigError& error) {
      problems.add(line_of(error));
    }
  };
  out.top_ = Format::affine(4, 64);
  collect([&] { out.top_ = read_format(object); });
  for (const auto& [key, value] : object.json().items()) {
    if (key == "bits" || key == "group_size" || key == "mode" || value.is_null()) continue;
    collect([&] {
      if (key == "quantize_activations" || key == "quantize_input")
        return object.expect(key, false);
      QuantizationEntry entry;
      if (value.is_boolean()) {
        entry.quantized = value.get<bool>();
      } else if (value.is_object()) {
        const ConfigReader module = object.object(key);
        entry.format = read_format(module);
        entry.global_scale = module.value_or<bool>("global_scale", false);
      } else {
        object.fail(key, "true, false or an object");
      }
      out.entries_.emplace(key, std::move(entry));
    });
  }
  if (!problems.empty())
    throw ConfigError(
        "{}", problems.text(fmt::format("[config] {}: quantization: {} problem{}", where,
                                        problems.count(), problems.count() == 1 ? "" : "s")));
  return out;
}

QuantizationConfig QuantizationConfig::read(const std::filesystem::path& folder,
                                            const Json& config) {
  QuantizationConfig out = parse(config, (folder / "config.json").string());
  const std::filesystem::path path = folder / "hf_quant_config.json";
  std::error_code error;
  if (out.present() || !std::filesystem::exists(path, error)) return out;
  const Json json = read_json_limited(path, kMaxConfigBytes);
  out.foreign_ = read_model_opt_file(ConfigReader(json, path.string()));
  return out;
}

const QuantizationEntry* QuantizationConfig::find(std::span<const std::string> paths) const {
  if (entries_.empty()) return nullptr;
  const auto look = [&](const std::string& path) -> const QuantizationEntry* {
    const auto found = entries_.find(path);
    return found == entries_.end() ? nullptr : &found->second;
  };
  for (const std::string& path : paths)
    if (const auto* entry = look(path)) return entry;
  for (const std::string& path : paths) {
    const bool has_prefix = path.starts_with(kLanguageModel);
    const auto* entry =
        look(has_prefix ? path.substr(kLanguageModel.size()) : std::string(kLanguageModel) + path);
    if (entry != nullptr) return entry;
  }
  return nullptr;
}

std::variant<Format, std::string> format_of_tensors(const ModuleTensors& tensors, int64_t cols) {
  const TensorInfo& weight = *tensors.weight;
  if (tensors.scales == nullptr) {
    if (is_dense_float(weight.dtype)) return Format::dense(weight.dtype);
    return fmt::format("expected F32, F16 or BF16 (or U32 with scales), got {}{}",
                       name_of(weight.dtype), tensors.biases != nullptr ? " with biases" : "");
  }
  const TensorInfo& scales = *tensors.scales;
  if (weight.dtype != DType::kU32)
    return fmt::format("expected U32 beside its scales, got {}", name_of(weight.dtype));
  if (weight.rank == 0 || scales.rank == 0)
    return fmt::format("expected a matrix with scales, got shapes {} and {}", weight.shape_text(),
                       scales.shape_text());
  const int64_t words = weight.dims().back();
  const int64_t groups = scales.dims().back();
  // The packed row must be cols * bits / 32 words and the scales cols / group values, both exactly.
  const int64_t word_limit = INT64_C(1) << 50;
  if (cols < 1 || words < 1 || groups < 1 || words > word_limit || words * 32 % cols != 0 ||
      cols % groups != 0)
    return fmt::format("expected rows of {} elements, got {} packed words and {} scales", cols,
                       words, groups);
  const int64_t bits = words * 32 / cols;
  const int64_t group = cols / groups;
  if (scales.dtype == DType::kU8) {
    if (tensors.biases != nullptr) return std::string("expected no biases beside U8 scales");
    for (const Mode& mode : kModes)
      if (mode.kind != Format::Kind::kAffine && mode.bits == bits && mode.group == group)
        return Format{mode.kind, DType::kU8, mode.bits, mode.group};
    return fmt::format("expected mxfp4, mxfp8 or nvfp4, got {} bits in groups of {} with U8 scales",
                       bits, group);
  }
  if (!is_dense_float(scales.dtype))
    return fmt::format("expected scales of F32, F16, BF16 or U8, got {}", name_of(scales.dtype));
  if (tensors.biases == nullptr) return std::string("expected biases beside its scales, got none");
  if (tensors.biases->dtype != scales.dtype)
    return fmt::format("expected biases of {} like the scales, got {}", name_of(scales.dtype),
                       name_of(tensors.biases->dtype));
  if (bits > 8 || group > 128 || !affine_supported(static_cast<int>(bits), static_cast<int>(group)))
    return fmt::format(
        "expected 1 to 6 or 8 bits in groups of 32, 64 or 128, got {} bits in groups of {}", bits,
        group);
  return Format::affine(static_cast<int>(bits), static_cast<int>(group), scales.dtype);
}

std::string_view mode_name(const Format& format) {
  for (const Mode& mode : kModes)
    if (mode.kind == format.kind) return mode.name;
  return "";
}

}  // namespace decant
