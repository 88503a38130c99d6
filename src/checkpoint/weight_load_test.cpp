#include "checkpoint/weight_load.h"

#include <fmt/format.h>

#include <set>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using namespace decant::testing;

// What the tiny qwen3 and qwen3_moe fixtures hold, asked for as a family does.
struct TinyQwen {
  int64_t hidden = 64, heads = 4, kv_heads = 2, head_dim = 64, inner = 128, vocab = 384;
  int layers = 2;
  bool tied = true;
  std::vector<int> expert_layers;

  void ask(WeightLoad& load) const {
    const WeightScope root = load.root();
    (root / "model" / "embed_tokens").matrix(vocab, hidden);
    for (int i = 0; i < layers; ++i) {
      const WeightScope layer = root / "model" / "layers" / i;
      (layer / "input_layernorm").vector("weight", {hidden});
      (layer / "post_attention_layernorm").vector("weight", {hidden});
      const WeightScope attention = layer / "self_attn";
      (attention / "q_proj").matrix(heads * head_dim, hidden);
      (attention / "k_proj").matrix(kv_heads * head_dim, hidden);
      (attention / "v_proj").matrix(kv_heads * head_dim, hidden);
      (attention / "o_proj").matrix(hidden, heads * head_dim);
      (attention / "q_norm").vector("weight", {head_dim});
      (attention / "k_norm").vector("weight", {head_dim});
      const WeightScope mlp = layer / "mlp";
      if (std::count(expert_layers.begin(), expert_layers.end(), i) != 0) {
        (mlp / "gate").matrix(8, hidden);
        mlp.experts("gate_proj", 8, 64, hidden);
        mlp.experts("up_proj", 8, 64, hidden);
        mlp.experts("down_proj", 8, hidden, 64);
      } else {
        (mlp / "gate_proj").matrix(inner, hidden);
        (mlp / "up_proj").matrix(inner, hidden);
        (mlp / "down_proj").matrix(hidden, inner);
      }
    }
    (root / "model" / "norm").vector("weight", {hidden});
    if (tied)
      root.ignore("lm_head");
    else
      (root / "lm_head").matrix(vocab, hidden);
  }
  std::shared_ptr<WeightSet> load(std::string_view name) const {
    WeightLoad weights(Checkpoint::open(fixture(name)), Renames::text_model());
    ask(weights);
    return weights.finish();
  }
};

TEST(WeightLoad, LoadsEveryFixture) {
  const TinyQwen tiny;
  const std::pair<const char*, Format> cases[] = {
      {"zoo/qwen3", Format::dense(DType::kBF16)},
      {"mlx/qwen3-1bit", Format::affine(1, 64)},
      {"mlx/qwen3-2bit", Format::affine(2, 64)},
      {"mlx/qwen3-3bit", Format::affine(3, 64)},
      {"mlx/qwen3-4bit", Format::affine(4, 64)},
      {"mlx/qwen3-4bit-sharded", Format::affine(4, 64)},
      {"mlx/qwen3-4bit-g32", Format::affine(4, 32)},
      {"mlx/qwen3-4bit-fp16", Format::affine(4, 64, DType::kF16)},
      {"mlx/qwen3-5bit", Format::affine(5, 64)},
      {"mlx/qwen3-6bit", Format::affine(6, 64)},
      {"mlx/qwen3-8bit", Format::affine(8, 64)},
      {"mlx/qwen3-mxfp4", Format::mxfp4()},
      {"mlx/qwen3-mxfp8", Format::mxfp8()},
      {"mlx/qwen3-nvfp4", Format::nvfp4()},
  };
  for (const auto& [name, format] : cases) {
    TinyQwen model = tiny;
    if (std::string_view(name) == "zoo/qwen3") model.layers = 3;
    const auto set = model.load(name);
    EXPECT_EQ(set->find("model.layers.1.mlp.down_proj")->format, format) << name;
    EXPECT_EQ(set->find("model.norm.weight")->format, Format::dense(DType::kF32)) << name;
  }
}

