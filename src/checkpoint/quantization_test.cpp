#include "checkpoint/quantization.h"

#include "base/json.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

QuantizationConfig parse(std::string_view text) {
  return QuantizationConfig::parse(parse_json(text, "test"), "config.json");
}
const QuantizationEntry* find(const QuantizationConfig& config, std::string path) {
  return config.find(std::span<const std::string>(&path, 1));
}

TEST(QuantizationConfig, ReadsEveryForm) {
  EXPECT_FALSE(parse("{}").present());
  EXPECT_FALSE(parse(R"({"quantization":null})").present());
  EXPECT_EQ(parse(R"({"quantization":{"group_size":null,"bits":3}})").top(), Format::affine(3, 64));
  EXPECT_EQ(parse(R"({"quantization_config":{"group_size":32,"bits":8}})").top(),
            Format::affine(8, 32));
  const auto config = parse(R"({"quantization":{"group_size":16,"bits":4,"mode":"nvfp4",
    "model.a":{"group_size":64,"bits":8}, "model.b":false, "model.c":true,
    "language_model.model.d":{"group_size":32,"bits":4,"mode":"mxfp4"},
    "model.e":{"group_size":16,"bits":4,"mode":"nvfp4","global_scale":true}},
    "quantization_config":{"quant_method":"fp8"}})");
  EXPECT_EQ(config.top()->kind, Format::Kind::kNvfp4);
  EXPECT_EQ(find(config, "model.a")->format, Format::affine(8, 64));  // a missing mode is affine
  EXPECT_FALSE(find(config, "model.b")->quantized);
  EXPECT_TRUE(find(config, "model.c")->quantized);
  EXPECT_EQ(find(config, "language_model.model.a")->format, Format::affine(8, 64));
  EXPECT_EQ(find(config, "model.d")->format->kind, Format::Kind::kMxfp4);
  EXPECT_TRUE(find(config, "model.e")->global_scale);
  EXPECT_EQ(find(config, "model.f"), nullptr);
}

TEST(QuantizationConfig, RefusesTheImpossibleTogether) {
  const std::string message = model_error([] {
    parse(R"({"quantization":{"group_size":48,"bits":4,"a":{"bits":7,"group_size":64},
      "b":{"bits":4,"group_size":64,"mode":"mxfp4"},"c":{"mode":"q4"},"d":"x","e":{"bits":"4"},
      "f":{"bits":-9223372036854775808}}})");
  });
  for (const char* part :
       {"quantization.group_size: expected 32, 64 or 128, got number 48", "quantization.a.bits",
        "quantization.b.group_size", "quantization.c.mode", "quantization.d", "quantization.e.bits",
        "quantization.f.bits", "7 problems"})
    EXPECT_THAT(message, HasSubstr(part));
  EXPECT_NE(model_error([] { parse(R"({"quantization":3})"); }), "");
}

TensorInfo info(DType dtype, std::initializer_list<int64_t> dims) {
  TensorInfo out;
  out.name = "t";
  out.dtype = dtype;
  for (int64_t dim : dims) out.sizes[out.rank++] = dim;
  return out;
}

TEST(FormatOfTensors, InfersBitsAndGroup) {
  for (int bits : {1, 2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      const TensorInfo weight = info(DType::kU32, {16, 256 * bits / 32});
      const TensorInfo scales = info(DType::kF16, {16, 256 / group});
      EXPECT_EQ(std::get<Format>(format_of_tensors({&weight, &scales, &scales}, 256)),
                Format::affine(bits, group, DType::kF16));
    }
  }
  const TensorInfo weight4 = info(DType::kU32, {16, 32});
  const TensorInfo weight8 = info(DType::kU32, {16, 64});
  const TensorInfo scales32 = info(DType::kU8, {16, 8});
  const TensorInfo scales16 = info(DType::kU8, {16, 16});
  const auto kind = [](const TensorInfo& weight, const TensorInfo& scales) {
    return std::get<Format>(format_of_tensors({&weight, &scales, nullptr}, 256)).kind;
  };
  EXPECT_EQ(kind(weight4, scales32), Format::Kind::kMxfp4);
  EXPECT_EQ(kind(weight8, scales32), Format::Kind::kMxfp8);
  EXPECT_EQ(kind(weight4, scales16), Format::Kind::kNvfp4);
  const TensorInfo dense = info(DType::kBF16, {16, 256});
  EXPECT_EQ(std::get<Format>(format_of_tensors({&dense, nullptr, nullptr}, 256)),
            Format::dense(DType::kBF16));
}

TEST(FormatOfTensors, SaysWhatIsImpossible) {
  const TensorInfo weight = info(DType::kU32, {16, 32});
  const TensorInfo odd = info(DType::kU32, {16, 33});
  const TensorInfo seven = info(DType::kU32, {16, 56});
  const TensorInfo scales = info(DType::kBF16, {16, 4});
  const TensorInfo other = info(DType::kF16, {16, 4});
  const TensorInfo bytes = info(DType::kU8, {16, 4});
  const TensorInfo scalar = info(DType::kBF16, {});
  const TensorInfo empty = info(DType::kBF16, {16, 0});
  const TensorInfo integers = info(DType::kI32, {16, 256});
  const ModuleTensors bad[] = {
      {&odd, &scales, &scales},    {&seven, &scales, &scales},      {&weight, &scales, nullptr},
      {&weight, &scales, &other},  {&weight, &bytes, nullptr},      {&weight, &scalar, &scalar},
      {&weight, &empty, &empty},   {&integers, nullptr, nullptr},   {&integers, &scales, &scales},
      {&weight, nullptr, nullptr}, {&weight, &integers, &integers}, {&weight, &bytes, &bytes},
  };
  for (const ModuleTensors& tensors : bad)
    EXPECT_TRUE(std::holds_alternative<std::string>(format_of_tensors(tensors, 256)));
}

}  // namespace
}  // namespace decant
