#pragma once

// Runs the vision tower and the convolutional net of Gemma 3n on any backend: helpers of tests
// only.

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/weight_load.h"
#include "layers/mobilenet.h"
#include "models/golden_testing.h"
#include "models/load_model.h"
#include "models/tower_testing.h"

namespace decant::testing {

/// Tensors of one file, whatever it is part of.
class FileSource : public TensorSource {
 public:
  explicit FileSource(const std::filesystem::path& path) : file_(SafetensorsFile::open(path)) {}
  TensorRef find(std::string_view name) const override { return {file_->find(name), file_}; }
  std::vector<std::string_view> names() const override {
    std::vector<std::string_view> out;
    for (const TensorInfo& tensor : file_->tensors()) out.push_back(tensor.name);
    std::sort(out.begin(), out.end());
    return out;
  }
  const QuantizationConfig& quantization() const override { return quantization_; }
  std::string description() const override { return file_->path().string(); }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
  QuantizationConfig quantization_;
};

/// The net of a file, whose tensors are called as in whole checkpoints.
struct LoadedNet {
  std::shared_ptr<WeightSet> weights;
  std::unique_ptr<layers::MobileNet> net;
  LoadedNet(const std::shared_ptr<const TensorSource>& source, int64_t width) {
    WeightLoad load(source);
    net = std::make_unique<layers::MobileNet>(load.root() / "model" / "vision_tower" / "timm_model",
                                              width);
    weights = load.finish();
  }
};

/// Pictures after each stage, then the features: rows are pixels.
inline std::vector<std::vector<float>> run_net(Backend& backend, const layers::MobileNet& net,
                                               int64_t height, int64_t width,
                                               std::span<const float> planes) {
  Graph graph({Phase::kPrefill, 1, 1, 1});
  const Value pixels = graph.input(0, {DType::kF32, {height * width, 3}, Rows::kFixed});
  std::vector<layers::Picture> stages;
  const Value features = net({pixels, height, width}, &stages);
  for (const layers::Picture& stage : stages) graph.mark_output(stage.pixels, "stage");
  graph.mark_output(features, "features");
  const auto pools = backend.make_pools({});
  const auto program = backend.compile(graph, *pools, {.exact = true});
  std::vector<float> rows(planes.size());
  const auto count = static_cast<size_t>(height * width);
  for (size_t i = 0; i < count; ++i)
    for (size_t plane = 0; plane < 3; ++plane) rows[3 * i + plane] = planes[plane * count + i];
  program->set_input(0, std::span<const float>(rows));
  Batch batch;
  batch.phase = Phase::kPrefill;
  program->run(batch);
  std::vector<std::vector<float>> out;
  for (size_t i = 0; i < program->graph().outputs().size(); ++i) {
    const auto values = program->output(static_cast<int>(i));
    out.emplace_back(values.begin(), values.end());
  }
  return out;
}

/// The largest difference of rows [pixels, channels] from planes [channels, pixels] in shares of
/// the planes' range; with `step`, planes hold every step-th channel only.
inline double plane_difference(std::span<const float> rows, std::span<const float> planes,
                               size_t channels, size_t step = 1) {
  const size_t pixels = rows.size() / channels;
  if (channels == 0 || planes.size() != pixels * ((channels + step - 1) / step)) return INFINITY;
  double worst = 0;
  for (size_t c = 0; c < channels; c += step)
    for (size_t i = 0; i < pixels; ++i) {
      const double difference =
          std::fabs(static_cast<double>(rows[i * channels + c]) - planes[c / step * pixels + i]);
      if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
    }
  return worst / range_of(planes);
}

/// Compares the net of `folder` with what timm's gave for the same picture, stage by stage.
inline void expect_mobilenet_golden(Backend& backend, const std::filesystem::path& folder) {
  const Golden golden(folder);
  const LoadedNet loaded(std::make_shared<FileSource>(folder / "model.safetensors"), 2048);
  const auto got = run_net(backend, *loaded.net, 256, 256, golden.floats("pixel_values"));
  ASSERT_EQ(got.size(), 5u);
  const size_t channels[] = {16, 24, 64, 128, 2048};
  for (size_t i = 0; i < 5; ++i) {
    const std::string name = i < 4 ? "stage" + std::to_string(i) : "features";
    EXPECT_LE(plane_difference(got[i], golden.floats(name), channels[i]), 1e-4) << name;
  }
}

inline TowerInput picture_of(std::vector<int64_t> shape, std::vector<float> values) {
  TowerInput input;
  input.shape = std::move(shape);
  input.values = std::move(values);
  return input;
}
inline TowerInput ids_of(std::vector<int32_t> ids) {
  TowerInput input;
  input.ids = std::move(ids);
  return input;
}

/// A picture of the formula that the golden script uses for sizes it does not store.
inline TowerInput formula_picture(int64_t height, int64_t width) {
  TowerInput input = picture_of({3, height, width}, {});
  for (int64_t plane = 0; plane < 3; ++plane)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        input.values.push_back(static_cast<float>((7 * x + 5 * y + 11 * plane) % 64) / 63.0f);
  return input;
}

/// Compares a whole model's vision tower with transformers': a picture whose last but one stage is
/// resized, ids of the tower's range and, with `pooled`, a picture that is pooled.
inline void expect_gemma3n_vision(Backend& backend, const Model& model,
                                  const std::filesystem::path& folder, bool pooled) {
  const auto file = SafetensorsFile::open(folder / "golden_image.safetensors");
  const auto floats = [&](std::string_view name) {
    const auto bytes = file->find(name)->bytes;
    std::vector<float> out(bytes.size() / 4);
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  };
  const auto expect_near = [&](const TowerInput& input, std::string_view name) {
    const auto want = floats(name);
    const Tower& tower = *model.tower(Medium::kImage);
    EXPECT_EQ(tower.rows(input) * model.spec().hidden_size, std::ssize(want)) << name;
    EXPECT_LE(max_difference(run_tower(backend, tower, input), want), 1e-4 * range_of(want))
        << name;
  };
  ASSERT_NE(model.tower(Medium::kImage), nullptr);
  expect_near(picture_of({3, 128, 128}, floats("pixel_values")), "image_features");
  const auto bytes = file->find("hard_ids")->bytes;
  std::vector<int32_t> ids(bytes.size() / 4);
  std::memcpy(ids.data(), bytes.data(), bytes.size());
  expect_near(ids_of(std::move(ids)), "hard_features");
  if (pooled) expect_near(formula_picture(512, 256), "pooled_features");
}

}  // namespace decant::testing