TEST(WeightLoad, DequantizesTheProbesExactly) {
  int probes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(fixture("mlx"))) {
    const auto path = entry.path() / "dequant_probe.safetensors";
    if (!std::filesystem::exists(path)) continue;
    const auto probe = SafetensorsFile::open(path);
    const TensorInfo* dequant = probe->find("dequant");
    const auto dims = dequant->dims();
    const int64_t cols = dims.back();
    const int64_t matrices = dims.size() == 3 ? dims[0] : 1;
    const int64_t rows = static_cast<int64_t>(dequant->bytes.size()) / 4 / cols / matrices;
    const ModuleTensors tensors{probe->find("weight"), probe->find("scales"),
                                probe->find("biases")};
    const TensorInfo* global = probe->find("global_scale");
    const Format format = std::get<Format>(format_of_tensors(tensors, cols));
    const MatrixView all{tensors.weight->bytes.data(),
                         tensors.scales->bytes.data(),
                         tensors.biases != nullptr ? tensors.biases->bytes.data() : nullptr,
                         format,
                         matrices * rows,
                         cols};
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < matrices * rows; ++r) {
      MatrixView view = all;
      if (global != nullptr)
        view.tensor_scale = load_float(global->bytes.data(), DType::kF32, r / rows) / 2688.0f;
      dequantize_row(view, r, row.data());
      EXPECT_EQ(std::memcmp(row.data(), dequant->bytes.data() + r * cols * 4, row.size() * 4), 0)
          << path << " row " << r;
    }
    ++probes;
  }
  EXPECT_GE(probes, 20);
}

// Every element code times every scale code: bit for bit but for the payload of NaN.
TEST(WeightLoad, DequantizesAllCodesExactly) {
  const auto file = SafetensorsFile::open(fixture("mlx/dequant_all_codes.safetensors"));
  int formats = 0;
  for (const std::string name : {"affine1", "affine2", "affine3", "affine4", "affine5", "affine6",
                                 "affine8", "mxfp4", "mxfp8", "nvfp4"}) {
    const TensorInfo* dequant = file->find(name + ".dequant");
    const ModuleTensors tensors{file->find(name + ".weight"), file->find(name + ".scales"),
                                file->find(name + ".biases")};
    const auto dims = dequant->dims();
    const Format format = std::get<Format>(format_of_tensors(tensors, dims[1]));
    EXPECT_TRUE(!format.is_micro() || format.name() == name);
    const MatrixView view{tensors.weight->bytes.data(),
                          tensors.scales->bytes.data(),
                          tensors.biases != nullptr ? tensors.biases->bytes.data() : nullptr,
                          format,
                          dims[0],
                          dims[1]};
    std::vector<float> row(static_cast<size_t>(dims[1]));
    for (int64_t r = 0; r < dims[0]; ++r) {
      dequantize_row(view, r, row.data());
      for (int64_t c = 0; c < dims[1]; ++c) {
        const float want = load_float(dequant->bytes.data(), DType::kF32, r * dims[1] + c);
        const float got = row[static_cast<size_t>(c)];
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(got)) << name << " row " << r << " column " << c;
        } else {
          ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want))
              << name << " row " << r << " column " << c;
        }
      }
    }
    ++formats;
  }
  EXPECT_EQ(formats, 10);
}

