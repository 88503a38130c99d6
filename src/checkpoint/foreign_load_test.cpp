// Checkpoints of other tools: what scripts/goldens/hf_formats.py wrote, weight for weight, and what
// must be refused.
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <map>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/quantize.h"
#include "checkpoint/survey.h"
#include "checkpoint/testing.h"
#include "checkpoint/weight_load.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace decant::testing;

constexpr const char* kFixtures[] = {"fp8",  "fp8-moe",   "ct-mixed",   "ct-nvfp4-moe", "modelopt",
                                     "awq4", "gptq4-moe", "gptq4-asym", "gptq8"};

fs::path folder_of(const std::string& name) { return fixture("hf_formats/" + name); }

WeightScope at(WeightScope scope, std::string_view path) {
  for (size_t dot; (dot = path.find('.')) != path.npos; path.remove_prefix(dot + 1))
    scope = scope / path.substr(0, dot);
  return scope / path;
}

struct One {
  std::shared_ptr<WeightSet> set;
  const Weight* weight;
};
// The matrix of one module of a checkpoint, nothing else.
One load_one(const fs::path& folder, std::string_view module, int64_t rows, int64_t cols,
             bool contents = true) {
  WeightLoad load(Checkpoint::open(folder), Renames::text_model());
  load.root().ignore("model");
  load.root().ignore("lm_head");
  const Weight* weight = at(load.root(), module).matrix(rows, cols);
  return {load.finish(contents), weight};
}

std::vector<float> decode(const MatrixView& view) {
  std::vector<float> out(static_cast<size_t>(view.rows * view.cols));
  for (int64_t row = 0; row < view.rows; ++row)
    dequantize_row(view, row, out.data() + row * view.cols);
  return out;
}

TEST(ForeignLoad, GivesTheWeightsOfTheOfficialImplementations) {
  // Format, how the file has it, and the bytes per row of what is made at load.
  struct Expected {
    Format format;
    std::string source;
    int64_t made;
  };
  const DType f16 = DType::kF16, f32 = DType::kF32;
  const Format bf16 = Format::dense(DType::kBF16);
  const std::map<std::string, Expected> expected = {
      {"fp8 self_attn.k_proj", {bf16, "fp8-128x128", 384}},
      {"fp8 mlp.down_proj", {bf16, "fp8-128x128", 320}},
      {"fp8-moe mlp.experts.3.gate_proj", {bf16, "fp8-128x128", 256}},
      {"ct-mixed self_attn.q_proj", {Format::affine(4, 32), "int4-g32", 8}},
      {"ct-mixed self_attn.k_proj", {Format::affine(4, 64, f32), "int4-g64", 16}},
      {"ct-mixed self_attn.v_proj", {Format::mxfp8(), "mxfp8", 0}},
      {"ct-mixed self_attn.o_proj", {Format::mxfp4(), "mxfp4", 0}},
      {"ct-mixed mlp.gate_proj", {Format::affine(8, 128), "int8-row", 2}},
      {"ct-mixed mlp.up_proj", {bf16, "fp8-row", 256}},
      {"ct-mixed mlp.down_proj", {Format::affine(8, 128, f32), "int8-row", 16}},
      {"ct-nvfp4-moe self_attn.k_proj", {Format::nvfp4(), "nvfp4", 0}},
      {"ct-nvfp4-moe mlp.experts.2.down_proj", {Format::nvfp4(), "nvfp4", 0}},
      {"modelopt self_attn.v_proj", {bf16, "fp8-tensor", 256}},
      {"modelopt mlp.down_proj", {Format::nvfp4(), "nvfp4", 0}},
      {"awq4 self_attn.q_proj", {Format::affine(4, 64, f32), "awq4-g64", 64 + 16}},
      {"awq4 mlp.down_proj", {Format::affine(4, 64, f32), "awq4-g64", 64 + 16}},
      {"gptq4-moe self_attn.k_proj", {Format::affine(4, 64, f16), "gptq4-g64", 64 + 8}},
      {"gptq4-moe mlp.experts.1.up_proj", {Format::affine(4, 64, f16), "gptq4-g64", 64 + 8}},
      {"gptq4-asym mlp.down_proj", {Format::affine(4, 32, f32), "gptq4-g32", 64 + 32}},
      {"gptq8 self_attn.v_proj", {Format::affine(8, 128, f32), "gptq8-row", 128 + 8}},
      {"gptq8 mlp.down_proj", {Format::affine(8, 128, f32), "gptq8-row", 256 + 16}},
  };
  size_t probes = 0;
  for (const std::string name : kFixtures) {
    const auto golden = SafetensorsFile::open(folder_of(name) / "golden.safetensors");
    for (const TensorInfo& tensor : golden->tensors()) {
      constexpr std::string_view kPrefix = "dequant.";
      if (!tensor.name.starts_with(kPrefix)) continue;
      const std::string module = tensor.name.substr(kPrefix.size());
      SCOPED_TRACE(name + " " + module);
      const int64_t rows = tensor.dims()[0], cols = tensor.dims()[1];
      const One one = load_one(folder_of(name), module, rows, cols);
      const auto known =
          expected.find(name + " " + module.substr(std::string("model.layers.0.").size()));
      if (module.starts_with("model.layers.0.")) {
        ASSERT_NE(known, expected.end());
        EXPECT_EQ(one.weight->format, known->second.format) << one.weight->format.name();
        EXPECT_EQ(one.weight->source, known->second.source);
        EXPECT_EQ(one.weight->made_bytes, rows * known->second.made);
      }
      const auto got = decode(one.weight->view());
      ASSERT_EQ(got.size() * static_cast<size_t>(size_of(tensor.dtype)), tensor.bytes.size());
      for (size_t i = 0; i < got.size(); ++i) {
        const float want = load_float(tensor.bytes.data(), tensor.dtype, static_cast<int64_t>(i));
        if (name == "ct-nvfp4-moe") {
          // Its scale is a quotient, decant's a product with the reciprocal.
          ASSERT_NEAR(got[i], want, std::abs(want) * 0x3p-23f) << i;
        } else {
          ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want)) << i;
        }
      }
      ++probes;
    }
  }
  EXPECT_EQ(probes, expected.size() + 1);
}

