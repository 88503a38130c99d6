#include "checkpoint/dummy_weights.h"

#include <fmt/format.h>

#include <cmath>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

using namespace decant::testing;

void ask(WeightLoad& load) {
  const WeightScope model = load.root() / "model";
  (model / "embed_tokens").matrix(1000, 128);
  (model / "narrow").matrix(16, 4);
  (model / "norm").vector("weight", {128});
  (model / "linear").vector("bias", {7});
  (model / "mlp" / "gate").matrix(8, 128);
  for (const char* name : {"gate_proj", "up_proj"}) (model / "mlp").experts(name, 8, 64, 128);
  (model / "mlp").experts("down_proj", 8, 128, 64);
}

struct Moments {
  double mean = 0, deviation = 0;
};
Moments moments(const Weight& weight) {
  double sum = 0, squares = 0, count = 0;
  for (const MatrixView& view : weight.views) {
    std::vector<float> row(static_cast<size_t>(view.cols));
    for (int64_t r = 0; r < view.rows; ++r) {
      dequantize_row(view, r, row.data());
      for (float value : row) {
        EXPECT_TRUE(std::isfinite(value));
        sum += value;
        squares += static_cast<double>(value) * value;
        count += 1;
      }
    }
  }
  return {sum / count, std::sqrt(squares / count - sum * sum / count / count)};
}

class DummyWeights : public ::testing::TestWithParam<Format> {};

TEST_P(DummyWeights, LoadThroughTheNormalPath) {
  TemporaryFolder folder;
  const auto source = std::make_shared<DummySource>(GetParam());
  WeightLoad recording(source);
  ask(recording);
  recording.finish();
  const Json config = parse_json(R"({"model_type": "x", "quantization": {"bits": 4}})", "test");
  write_dummy_checkpoint(source->requests(), config, GetParam(), 7, folder / "m", 8);
  const auto checkpoint = Checkpoint::open(folder / "m");
  EXPECT_EQ(checkpoint->files()[0]->data_offset() % 64, 8u);
  EXPECT_EQ(checkpoint->config()["model_type"], "x");
  EXPECT_EQ(checkpoint->quantization().present(), !GetParam().is_dense());
  WeightLoad load(checkpoint);
  ask(load);
  const auto set = load.finish();
  ASSERT_EQ(set->weights().size(), 8u);
  const Weight& embed = *set->find("model.embed_tokens");
  EXPECT_EQ(embed.format, GetParam());
  EXPECT_TRUE(set->find("model.narrow")->format.is_dense());
  if (!GetParam().is_dense()) {
    EXPECT_EQ(set->find("model.mlp.gate")->format,
              Format::affine(8, 64, GetParam().is_micro() ? DType::kBF16 : GetParam().dtype));
  }
  for (const Weight* weight : set->weights()) {
    const Moments got = moments(*weight);
    if (weight->name == "model.norm.weight") {
      EXPECT_NEAR(got.mean, 1, 0.05);
      EXPECT_NEAR(got.deviation, 0.1 / std::sqrt(3.0), 0.02);
    } else if (weight->shape.count() > 500) {
      const double want = 1 / std::sqrt(static_cast<double>(weight->shape.back()));
      EXPECT_NEAR(got.mean, 0, want * 0.1) << weight->name;
      EXPECT_NEAR(got.deviation / want, 1, GetParam().bits == 1 ? 0.8 : 0.35) << weight->name;
    }
  }
  // The same seed gives the same file, another one does not.
  write_dummy_checkpoint(source->requests(), config, GetParam(), 7, folder / "same", 8);
  write_dummy_checkpoint(source->requests(), config, GetParam(), 8, folder / "other", 8);
  const std::string first = file_text(folder / "m" / "model.safetensors");
  EXPECT_EQ(first, file_text(folder / "same" / "model.safetensors"));
  EXPECT_NE(first, file_text(folder / "other" / "model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Formats, DummyWeights,
                         ::testing::Values(Format::dense(DType::kBF16), Format::dense(DType::kF32),
                                           Format::dense(DType::kF16), Format::affine(1, 32),
                                           Format::affine(3, 64), Format::affine(4, 64),
                                           Format::affine(4, 64, DType::kF32),
                                           Format::affine(8, 64, DType::kF16), Format::mxfp4(),
                                           Format::mxfp8(), Format::nvfp4()));

TEST(DummyWeights, RefusesSizesPast64Bits) {
  TemporaryFolder folder;
  const std::vector<WeightRequest> requests = {
      {WeightRequest::Kind::kMatrix, "m", "", Shape({INT64_MAX / 2, 64})}};
  EXPECT_NE(model_error([&] {
              write_dummy_checkpoint(requests, Json::object(), Format::dense(DType::kBF16), 0,
                                     folder / "m");
            }),
            "");
}

}  // namespace
}  // namespace decant