TEST(WeightLoad, HonoursOverridesAndWhatFilesSay) {
  TinyQwen model;
  // Modules narrower than the group stay dense; nothing in the config says so.
  const auto partial = model.load("mlx/qwen3-4bit-g128-partial");
  EXPECT_TRUE(partial->find("model.layers.0.self_attn.q_proj")->format.is_dense());
  EXPECT_EQ(partial->find("model.layers.0.self_attn.o_proj")->format, Format::affine(4, 128));
  // A config without the overrides that the files have: the formats come from the files.
  const auto formats_of = [](const WeightSet& set) {
    std::set<std::string> out;
    for (const Weight* weight : set.weights())
      if (!weight->format.is_dense()) out.insert(weight->format.name());
    return out;
  };
  const auto unlisted = formats_of(*model.load("mlx/qwen3-unlisted-overrides"));
  EXPECT_THAT(unlisted, ::testing::ElementsAre("4bit-g64", "8bit-g32", "mxfp4"));
  // A table of every mode, in which two modules are not quantised.
  const auto dynamic = model.load("mlx/qwen3-dynamic");
  EXPECT_THAT(formats_of(*dynamic), ::testing::IsSupersetOf({"mxfp4", "mxfp8", "nvfp4"}));
  EXPECT_EQ(dynamic->find("model.layers.0.mlp.gate_proj")->format, Format::mxfp4());
  EXPECT_EQ(dynamic->find("model.layers.0.mlp.down_proj")->format, Format::nvfp4());
  EXPECT_EQ(dynamic->find("model.layers.0.mlp.up_proj")->format, Format::mxfp8());
  TinyQwen moe{.tied = false, .expert_layers = {1}};
  const auto mixed34 = moe.load("mlx/qwen3_moe-mixed_3_4");
  EXPECT_EQ(mixed34->find("model.layers.1.mlp.switch_mlp.down_proj")->format,
            Format::affine(4, 64));
  EXPECT_EQ(mixed34->find("model.layers.1.mlp.switch_mlp.up_proj")->format, Format::affine(3, 64));
  EXPECT_EQ(mixed34->find("model.layers.1.mlp.gate")->format, Format::affine(3, 64));
  const auto mixed46 = moe.load("mlx/qwen3_moe-mixed_4_6");
  EXPECT_EQ(mixed46->find("lm_head")->format, Format::affine(6, 64));
  const auto plain = moe.load("mlx/qwen3_moe-4bit");
  EXPECT_EQ(plain->find("model.layers.1.mlp.gate")->format, Format::affine(8, 64));
}

TEST(WeightLoad, GivesEveryExpertItsGlobalScale) {
  TinyQwen moe{.tied = false, .expert_layers = {1}};
  const auto checkpoint = Checkpoint::open(fixture("mlx/qwen3_moe-nvfp4-global_scale"));
  const auto set = moe.load("mlx/qwen3_moe-nvfp4-global_scale");
  const std::string module = "model.layers.1.mlp.switch_mlp.up_proj";
  const Weight* up = set->find(module);
  ASSERT_EQ(up->format, Format::nvfp4());
  const TensorRef scales = checkpoint->find(module + ".global_scale");
  for (size_t e = 0; e < 8; ++e)
    EXPECT_EQ(up->views[e].tensor_scale,
              load_float(scales->bytes.data(), DType::kF32, static_cast<int64_t>(e)) / 2688.0f);
  EXPECT_EQ(set->find("lm_head")->view().tensor_scale, 1.0f);
}

TEST(WeightLoad, GivesExpertsAsViewsOfTheFile) {
  const auto checkpoint = Checkpoint::open(fixture("mlx/qwen3_moe-4bit"));
  const auto set = TinyQwen{.tied = false, .expert_layers = {1}}.load("mlx/qwen3_moe-4bit");
  const Weight* down = set->find("model.layers.1.mlp.switch_mlp.down_proj");
  ASSERT_EQ(down->experts(), 8);
  EXPECT_EQ(down->shape, Shape({8, 64, 64}));
  EXPECT_EQ(down->views[3].data - down->views[0].data, 3 * 64 * 32);
  EXPECT_EQ(down->views[3].scales - down->views[0].scales, 3 * 64 * 2);
  EXPECT_EQ(down->bytes(), 8 * 64 * (32 + 2 + 2));
  // Separate experts of transformers files.
  const auto separate =
      TinyQwen{.layers = 3, .tied = false, .expert_layers = {0, 2}}.load("zoo/qwen3_moe");
  const Weight* gate = separate->find("model.layers.2.mlp.experts.*.gate_proj");
  ASSERT_NE(gate, nullptr);
  ASSERT_EQ(gate->experts(), 8);
  const auto zoo = Checkpoint::open(fixture("zoo/qwen3_moe"));
  const auto seventh = zoo->find("model.layers.2.mlp.experts.7.gate_proj.weight");
  EXPECT_EQ(std::memcmp(gate->views[7].data, seventh->bytes.data(), seventh->bytes.size()), 0);
}