TEST(ForeignLoad, LooksWithoutReading) {
  const One read = load_one(folder_of("awq4"), "model.layers.0.self_attn.q_proj", 128, 128);
  const One seen = load_one(folder_of("awq4"), "model.layers.0.self_attn.q_proj", 128, 128, false);
  EXPECT_EQ(seen.weight->format, read.weight->format);
  EXPECT_EQ(seen.weight->bytes(), read.weight->bytes());
  EXPECT_EQ(seen.weight->made_bytes, read.weight->bytes());
  EXPECT_EQ(survey_folder(folder_of("modelopt")).format, "modelopt MIXED_PRECISION");
  EXPECT_EQ(survey_folder(folder_of("fp8")).format, "fp8");
}

// --- made-up checkpoints -------------------------------------------------------------------------

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<double> values;  // repeated
};

std::vector<std::byte> bytes_of(const Tensor& tensor) {
  int64_t count = 1;
  for (int64_t dim : tensor.shape) count *= dim;
  std::vector<std::byte> out(static_cast<size_t>(count * size_of(tensor.dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const double exact =
        tensor.values.empty() ? 0 : tensor.values[static_cast<size_t>(i) % tensor.values.size()];
    const auto value = static_cast<float>(exact);
    const auto integer = static_cast<int64_t>(exact);
    const auto f16 = float_to_f16(value), bf16 = float_to_bf16(value);
    const void* from = &integer;
    if (tensor.dtype == DType::kF32) from = &value;
    if (tensor.dtype == DType::kF16) from = &f16;
    if (tensor.dtype == DType::kBF16) from = &bf16;
    std::memcpy(out.data() + i * size_of(tensor.dtype), from,
                static_cast<size_t>(size_of(tensor.dtype)));
  }
  return out;
}

using Tensors = std::map<std::string, Tensor>;

void write_checkpoint(const fs::path& folder, const std::string& quantization,
                      const Tensors& tensors) {
  write_file(folder / "config.json", "{\"quantization_config\":" + quantization + "}");
  std::vector<TensorDeclaration> declarations;
  for (const auto& [name, tensor] : tensors)
    declarations.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(folder / "model.safetensors", declarations);
  for (const auto& [name, tensor] : tensors) writer.write(bytes_of(tensor));
  writer.commit();
}

const std::string kFp8 = R"({"quant_method":"fp8","weight_block_size":[128,128]})";
const std::string kAwq = R"({"quant_method":"awq","bits":4,"group_size":32})";
const std::string kGptq = R"({"quant_method":"gptq","bits":4,"group_size":32,"sym":true})";
const std::string kPacked = R"({"quant_method":"compressed-tensors","format":"pack-quantized",
  "config_groups":{"g":{"weights":{"num_bits":4,"type":"int"}}}})";
