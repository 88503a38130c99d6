#include "checkpoint/foreign_config.h"

#include <algorithm>
#include <string_view>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/config_reader.h"
#include "tensor/format.h"

namespace decant {
namespace {

using Method = ForeignQuantization::Method;

constexpr int64_t kWholeRow = -1;  // as a group size

template <typename List>
bool contains(const List& list, std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

void read_block(const ConfigReader& object, std::string_view key, ForeignQuantization& out) {
  const auto block = object.ints(key, 2);
  for (int64_t size : block)
    if (size < 1 || size > ConfigReader::kMaxSize) object.fail(key, "two sizes above 0");
  if (out.block_rows != 0 && (out.block_rows != block[0] || out.block_cols != block[1]))
    object.fail(key, fmt::format("{} x {} as in another group", out.block_rows, out.block_cols));
  out.block_rows = block[0];
  out.block_cols = block[1];
}

ForeignQuantization read_fp8(const ConfigReader& object) {
  ForeignQuantization out;
  out.method = Method::kFp8;
  out.name = "fp8";
  object.expect_one_of("fmt", {"e4m3", "float8_e4m3fn"});
  if (object.has("weight_block_size")) read_block(object, "weight_block_size", out);
  return out;
}

// --- compressed-tensors --------------------------------------------------------------------------

constexpr std::string_view kPacked = "pack-quantized";
constexpr std::string_view kFloating[] = {"float-quantized",      "naive-quantized",
                                          "mxfp8-quantized",      "nvfp4-pack-quantized",
                                          "mxfp4-pack-quantized", "mixed-precision"};
constexpr const char* kFormats =
    "float-quantized, pack-quantized, nvfp4-pack-quantized, mxfp4-pack-quantized, "
    "mxfp8-quantized or mixed-precision";

// What the tensors themselves say (widths, groups, zero points) is checked there, with their names.
void read_weights(const ConfigReader& weights, std::string_view format, ForeignQuantization& out) {
  const int64_t bits = weights.in_range("num_bits", 1, 64);
  const auto type = weights.expect_one_of("type", {"int", "float"});
  const auto strategy = weights.value_or("strategy", "");
  if (weights.has("dynamic")) weights.expect("dynamic", false);
  if (type == "int") {
    if (format != kPacked && format != "mixed-precision")
      weights.fail("type", fmt::format("float for {}", format));
    if (bits > 8 || bits == 7) weights.fail("num_bits", "1 to 6 or 8");
  } else {
    if (format == kPacked) weights.fail("type", "int for pack-quantized");
    if (bits != 4 && bits != 8) weights.fail("num_bits", "4 or 8 of floating point");
  }
  if (!strategy.empty() &&
      !contains(std::initializer_list<std::string_view>{"tensor", "channel", "group", "block",
                                                        "tensor_group"},
                strategy))
    weights.fail("strategy", "tensor, channel, group, block or tensor_group");
  if (strategy == "block") {
    if (type == "int") weights.fail("strategy", "tensor, channel or group of integers");
    read_block(weights, "block_structure", out);
  }
}

ForeignQuantization read_compressed_tensors(const ConfigReader& object) {
  ForeignQuantization out;
  out.method = Method::kCompressedTensors;
  out.name = object.value_or("format", "");
  if (out.name != kPacked && !contains(kFloating, out.name)) object.fail("format", kFormats);
  if (object.is_object("sparsity_config") && !object.object("sparsity_config").json().empty())
    object.object("sparsity_config").expect_one_of("format", {"dense"});
  if (object.is_object("transform_config") && !object.object("transform_config").json().empty()) {
    const ConfigReader groups = object.object("transform_config").object_or_empty("config_groups");
    if (!groups.json().empty()) object.fail("transform_config", "no transforms of the activations");
  }
  const ConfigReader groups = object.object("config_groups");
  if (groups.json().empty()) object.fail("config_groups", "at least one group");
  for (const auto& [name, value] : groups.json().items()) {
    const ConfigReader group = groups.object(name);
    if (!group.has("weights")) continue;
    const auto format = group.value_or("format", out.name.c_str());
    if (format != kPacked && !contains(kFloating, format)) group.fail("format", kFormats);
    read_weights(group.object("weights"), format, out);
  }
  return out;
}

// --- ModelOpt ------------------------------------------------------------------------------------

void expect_algorithm(const ConfigReader& object) {
  const auto name = object.require<std::string>("quant_algo");
  if (name != "FP8" && name != "NVFP4" && name != "W4A16_NVFP4")
    object.fail("quant_algo", "FP8, NVFP4, W4A16_NVFP4 or MIXED_PRECISION of these");
}

ForeignQuantization read_model_opt(const ConfigReader& object) {
  ForeignQuantization out;
  out.method = Method::kModelOpt;
  const auto algorithm = object.require<std::string>("quant_algo");
  out.name = "modelopt " + algorithm;
  if (algorithm != "MIXED_PRECISION") {
    expect_algorithm(object);
    return out;
  }
  const ConfigReader layers = object.object_or_empty("quantized_layers");
  for (const auto& [name, value] : layers.json().items()) expect_algorithm(layers.object(name));
  return out;
}

// --- AWQ and GPTQ --------------------------------------------------------------------------------

void expect_group(const ConfigReader& object) {
  const auto group = object.value_or<int64_t>("group_size", 128);
  if (group != kWholeRow && (group < 32 || group > ConfigReader::kMaxSize || group % 32 != 0))
    object.fail("group_size", "-1 or a multiple of 32");
}

ForeignQuantization read_awq(const ConfigReader& object) {
  ForeignQuantization out;
  out.method = Method::kAwq;
  out.name = "awq";
  const std::string bits = object.first_of({"bits", "w_bit"});
  if (object.value_or<int64_t>(bits, 4) != 4) object.fail(bits, "4");
  expect_group(object);
  if (object.has("zero_point")) object.expect("zero_point", true);
  std::string version = object.first_of({"version", "format"});
  const auto layout = object.value_or(version, "gemm");
  if (layout != "gemm" && layout != "GEMM") object.fail(version, "gemm");
  return out;
}

ForeignQuantization read_gptq(const ConfigReader& object) {
  ForeignQuantization out;
  out.method = Method::kGptq;
  out.name = "gptq";
  const int64_t bits = object.in_range("bits", 1, 64);
  if (bits != 4 && bits != 8) object.fail("bits", "4 or 8");
  expect_group(object);
  const std::string key = object.first_of({"checkpoint_format", "format"});
  const auto format = object.value_or(key, "gptq");
  if (format != "gptq" && format != "gptq_v2") object.fail(key, "gptq or gptq_v2");
  if (object.has("is_marlin_format")) object.expect("is_marlin_format", false);
  out.symmetric = object.value_or("sym", false);
  out.zeros_less_one = format == "gptq";
  return out;
}

}  // namespace

const char* ForeignQuantization::weight_name() const {
  switch (method) {
    case Method::kAwq:
    case Method::kGptq:
      return "qweight";
    case Method::kCompressedTensors:
      return contains(kFloating, name) && name.find("pack") == name.npos ? "weight"
                                                                         : "weight_packed";
    case Method::kFp8:
    case Method::kModelOpt:
      break;
  }
  return "weight";
}

ForeignQuantization read_foreign_quantization(const ConfigReader& object) {
  const auto method = object.require<std::string>("quant_method");
  if (method == "fp8") return read_fp8(object);
  if (method == "compressed-tensors") return read_compressed_tensors(object);
  if (method == "modelopt" || method == "modelopt_fp4") return read_model_opt(object);
  if (method == "awq") return read_awq(object);
  if (method == "gptq") return read_gptq(object);
  object.fail("quant_method", "fp8, compressed-tensors, modelopt, awq or gptq");
}

ForeignQuantization read_model_opt_file(const ConfigReader& file) {
  return read_model_opt(file.object("quantization"));
}

}  // namespace decant