// A checkpoint of the given tensors, all bf16 with value = element index.
void write_model(const std::filesystem::path& folder, std::vector<TensorDeclaration> tensors,
                 std::string_view config = "{}") {
  write_file(folder / "config.json", config);
  SafetensorsWriter writer(folder / "model.safetensors", tensors);
  for (const TensorDeclaration& tensor : tensors) {
    std::vector<std::byte> data(tensor.bytes());
    for (size_t i = 0; i + 1 < data.size() && tensor.dtype == DType::kBF16; i += 2) {
      const size_t element = i / 2;
      const uint16_t bits = float_to_bf16(static_cast<float>(element));
      std::memcpy(&data[i], &bits, 2);
    }
    writer.write(data);
  }
  writer.commit();
}

TEST(WeightLoad, SplitsFusedExperts) {
  TemporaryFolder folder;
  write_model(folder.path(), {{"mlp.experts.gate_up_proj", DType::kBF16, {2, 6, 4}},
                              {"mlp.experts.down_proj", DType::kBF16, {2, 4, 3}}});
  WeightLoad load(Checkpoint::open(folder.path()));
  const WeightScope mlp = load.root() / "mlp";
  const Weight* gate = mlp.experts("gate_proj", 2, 3, 4);
  const Weight* up = mlp.experts("up_proj", 2, 3, 4);
  const Weight* down = mlp.experts("down_proj", 2, 4, 3);
  EXPECT_EQ(mlp.experts("down_proj", 2, 4, 3), down);
  const auto set = load.finish();
  EXPECT_EQ(set->weights().size(), 3u);
  float row[4];
  dequantize_row(gate->views[1], 0, row);
  EXPECT_EQ(row[0], 24.0f);
  dequantize_row(up->views[1], 2, row);
  EXPECT_EQ(row[3], 47.0f);
  dequantize_row(down->views[1], 3, row);
  EXPECT_EQ(row[2], 23.0f);
}

TEST(WeightLoad, ReportsEveryProblemTogether) {
  TemporaryFolder folder;
  write_model(folder.path(), {{"model.a.weight", DType::kBF16, {96, 64}},
                              {"model.n.weight", DType::kI32, {4}},
                              {"model.b.weight", DType::kU32, {8, 8}},
                              {"model.b.scales", DType::kBF16, {9, 1}},
                              {"model.b.biases", DType::kBF16, {8, 1}},
                              {"model.deep", DType::kU8, {1, 1, 1, 1, 1, 1, 1, 1}},
                              {"model.extra.weight", DType::kBF16, {2}},
                              {"tower.x.weight", DType::kBF16, {2}},
                              {"model.experts.0.up_proj.weight", DType::kBF16, {2, 2}},
                              {"model.rotary_emb.inv_freq", DType::kF32, {2}}});
  WeightLoad load(Checkpoint::open(folder.path()));
  const WeightScope model = load.root() / "model";
  const Weight* wrong = (model / "a").matrix(97, 64);
  EXPECT_EQ(wrong->shape, Shape({97, 64}));  // placeholders have what was asked
  EXPECT_EQ(wrong->view().rows, 97);
  (model / "n").vector("weight", {4});
  (model / "b").matrix(8, 64);
  (model / "gone").matrix(1, 2);
  model.vector("deep", {1});
  model.experts("up_proj", INT64_C(1) << 31, 2, 2);
  load.root().ignore("tower");
  const std::string message = model_error([&] { load.finish(); });
  for (const char* part :
       {"2 missing, 4 of another shape or type, 1 left over",
        "model.a.weight: expected (97,64), got BF16 (96,64) (in model.safetensors)",
        "model.n.weight: expected F32, F16 or BF16 (4), got I32 (4)",
        "model.b.scales: expected (8,1) for 4bit-g64 (8,64), got BF16 (9,1)",
        "model.gone.weight: expected (1,2), got no such tensor",
        "model.deep: expected F32, F16 or BF16 (1), got U8 (1,1,1,1,1,1,1,1)",
        "model.experts.1.up_proj.weight: expected 2147483648 experts of (2,2), got 1",
        "model.extra.weight: expected no such tensor, got BF16 (2)"})
    EXPECT_THAT(message, HasSubstr(part));
  EXPECT_THAT(message, Not(HasSubstr("tower")));
  EXPECT_THAT(message, Not(HasSubstr("inv_freq")));
}