const std::string kNvfp4 = R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized",
  "config_groups":{"g":{"weights":{"num_bits":4,"type":"float"}}}})";
const std::string kModelOpt = R"({"quant_method":"modelopt","quant_algo":"NVFP4"})";

// What loading the matrix "m" [rows, cols] says.
std::string error_of(const std::string& quantization, const Tensors& tensors, int64_t rows,
                     int64_t cols) {
  const TemporaryFolder folder;
  write_checkpoint(folder.path(), quantization, tensors);
  return model_error([&] {
    WeightLoad load(Checkpoint::open(folder.path()));
    (load.root() / "m").matrix(rows, cols);
    load.finish();
  });
}

Tensors awq(int64_t rows, int64_t cols, int64_t groups) {
  return {{"m.qweight", {DType::kI32, {cols, rows / 8}, {}}},
          {"m.qzeros", {DType::kI32, {groups, rows / 8}, {}}},
          {"m.scales", {DType::kF16, {groups, rows}, {1}}}};
}
Tensors gptq(int64_t rows, int64_t cols, int64_t groups) {
  std::vector<double> order;
  for (int64_t i = 0; i < cols; ++i) order.push_back(static_cast<double>(i / (cols / groups)));
  return {{"m.qweight", {DType::kI32, {cols / 8, rows}, {}}},
          {"m.qzeros", {DType::kI32, {groups, rows / 8}, {0x77777777}}},
          {"m.scales", {DType::kF16, {groups, rows}, {1}}},
          {"m.g_idx", {DType::kI32, {cols}, order}}};
}
Tensors packed(int64_t rows, int64_t cols, int64_t groups) {
  return {{"m.weight_packed", {DType::kI32, {rows, cols / 8}, {}}},
          {"m.weight_scale", {DType::kF16, {rows, groups}, {1}}},
          {"m.weight_shape",
           {DType::kI64, {2}, {static_cast<double>(rows), static_cast<double>(cols)}}}};
}
Tensors nvfp4(int64_t rows, int64_t cols) {
  return {{"m.weight_packed", {DType::kU8, {rows, cols / 2}, {}}},
          {"m.weight_scale", {DType::kF8E4M3, {rows, cols / 16}, {56}}},
          {"m.weight_global_scale", {DType::kF32, {1}, {4}}}};
}

TEST(ForeignLoad, TakesWhatIsRight) {
  EXPECT_EQ(error_of(kAwq, awq(16, 64, 2), 16, 64), "");
  EXPECT_EQ(error_of(kPacked, packed(16, 64, 2), 16, 64), "");
  EXPECT_EQ(error_of(kNvfp4, nvfp4(16, 64), 16, 64), "");
  EXPECT_EQ(error_of(kGptq, gptq(16, 64, 2), 16, 64), "");
}

