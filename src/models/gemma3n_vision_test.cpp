#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>

#include "backend/reference/reference_backend.h"
#include "base/json.h"
#include "models/mobilenet_testing.h"

namespace decant {
namespace {

using namespace decant::testing;
using ::testing::HasSubstr;

std::filesystem::path fixture(std::string_view name) {
  return std::filesystem::path(DECANT_TEST_DATA) / name;
}

/// The tensors of a checkpoint under other names and in other orders.
class RewrittenSource : public TensorSource {
 public:
  /// `rewrite` changes name, sizes and bytes of a tensor, or drops it by clearing its name.
  struct Tensor {
    std::string name;
    std::vector<int64_t> dims;
    std::vector<std::byte> bytes;
  };
  using Rewrite = std::function<void(Tensor&)>;
  RewrittenSource(const std::filesystem::path& path, const Rewrite& rewrite)
      : file_(SafetensorsFile::open(path)) {
    for (const TensorInfo& info : file_->tensors()) {
      Tensor tensor{info.name,
                    {info.dims().begin(), info.dims().end()},
                    {info.bytes.begin(), info.bytes.end()}};
      rewrite(tensor);
      if (tensor.name.empty()) continue;
      TensorInfo& made = tensors_.emplace_back(info);
      made.name = tensor.name;
      made.rank = static_cast<uint8_t>(tensor.dims.size());
      std::copy(tensor.dims.begin(), tensor.dims.end(), made.sizes.begin());
      made.bytes = bytes_.emplace_back(std::move(tensor.bytes));
    }
  }
  TensorRef find(std::string_view name) const override {
    for (const TensorInfo& tensor : tensors_)
      if (tensor.name == name) return {&tensor, file_};
    return {};
  }
  std::vector<std::string_view> names() const override {
    std::vector<std::string_view> out;
    for (const TensorInfo& tensor : tensors_) out.push_back(tensor.name);
    std::sort(out.begin(), out.end());
    return out;
  }
  const QuantizationConfig& quantization() const override { return quantization_; }
  std::string description() const override { return "rewritten"; }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
  std::deque<TensorInfo> tensors_;
  std::deque<std::vector<std::byte>> bytes_;
  QuantizationConfig quantization_;
};

/// The fixture's model on rewritten tensors.
struct Rewritten {
  std::shared_ptr<const TensorSource> source;  // has the bytes
  std::unique_ptr<Model> model;
  std::shared_ptr<WeightSet> weights;
  explicit Rewritten(const RewrittenSource::Rewrite& rewrite) {
    const auto folder = fixture("zoo/gemma3n");
    source = std::make_shared<RewrittenSource>(folder / "model.safetensors", rewrite);
    const Json config = read_json_file(folder / "config.json");
    const Family& family = family_of(config, "config.json");
    WeightLoad load(source, family.renames);
    model = family.build(config, "config.json", load.root());
    weights = load.finish();
  }
};

std::string problems(const RewrittenSource::Rewrite& rewrite) {
  try {
    const Rewritten built(rewrite);
  } catch (const WeightError& error) {
    return error.what();
  }
  return "";
}

bool is_of_towers(std::string_view name) {
  return name.find("_tower.") != name.npos || name.starts_with("model.embed_");
}

TEST(MobileNet, MatchesTimmStageByStage) {
  const auto backend = make_reference_backend();
  expect_mobilenet_golden(*backend, fixture("zoo/gemma3n_vision_tower"));
}

TEST(Gemma3nVision, MatchesTransformers) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(fixture("zoo/gemma3n"));
  expect_gemma3n_vision(*backend, *loaded.model, fixture("zoo/gemma3n"), false);
}

TEST(Gemma3nVision, SaysWhatStandsForPictures) {
  const LoadedModel loaded = load_model(fixture("zoo/gemma3n"));
  const MediaSpec& media = loaded.spec.media;
  EXPECT_EQ(media.image_token, 321);
  EXPECT_EQ(media.video_token, -1);
  EXPECT_FALSE(media.both_ways);
  const auto range = std::find_if(media.tower_tokens.begin(), media.tower_tokens.end(),
                                  [](const auto& each) { return each.medium == Medium::kImage; });
  ASSERT_NE(range, media.tower_tokens.end());
  EXPECT_EQ(range->first, 320);
  EXPECT_EQ(range->count, 32);
}

// Converters store kernels with channels last and leave the towers' names without a prefix. The
// stem's kernel of 3 x 3 on 3 planes has the same shape in both orders.
TEST(Gemma3nVision, ReadsConvertedCheckpoints) {
  const Rewritten converted([](RewrittenSource::Tensor& tensor) {
    std::string& name = tensor.name;
    const std::string text = "model.language_model.";
    if (name.starts_with(text))
      name = "language_model.model." + name.substr(text.size());
    else
      name = name.substr(std::string("model.").size());
    if (tensor.dims.size() != 4) return;
    const auto [out, in, rows, columns] =
        std::tie(tensor.dims[0], tensor.dims[1], tensor.dims[2], tensor.dims[3]);
    std::vector<std::byte> bytes;
    for (int64_t o = 0; o < out; ++o)
      for (int64_t t = 0; t < rows * columns; ++t)
        for (int64_t i = 0; i < in; ++i) {
          const auto at = static_cast<size_t>(2 * ((o * in + i) * rows * columns + t));
          bytes.insert(bytes.end(), {tensor.bytes[at], tensor.bytes[at + 1]});
        }
    tensor.bytes = std::move(bytes);
    tensor.dims = {out, rows, columns, in};
  });
  const LoadedModel plain = load_model(fixture("zoo/gemma3n"));
  const auto backend = make_reference_backend();
  const TowerInput input = formula_picture(64, 32);
  EXPECT_EQ(run_tower(*backend, *converted.model->tower(Medium::kImage), input),
            run_tower(*backend, *plain.model->tower(Medium::kImage), input));
}

TEST(Gemma3nVision, IsNotThereWhereTheFileHasNone) {
  const Rewritten text([](RewrittenSource::Tensor& tensor) {
    if (is_of_towers(tensor.name)) tensor.name.clear();
  });
  EXPECT_EQ(text.model->tower(Medium::kImage), nullptr);
  EXPECT_EQ(text.model->spec().media.image_token, -1);
  for (const auto& range : text.model->spec().media.tower_tokens)
    EXPECT_NE(range.medium, Medium::kImage);
}

TEST(Gemma3nVision, ReportsAllThatIsMissingOrWrong) {
  const std::string tower = "model.vision_tower.timm_model.";
  const std::string found = problems([&](RewrittenSource::Tensor& tensor) {
    if (tensor.name == tower + "blocks.1.0.dw_mid.bn.weight") tensor.name.clear();
    if (tensor.name == tower + "blocks.2.3.attn.key.proj.weight") tensor.dims = {32, 128, 1, 1};
    if (tensor.name == tower + "blocks.3.1.layer_scale.gamma") tensor.name += "s";
    if (tensor.name == "model.embed_vision.soft_embedding_norm.weight") tensor.name.clear();
  });
  EXPECT_THAT(found, HasSubstr("blocks.1.0.dw_mid.bn.weight: expected (96), got no such tensor"));
  EXPECT_THAT(found, HasSubstr("blocks.2.3.attn.key.proj.weight: expected"));
  EXPECT_THAT(found, HasSubstr("blocks.3.1.layer_scale.gamma: expected (128), got no such tensor"));
  EXPECT_THAT(found, HasSubstr("blocks.3.1.layer_scale.gammas: expected no such tensor"));
  EXPECT_THAT(found, HasSubstr("embed_vision.soft_embedding_norm.weight: expected (128)"));
  EXPECT_THAT(problems([&](RewrittenSource::Tensor& tensor) {
                if (tensor.name.starts_with(tower)) tensor.name.clear();
              }),
              HasSubstr("conv_stem.conv.weight: expected"));
  EXPECT_THAT(problems([&](RewrittenSource::Tensor& tensor) {
                if (tensor.name.starts_with(tower + "blocks.2.1.")) tensor.name.clear();
              }),
              HasSubstr("blocks.2.2.pw_exp.conv.weight: expected no such tensor"));
}

TEST(Gemma3nVision, RefusesWhatIsNoPicture) {
  const LoadedModel loaded = load_model(fixture("zoo/gemma3n"));
  const Tower& tower = *loaded.model->tower(Medium::kImage);
  const auto refusal = [&](const TowerInput& input) {
    try {
      tower.rows(input);
    } catch (const RequestError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  TowerInput good = formula_picture(64, 64);
  EXPECT_EQ(refusal(good), "");
  good.values.pop_back();
  EXPECT_THAT(refusal(good), HasSubstr("picture: expected 12288 values, got 12287"));
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{}, {3, 64}, {4, 64, 64}, {3, 0, 64}, {3, -64, -64}, {3, 64, 1 << 30}})
    EXPECT_THAT(refusal(picture_of(shape, {0, 0, 0})), HasSubstr("expected 3 planes"));
  EXPECT_THAT(refusal(ids_of({320, 319})), HasSubstr("expected 320 to 351, got 319"));
  EXPECT_THAT(refusal(ids_of({352})), HasSubstr("got 352"));
}

}  // namespace
}  // namespace decant
