#pragma once

#include <cstdint>
#include <string>

namespace decant {

class ConfigReader;

/// A quantisation by another tool than mlx-lm, whose modules are transcoded at load. Which modules
/// it covers, in what width and groups, is read from their tensors; this is what those do not say.
struct ForeignQuantization {
  enum class Method : uint8_t { kFp8, kCompressedTensors, kModelOpt, kAwq, kGptq };
  Method method = Method::kFp8;
  std::string name;        // for people: "fp8", "nvfp4-pack-quantized", "gptq", ...
  int64_t block_rows = 0;  // of fp8 blocks that share a scale; 0: the config names none
  int64_t block_cols = 0;
  bool symmetric = false;       // gptq: every zero point is the middle of the codes
  bool zeros_less_one = false;  // gptq, first version: zero points are stored minus one

  /// The tensor that a quantised module has in place of `weight`; "weight" where it keeps the name.
  const char* weight_name() const;
};

/// The `quantization_config` object of a config.json, which has a `quant_method`: fp8,
/// compressed-tensors, modelopt, awq or gptq as transformers 5.17 and compressed-tensors 0.20 write
/// them. Errors: ConfigError naming the method, format, algorithm or number that is not supported.
ForeignQuantization read_foreign_quantization(const ConfigReader& object);

/// The hf_quant_config.json that ModelOpt writes beside a config.json without quantization_config.
/// Errors: ConfigError.
ForeignQuantization read_model_opt_file(const ConfigReader& file);

}  // namespace decant