TEST(ForeignLoad, NamesEveryTensorThatIsWrong) {
  const auto without = [](Tensors tensors, const std::string& name) {
    tensors.erase(name);
    return tensors;
  };
  const auto with = [](Tensors tensors, const std::string& name, Tensor tensor) {
    tensors[name] = std::move(tensor);
    return tensors;
  };
  const Tensors fp8 = {{"m.weight", {DType::kF8E4M3, {200, 130}, {}}},
                       {"m.weight_scale_inv", {DType::kF32, {2, 2}, {1}}}};
  EXPECT_EQ(error_of(kFp8, fp8, 200, 130), "");
  struct Case {
    std::string quantization;
    Tensors tensors;
    int64_t rows, cols;
    const char* message;
  };
  const Case cases[] = {
      {kFp8, without(fp8, "m.weight_scale_inv"), 200, 130,
       "m.weight_scale_inv: expected (2,2) beside m.weight, got no such tensor"},
      {kFp8, with(fp8, "m.weight_scale_inv", {DType::kF32, {2, 1}, {1}}), 200, 130,
       "m.weight_scale_inv: expected (2,2), got F32 (2,1)"},
      {kFp8, with(fp8, "m.weight_scale_inv", {DType::kI32, {2, 2}, {1}}), 200, 130,
       "m.weight_scale_inv: expected F32, F16, BF16 or F8_E8M0, got I32"},
      {kFp8, fp8, 200, 131, "m.weight: expected F8_E4M3 (200,131), got F8_E4M3 (200,130)"},
      {kFp8, {{"m.weight", {DType::kF8E4M3, {0, 130}, {}}}}, 0, 130, "a matrix that is not empty"},
      {kFp8, {{"m.weight", {DType::kF8E5M2, {8, 32}, {}}}}, 8, 32, "got F8_E5M2"},
      {kFp8, {}, 8, 32, "m.weight: expected (8,32), got no such tensor"},
      {kAwq, {}, 8, 32, "m.weight: expected (8,32) (or qweight), got no such tensor"},
      {kAwq, without(awq(16, 64, 2), "m.scales"), 16, 64, "m.scales: expected (1,16) beside"},
      {kAwq, without(awq(16, 64, 2), "m.qzeros"), 16, 64, "m.qzeros: expected (1,2) beside"},
      {kAwq, awq(16, 96, 4), 16, 96, "m.scales: expected groups of a multiple of 32 in rows of 96"},
      {kAwq, awq(16, 64, 3), 16, 64, "m.scales: expected groups of a multiple of 32"},
      {kAwq, awq(16, 64, 2), 24, 64, "m.qweight: expected I32 (64,3), got I32 (64,2)"},
      {kAwq, with(awq(16, 64, 2), "m.scales", {DType::kI32, {2, 16}, {}}), 16, 64,
       "m.scales: expected F32, F16 or BF16, got I32"},
      {kAwq, with(awq(16, 64, 2), "m.qzeros", {DType::kI32, {1, 2}, {}}), 16, 64,
       "m.qzeros: expected I32 (2,2), got I32 (1,2)"},
      {kFp8, awq(16, 64, 2), 16, 64, "m.qweight: expected no such tensor in a checkpoint of fp8"},
      {kGptq, with(gptq(16, 64, 2), "m.qzeros", {DType::kI32, {2, 2}, {0x77777776}}), 16, 64,
       "m.qzeros: expected every zero point to be 8 as `sym` says"},
      {kGptq, with(gptq(16, 64, 2), "m.g_idx", {DType::kI32, {64}, {1, 0}}), 16, 64,
       "m.g_idx: expected groups of consecutive inputs, got the order of act-order (desc_act)"},
      {kGptq, with(gptq(16, 64, 2), "m.g_idx", {DType::kI32, {32}, {0}}), 16, 64,
       "m.g_idx: expected I32 or I64 (64), got I32 (32)"},
      {kPacked, with(packed(16, 64, 2), "m.weight_shape", {DType::kI64, {2}, {16, 72}}), 16, 64,
       "m.weight_shape: expected the numbers 16 and 64"},
      {kPacked, with(packed(16, 64, 2), "m.weight_scale", {DType::kF16, {16, 3}, {}}), 16, 64,
       "m.weight_scale: expected groups of a multiple of 32"},
      {kPacked, with(packed(16, 64, 2), "m.weight_packed", {DType::kI32, {16, 9}, {}}), 16, 64,
       "m.weight_packed: expected I32 (16,64 bits / 32), got I32 (16,9)"},
      {kPacked, with(packed(16, 64, 2), "m.weight_zero_point", {DType::kI32, {16, 2}, {}}), 16, 64,
       "m.weight_zero_point: expected I32 (2,2), got I32 (16,2)"},
      {kPacked, with(packed(16, 64, 2), "m.weight_g_idx", {DType::kI32, {64}, {1, 0}}), 16, 64,
       "act-order"},
      {kPacked, with(packed(16, 64, 2), "m.weight_scale", {DType::kF16, {16, 2}, {9000}}), 16, 64,
       "m.weight_scale: expected scales whose 8-fold F16 holds"},
      {kNvfp4, without(nvfp4(16, 64), "m.weight_global_scale"), 16, 64,
       "m.weight_global_scale: expected (1) beside m.weight_packed, got no such tensor"},
      {kNvfp4, with(nvfp4(16, 64), "m.weight_global_scale", {DType::kF32, {1}, {0}}), 16, 64,
       "a number above 0"},
      {kNvfp4, with(nvfp4(16, 64), "m.weight_scale", {DType::kF8E4M3, {16, 2}, {}}), 16, 64,
       "m.weight_scale: expected F8_E4M3 (16,4), got F8_E4M3 (16,2)"},
      {kNvfp4, nvfp4(16, 48), 16, 40, "rows in whole groups of 16"},
      {kModelOpt,
       {{"m.weight", {DType::kU8, {16, 32}, {}}}},
       16,
       64,
       "m.weight_scale: expected (16,4) beside m.weight, got no such tensor"},
      {kNvfp4, with(nvfp4(16, 64), "m.pre_quant_scale", {DType::kBF16, {64}, {}}), 16, 64,
       "m.pre_quant_scale: expected no such tensor"},
  };
  for (const Case& each : cases)
    EXPECT_THAT(error_of(each.quantization, each.tensors, each.rows, each.cols),
                HasSubstr(each.message));
  // All of them at once, each in its section.
  EXPECT_THAT(error_of(kAwq,
                       {{"m.qweight", {DType::kI32, {64, 2}, {}}},
                        {"m.scales", {DType::kI32, {2, 16}, {}}},
                        {"m.bias", {DType::kF16, {16}, {1}}}},
                       16, 64),
              AllOf(HasSubstr("missing:"), HasSubstr("m.qzeros"), HasSubstr("left over:"),
                    HasSubstr("m.bias"), Not(HasSubstr("m.scales: expected no such"))));
  // Scales of activations and the zero biases of GPTQ are not left over.
  Tensors more = with(awq(16, 64, 2), "m.bias", {DType::kF16, {16}, {0}});
  more["m.input_scale"] = more["attention.k_scale"] = {DType::kF32, {1}, {1}};
  EXPECT_EQ(error_of(kAwq, more, 16, 64), "");
}

