#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "checkpoint/foreign_config.h"
#include "checkpoint/safetensors.h"
#include "tensor/format.h"

namespace decant {

using Json = nlohmann::ordered_json;

/// What a config says about one module. Of an affine format the type of the scales is not known
/// there.
struct QuantizationEntry {
  bool quantized = true;         // false: the module is listed as kept in floating point
  std::optional<Format> format;  // absent: quantised in the format its tensors have
  bool global_scale = false;     // nvfp4 experts with a second-level scale
};

/// The `quantization` (or `quantization_config`) object of a config.json. As mlx-lm writes it, the
/// defaults of the model and overrides by module path (qwen3.md, appendix Q.3); with a
/// `quant_method`, the quantisation of another tool.
class QuantizationConfig {
 public:
  QuantizationConfig() = default;
  /// Errors: ConfigError listing every impossible combination of bits, group size and mode, or
  /// naming what is not supported of another tool's.
  static QuantizationConfig parse(const Json& config, std::string_view where);
  /// As parse() for the config.json of `folder`; where that says nothing of quantisation, what
  /// ModelOpt's hf_quant_config.json beside it says.
  static QuantizationConfig read(const std::filesystem::path& folder, const Json& config);

  /// True if the config speaks of quantisation at all.
  bool present() const { return top_.has_value() || foreign_.has_value(); }
  /// What another tool than mlx-lm did, or null.
  const ForeignQuantization* foreign() const { return foreign_ ? &*foreign_ : nullptr; }
  /// The model's default format.
  const std::optional<Format>& top() const { return top_; }
  /// The entry of the first of these module paths that has one; a leading `language_model.` may be
  /// missing or superfluous on either side.
  const QuantizationEntry* find(std::span<const std::string> paths) const;

 private:
  std::optional<Format> top_;
  std::optional<ForeignQuantization> foreign_;
  std::unordered_map<std::string, QuantizationEntry> entries_;
};

/// Shape and type of the tensors a module is stored as; absent ones are null.
struct ModuleTensors {
  const TensorInfo* weight = nullptr;
  const TensorInfo* scales = nullptr;
  const TensorInfo* biases = nullptr;
};

/// The format in which `tensors` store matrices of `cols` inputs, whatever a config says: dense
/// without scales, otherwise affine or a microscaling kind. A string says what is impossible about
/// them. Only types and last dimensions are looked at.
std::variant<Format, std::string> format_of_tensors(const ModuleTensors& tensors, int64_t cols);

class ConfigReader;
/// bits, group_size and mode of an object, as a config or a recipe gives them; a missing mode is
/// affine, missing numbers are the defaults of the mode. Errors: ConfigError for a combination that
/// does not exist.
Format read_format(const ConfigReader& reader);
/// The format named "mxfp4", "mxfp8" or "nvfp4".
std::optional<Format> micro_format(std::string_view name);

/// "affine", "mxfp4", ...: the `mode` of a config. Dense formats have none.
std::string_view mode_name(const Format& format);

}  // namespace decant