TEST(WeightLoad, ConvertsVectorsAndKeepsMatricesInPlace) {
  const auto checkpoint = Checkpoint::open(fixture("zoo/qwen3"));
  WeightLoad load(checkpoint, Renames::text_model());
  const Weight* norm = (load.root() / "model" / "norm").vector("weight", {64});
  const Weight* embed = (load.root() / "model" / "embed_tokens").matrix(384, 64);
  EXPECT_EQ((load.root() / "model" / "embed_tokens").matrix(384, 64), embed);
  EXPECT_TRUE((load.root() / "model" / "norm").has("weight"));
  EXPECT_FALSE((load.root() / "model" / "norm").has("bias"));
  const auto source = checkpoint->find("model.norm.weight");
  float converted;
  for (int i = 0; i < 64; ++i) {
    std::memcpy(&converted, norm->view().data + i * 4, 4);
    EXPECT_EQ(converted, load_float(source->bytes.data(), DType::kBF16, i));
  }
  EXPECT_EQ(embed->view().data, checkpoint->find("model.embed_tokens.weight")->bytes.data());
  EXPECT_EQ(embed->owners.size(), 1u);
}

TEST(WeightLoad, ClipsWhereAsked) {
  TemporaryFolder folder;
  write_model(folder.path(), {{"coefs.weight", DType::kBF16, {2, 4}}});  // 0 to 7
  WeightLoad load(Checkpoint::open(folder.path()));
  const Weight* clipped = (load.root() / "coefs").vector("weight", {2, 4}, 5.0f);
  const Weight* plain = (load.root() / "coefs").vector("weight", {2, 4});
  load.finish();
  EXPECT_EQ(load_float(clipped->view().data, DType::kF32, 4), 4.0f);
  EXPECT_EQ(load_float(clipped->view().data, DType::kF32, 7), 5.0f);
  EXPECT_EQ(load_float(plain->view().data, DType::kF32, 7), 7.0f);
}

TEST(Renames, FindsTheLayoutByItsEmbedding) {
  for (const char* name : {"zoo/gemma3n_text", "mlx/gemma3n_text-4bit"}) {
    WeightLoad load(Checkpoint::open(fixture(name)), Renames::text_model());
    EXPECT_TRUE((load.root() / "model" / "norm").has("weight")) << name;
  }
  const Renames::Layout layout = {{"model.", "language_model.model."}, {"tower.", "v.tower."}};
  EXPECT_EQ(Renames::apply(layout, "model.a.b"), "language_model.model.a.b");
  EXPECT_EQ(Renames::apply(layout, "tower"), "v.tower");
  EXPECT_EQ(Renames::apply(layout, "towers.x"), "towers.x");
  // Overrides keyed by another layout's path are found.
  TemporaryFolder folder;
  write_model(folder.path(), {{"language_model.model.embed_tokens.weight", DType::kBF16, {2, 2}}});
  WeightLoad load(Checkpoint::open(folder.path()), Renames::text_model());
  EXPECT_EQ(load.stored("model.x"), "language_model.model.x");
  EXPECT_EQ(load.stored("lm_head"), "language_model.lm_head");
}

TEST(DummySource, RecordsWhatAFamilyAsks) {
  const auto source = std::make_shared<DummySource>(Format::affine(4, 64));
  WeightLoad load(source, Renames::text_model());
  TinyQwen{.tied = false, .expert_layers = {1}}.ask(load);
  const auto set = load.finish();
  EXPECT_EQ(source->requests().size(), set->weights().size());
  const WeightRequest& first = source->requests()[0];
  EXPECT_EQ(first.path, "model.embed_tokens");
  EXPECT_EQ(first.kind, WeightRequest::Kind::kMatrix);
  EXPECT_EQ(first.shape, Shape({384, 64}));
  EXPECT_EQ(set->weights()[0]->format, Format::affine(4, 64));
  EXPECT_FALSE((load.root() / "lm_head").has("bias"));
}

}  // namespace
}  // namespace decant