TEST(ForeignLoad, FindsPackedModulesUnderEveryPrefix) {
  const TemporaryFolder folder;
  Tensors tensors;
  for (const auto& [name, tensor] : awq(16, 64, 2))
    tensors["model.language_model.embed_tokens" + name.substr(1)] = tensor;
  write_checkpoint(folder.path(), kAwq, tensors);
  WeightLoad load(Checkpoint::open(folder.path()), Renames::text_model());
  EXPECT_EQ(load.stored("model.norm"), "model.language_model.norm");
  EXPECT_TRUE((load.root() / "model" / "embed_tokens").has("weight"));
  EXPECT_FALSE((load.root() / "model" / "norm").has("weight"));
  (load.root() / "model" / "embed_tokens").matrix(16, 64);
  load.finish();
}

// Fused experts of transformers 5: one plane is made, gate and up are its halves.
TEST(ForeignLoad, MakesFusedExpertsOnce) {
  const TemporaryFolder folder;
  std::vector<double> codes;
  for (int i = 0; i < 251; ++i) codes.push_back(i % 0x7e);
  write_checkpoint(folder.path(), kFp8,
                   {{"m.experts.gate_up_proj", {DType::kF8E4M3, {3, 260, 64}, codes}},
                    {"m.experts.gate_up_proj_scale_inv",
                     {DType::kBF16, {3, 3, 1}, {1, 2, 4, 8, 16, 32, 64, 128, 256}}}});
  WeightLoad load(Checkpoint::open(folder.path()));
  const Weight* gate = (load.root() / "m").experts("gate_proj", 3, 130, 64);
  const Weight* up = (load.root() / "m").experts("up_proj", 3, 130, 64);
  const auto set = load.finish();
  EXPECT_EQ(up->views[0].data - gate->views[0].data, 130 * 64 * 2);
  EXPECT_EQ(gate->made_bytes, 3 * 130 * 64 * 2);
  for (int64_t e = 0; e < 3; ++e)
    for (int64_t row = 0; row < 130; ++row) {
      std::vector<float> got(64);
      dequantize_row(up->views[static_cast<size_t>(e)], row, got.data());
      const int64_t inside = 130 + row;
      const float scale = std::ldexp(1.0f, static_cast<int>(e * 3 + inside / 128));
      for (int64_t c = 0; c < 64; ++c)
        ASSERT_EQ(got[static_cast<size_t>(c)],
                  scale * e4m3_to_float(static_cast<uint8_t>(
                              codes[static_cast<size_t>((e * 260 + inside) * 64 + c) % 251])));
    }
}

