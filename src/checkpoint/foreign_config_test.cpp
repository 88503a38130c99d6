#include "checkpoint/foreign_config.h"

#include "base/json.h"
#include "checkpoint/quantization.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;
using Method = ForeignQuantization::Method;

QuantizationConfig parse(const std::string& object) {
  const Json config = parse_json("{\"quantization_config\":" + object + "}", "test");
  return QuantizationConfig::parse(config, "config.json");
}

TEST(ForeignConfig, ReadsEveryMethod) {
  const auto fp8 = parse(R"({"quant_method":"fp8","weight_block_size":[64,128],"fmt":"e4m3",
    "modules_to_not_convert":["lm_head"],"scale_fmt":"ue8m0"})");
  ASSERT_TRUE(fp8.present());
  EXPECT_FALSE(fp8.top());
  EXPECT_EQ(fp8.foreign()->method, Method::kFp8);
  EXPECT_EQ(fp8.foreign()->block_rows, 64);
  EXPECT_EQ(fp8.foreign()->block_cols, 128);
  EXPECT_EQ(parse(R"({"quant_method":"fp8","weight_block_size":null})").foreign()->block_rows, 0);
  const auto tensors = parse(R"({"quant_method":"compressed-tensors","format":"float-quantized",
    "sparsity_config":{"format":"dense"},"transform_config":{"config_groups":{}},
    "ignore":["re:.*lm_head"],"config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":8,
    "type":"float","strategy":"block","block_structure":[128,64],"dynamic":false}},
    "b":{"targets":["re:.*x"],"weights":null}}})");
  EXPECT_EQ(tensors.foreign()->method, Method::kCompressedTensors);
  EXPECT_EQ(tensors.foreign()->block_cols, 64);
  EXPECT_STREQ(tensors.foreign()->weight_name(), "weight");
  const auto packed = parse(R"({"quant_method":"compressed-tensors","format":"pack-quantized",
    "config_groups":{"a":{"weights":{"num_bits":4,"type":"int","strategy":"group",
    "group_size":128,"actorder":"weight"}}}})");
  EXPECT_STREQ(packed.foreign()->weight_name(), "weight_packed");
  EXPECT_EQ(parse(R"({"quant_method":"modelopt","quant_algo":"NVFP4"})").foreign()->name,
            "modelopt NVFP4");
  EXPECT_STREQ(parse(R"({"quant_method":"awq","bits":4,"group_size":128,"zero_point":true,
    "version":"gemm"})")
                   .foreign()
                   ->weight_name(),
               "qweight");
  const auto first = parse(R"({"quant_method":"gptq","bits":4,"group_size":-1,"sym":true,
    "desc_act":true})");
  EXPECT_TRUE(first.foreign()->symmetric);
  EXPECT_TRUE(first.foreign()->zeros_less_one);
  const auto second = parse(R"({"quant_method":"gptq","bits":8,"checkpoint_format":"gptq_v2"})");
  EXPECT_FALSE(second.foreign()->symmetric);
  EXPECT_FALSE(second.foreign()->zeros_less_one);
  const Json nested =
      parse_json(R"({"text_config":{"quantization_config":{"quant_method":"fp8"}}})", "test");
  EXPECT_NE(QuantizationConfig::parse(nested, "config.json").foreign(), nullptr);
}

TEST(ForeignConfig, RefusesByName) {
  const std::string groups = R"("config_groups":{"g":{"weights":)";
  const std::pair<std::string, const char*> cases[] = {
      {R"({"quant_method":"bitsandbytes"})", "modelopt, awq or gptq, got string \"bitsandbytes\""},
      {R"({"quant_method":4})", "quant_method"},
      {R"({"quant_method":"fp8","fmt":"e5m2"})", "e5m2"},
      {R"({"quant_method":"fp8","weight_block_size":[128]})", "weight_block_size"},
      {R"({"quant_method":"fp8","weight_block_size":[0,128]})", "two sizes above 0"},
      {R"({"quant_method":"compressed-tensors","format":"marlin-24"})", "marlin-24"},
      {R"({"quant_method":"compressed-tensors","format":"int-quantized"})", "int-quantized"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized"})", "config_groups"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{}})",
       "at least one group"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized",
        "sparsity_config":{"format":"sparse-24-bitmask"}})",
       "sparse-24-bitmask"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized",
        "transform_config":{"config_groups":{"R1":{"type":"hadamard"}}}})",
       "no transforms"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized",)" + groups +
           R"({"num_bits":7,"type":"int"}}}})",
       "num_bits"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized",)" + groups +
           R"({"num_bits":4,"type":"float"}}}})",
       "int for pack-quantized"},
      {R"({"quant_method":"compressed-tensors","format":"naive-quantized",)" + groups +
           R"({"num_bits":8,"type":"int"}}}})",
       "float for naive-quantized"},
      {R"({"quant_method":"compressed-tensors","format":"mixed-precision",)" + groups +
           R"({"num_bits":6,"type":"float"}}}})",
       "4 or 8"},
      {R"({"quant_method":"compressed-tensors","format":"pack-quantized",)" + groups +
           R"({"num_bits":4,"type":"int","strategy":"token"}}}})",
       "token"},
      {R"({"quant_method":"modelopt","quant_algo":"W4A8_AWQ"})", "W4A8_AWQ"},
      {R"({"quant_method":"modelopt","quant_algo":"MIXED_PRECISION",
        "quantized_layers":{"a":{"quant_algo":"INT8_SQ"}}})",
       "INT8_SQ"},
      {R"({"quant_method":"modelopt"})", "quant_algo"},
      {R"({"quant_method":"awq","bits":3})", "number 3"},
      {R"({"quant_method":"awq","version":"gemv"})", "gemv"},
      {R"({"quant_method":"awq","zero_point":false})", "zero_point"},
      {R"({"quant_method":"awq","group_size":48})", "multiple of 32"},
      {R"({"quant_method":"gptq","bits":3})", "4 or 8"},
      {R"({"quant_method":"gptq","bits":4,"group_size":0})", "multiple of 32"},
      {R"({"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"})", "marlin"},
  };
  for (const auto& [object, part] : cases)
    EXPECT_THAT(model_error([&] { parse(object); }), HasSubstr(part)) << object;
}

}  // namespace
}  // namespace decant