// Cuts of a matrix that is made: both kinds, once it is.
TEST(ForeignLoad, CutsWhatItMakes) {
  const std::string module = "model.layers.0.self_attn.k_proj";
  const auto golden = SafetensorsFile::open(folder_of("fp8") / "golden.safetensors");
  const TensorInfo* want = golden->find("dequant." + module);
  WeightLoad load(Checkpoint::open(folder_of("fp8")));
  load.root().ignore("model");
  const WeightScope scope = at(load.root(), module);
  const Weight* plain = scope.cut({2, 32, 20, 12, 192, false});
  const Weight* turned = scope.cut({2, 32, 0, 20, 192, true});
  load.finish();
  EXPECT_EQ(turned->source, "fp8-128x128");
  for (int64_t i = 0; i < 2; ++i) {
    const auto rows = decode(plain->views[static_cast<size_t>(i)]);
    const auto columns = decode(turned->views[static_cast<size_t>(i)]);
    for (int64_t r = 0; r < 32; ++r)
      for (int64_t c = 0; c < 192; ++c)
        ASSERT_EQ(r < 20 ? columns[static_cast<size_t>(c * 20 + r)]
                         : rows[static_cast<size_t>((r - 20) * 192 + c)],
                  load_float(want->bytes.data(), want->dtype, (i * 32 + r) * 192 + c));
  }
}

// What cannot fit is refused before memory is taken; looking at it takes none.
TEST(ForeignLoad, RefusesWhatDoesNotFit) {
  const TemporaryFolder folder;
  write_file(folder / "config.json", "{\"quantization_config\":" + kFp8 + "}");
  const int64_t size = INT64_C(1) << 20;
  const std::string header = fmt::format(
      R"({{"m.weight":{{"dtype":"F8_E4M3","shape":[{0},{0}],"data_offsets":[0,{1}]}},)"
      R"("m.weight_scale_inv":{{"dtype":"F32","shape":[1],"data_offsets":[{1},{2}]}}}})",
      size, size * size, size * size + 4);
  write_file(folder / "model.safetensors", safetensors_text(header));
  std::error_code error;
  fs::resize_file(folder / "model.safetensors", 8 + header.size() + size * size + 4, error);
  if (error) GTEST_SKIP() << "no sparse files of 1 TiB here: " << error.message();
  const auto load_it = [&](bool contents) {
    WeightLoad load(Checkpoint::open(folder.path()));
    (load.root() / "m").matrix(size, size);
    return load.finish(contents);
  };
  EXPECT_EQ(load_it(false)->weights()[0]->made_bytes, 2 * size * size);
  try {
    load_it(true);
    ADD_FAILURE() << "2 TiB must not fit";
  } catch (const Error& thrown) {
    EXPECT_EQ(thrown.kind(), ErrorKind::kMemory);
    EXPECT_THAT(thrown.what(), HasSubstr("got 2.00 TiB"));
  }
}

// --- quantising ----------------------------------------------------------------------------------

TEST(ForeignQuantize, TakesFp8AsTheValuesItStandsFor) {
  const std::tuple<const char*, const char*, std::string, std::string, int64_t> cases[] = {
      {"fp8", "mxfp8", "model.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj", 0},
      {"fp8-moe", "4bit", "model.layers.0.mlp.experts.3.gate_proj",
       "model.layers.0.mlp.switch_mlp.gate_proj", 3},
  };
  for (const auto& [name, recipe, module, stored, index] : cases) {
    const TemporaryFolder folder;
    quantize_checkpoint(folder_of(name), folder / "out", Recipe::named(recipe));
    const auto out = Checkpoint::open(folder / "out");
    EXPECT_FALSE(out->quantization().foreign());
    for (std::string_view tensor : out->names())
      EXPECT_THAT(std::string(tensor), Not(HasSubstr("weight_scale")));
    const auto golden = SafetensorsFile::open(folder_of(name) / "golden.safetensors");
    const TensorInfo* want = golden->find("dequant." + module);
    const int64_t rows = want->dims()[0], cols = want->dims()[1];
    const Format format = Recipe::named(recipe).format;
    std::vector<std::byte> data(static_cast<size_t>(rows * format.data_row_bytes(cols)));
    std::vector<std::byte> scales(static_cast<size_t>(rows * format.scale_row_bytes(cols)));
    std::vector<std::byte> biases(static_cast<size_t>(rows * format.bias_row_bytes(cols)));
    quantize_rows({want->bytes.data(), want->dtype, DType::kBF16, rows, cols}, format,
                  {data.data(), scales.data(), biases.data()});
    const auto same = [&](const char* suffix, const std::vector<std::byte>& plane) {
      const TensorRef tensor = out->find(stored + suffix);
      ASSERT_TRUE(tensor) << suffix;
      const auto part = tensor->bytes.subspan(static_cast<size_t>(index) * plane.size());
      ASSERT_GE(part.size(), plane.size());
      EXPECT_EQ(std::memcmp(part.data(), plane.data(), plane.size()), 0) << name << suffix;
    };
    same(".weight", data);
    same(".scales", scales);
    if (!biases.empty()) same(".biases", biases);
  }
  // What is kept in floating point is written as the bf16 it loads as.
  const TemporaryFolder folder;
  Recipe keep = Recipe::named("8bit");
  keep.rules.push_back({"*.k_proj", std::nullopt});
  quantize_checkpoint(folder_of("fp8"), folder / "out", keep);
  const std::string module = "model.layers.0.self_attn.k_proj";
  const One kept = load_one(folder / "out", module, 64, 192);
  EXPECT_EQ(kept.weight->format, Format::dense(DType::kBF16));
  EXPECT_EQ(decode(kept.weight->view()),
            decode(load_one(folder_of("fp8"), module, 64, 192).weight->view()));
}

TEST(ForeignQuantize, RefusesWhatIsQuantisedAlready) {
  const TemporaryFolder folder;
  for (const std::string name : {"awq4", "gptq8", "ct-mixed", "ct-nvfp4-moe", "modelopt"}) {
    EXPECT_THAT(model_error([&] {
                  quantize_checkpoint(folder_of(name), folder / "out", Recipe::named("4bit"));
                }),
                AllOf(HasSubstr("already quantised ("), HasSubstr("rounded a second time")))
        << name;
    EXPECT_FALSE(fs::exists(folder / "out"));
  }
  write_checkpoint(folder.path(), kFp8, {{"m.weight", {DType::kF8E4M3, {8, 64}, {}}}});
  EXPECT_THAT(model_error([&] {
                quantize_checkpoint(folder.path(), folder / "out", Recipe::named("4bit"));
              }),
              HasSubstr("m.weight_scale_inv: expected (1,1) beside m.weight"));
}

}  // namespace
}  // namespace decant
