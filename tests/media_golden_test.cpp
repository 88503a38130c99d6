// Pictures and sounds from processor outputs to logits, against the official implementations.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/reference_backend.h"
#include "checkpoint/safetensors.h"
#include "engine/engine.h"
#include "models/audio_testing.h"
#include "models/golden_testing.h"
#include "models/load_model.h"
#include "session/tower_inputs.h"

namespace decant {
namespace {

using namespace decant::testing;
namespace fs = std::filesystem;

struct MediaGolden {
  const char* folder;
  const char* file;
  const char* features;  // what the golden calls them
};

void PrintTo(const MediaGolden& golden, std::ostream* out) {
  *out << golden.folder << "/" << golden.file;
}

/// The processor outputs among the tensors of a golden, as a file of their own.
void write_inputs(const fs::path& golden, const fs::path& to) {
  const auto file = SafetensorsFile::open(golden);
  std::vector<TensorDeclaration> tensors;
  std::vector<const TensorInfo*> found;
  for (const char* name :
       {"pixel_values", "image_position_ids", "grid_thw", "image_grid_thw", "pixel_values_videos",
        "video_grid_thw", "video_position_ids", "input_features", "input_features_mask"})
    if (const TensorInfo* tensor = file->find(name)) {
      tensors.push_back({name, tensor->dtype, {tensor->dims().begin(), tensor->dims().end()}});
      found.push_back(tensor);
    }
  SafetensorsWriter writer(to, tensors);
  for (const TensorInfo* tensor : found) writer.write(tensor->bytes);
  writer.commit();
}

class MediaGoldenTest : public ::testing::TestWithParam<MediaGolden> {
 protected:
  void check(Backend& backend, std::initializer_list<int> chunks) const {
    const fs::path folder = fs::path(DECANT_TEST_DATA) / GetParam().folder;
    const Golden golden(folder, GetParam().file);
    const fs::path file =
        fs::path(::testing::TempDir()) / (std::to_string(::getpid()) + ".safetensors");
    write_inputs(folder / GetParam().file, file);
    auto inputs = read_tower_inputs(file);
    fs::remove(file);
    std::string features_name = GetParam().features;
    if (golden.has("mel")) {  // sounds of many lengths, one of which stands in the prompt
      const auto cases = golden.ints("cases");
      const auto sound = static_cast<size_t>(golden.ints("sound").at(0));
      inputs = {std::make_shared<TowerInput>(
          sound_of(golden.floats("mel"), cases.at(2 * sound), cases.at(2 * sound + 1)))};
      features_name = "features." + std::to_string(sound);
    }
    ASSERT_FALSE(inputs.empty());

    LoadedModel loaded = load_model(folder);
    const auto vocab = static_cast<size_t>(loaded.spec.vocab_size);
    const auto prompt = golden.ints("input_ids");
    const auto want = golden.floats("logits");
    const auto want_features = golden.floats(features_name);
    ASSERT_EQ(want.size(), prompt.size() * vocab);
    const double share = golden_bound(*loaded.model);
    EngineOptions options;
    options.ctx_size = std::ssize(prompt) + 64;
    options.max_sequences = 2;
    options.exact = true;
    options.kv_dtype = DType::kF32;
    options.reference_route = backend.name() == "reference";
    options.prefill_chunk = 64;
    Engine engine(std::shared_ptr<const Model>(std::move(loaded.model)), backend, options);

    std::vector<float> features;
    for (const auto& input : inputs) {
      const auto one = engine.features(*input);
      features.insert(features.end(), one->values.begin(), one->values.end());
    }
    EXPECT_LE(max_difference(features, want_features), share * range_of(want_features))
        << "features of the tower";

    const auto media = place_in_order(engine.model(), prompt, inputs);
    if (golden.has("position_ids"))
      check_positions(golden, place_media(engine.model(), prompt, media, 64));
    for (const int chunk : chunks) {
      std::vector<float> got(want.size());
      ScoreOptions score;
      score.chunk = chunk;
      score.media = {media};
      engine.score(std::vector<std::vector<int32_t>>{prompt}, score,
                   [&](size_t, int64_t position, std::span<const float> values) {
                     std::copy(values.begin(), values.end(),
                               got.begin() + position * static_cast<int64_t>(vocab));
                   });
      EXPECT_LE(max_difference(got, want), share * range_of(want)) << "chunks of " << chunk;
    }
    // What follows the last placeholder token by token; and beside a row of text.
    int64_t after = 0;
    const Placement placed = place_media(engine.model(), prompt, media, 64);
    for (size_t i = 0; i < placed.sources.size(); ++i)
      if (placed.sources[i].item >= 0) after = static_cast<int64_t>(i) + 1;
    ASSERT_GT(after, 0);
    if (after >= std::ssize(prompt)) return;
    ScoreOptions score;
    score.decode_from = after;
    score.media = {media};
    std::vector<int32_t> text(prompt.begin(), prompt.begin() + after + 1);
    for (int32_t& id : text) id = std::min<int32_t>(id + 40, static_cast<int32_t>(vocab) - 1);
    engine.score(std::vector<std::vector<int32_t>>{prompt, text}, score,
                 [&](size_t row, int64_t position, std::span<const float> values) {
                   if (row > 0) return;
                   const auto reference =
                       std::span(want).subspan(static_cast<size_t>(position) * vocab, vocab);
                   EXPECT_LE(max_difference(values, reference), share * range_of(want))
                       << "decoded position " << position;
                 });
  }
  /// The positions of get_rope_index, axis by axis.
  static void check_positions(const Golden& golden, const Placement& placement) {
    const auto want = golden.ints("position_ids");
    const size_t length = want.size() / 3;
    ASSERT_EQ(placement.axes.size(), length);
    for (size_t i = 0; i < length; ++i)
      for (size_t axis = 0; axis < 3; ++axis)
        ASSERT_EQ(placement.axes[i][axis], want[axis * length + i]) << "position " << i;
    EXPECT_EQ(golden.ints("position_delta"), std::vector<int32_t>{placement.shift});
  }
};

TEST_P(MediaGoldenTest, MatchesTheReferenceOutputs) {
  const auto backend = make_reference_backend();
  check(*backend, {64, 7});
}

TEST_P(MediaGoldenTest, MatchesOnTheCpu) {
  const auto backend = make_cpu_backend({.threads = 2});
  check(*backend, {64, 16, 7, 1});
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, MediaGoldenTest,
    ::testing::Values(
        MediaGolden{"zoo/gemma3n", "golden_image.safetensors", "image_features"},
        MediaGolden{"zoo/gemma3n_audio", "golden_audio.safetensors", ""},
        MediaGolden{"zoo/gemma4_audio", "golden_audio.safetensors", ""},
        MediaGolden{"zoo/gemma4_e2b", "golden_audio.safetensors", "audio_features"},
        MediaGolden{"zoo/gemma4_unified", "golden_audio.safetensors", "audio_features"},
        MediaGolden{"zoo/gemma4_unified", "golden_image.safetensors", "image_features"},
        MediaGolden{"zoo/gemma4_dense", "golden_image.safetensors", "image_features"},
        MediaGolden{"zoo/gemma4_dense", "golden_video.safetensors", "video_features"},
        MediaGolden{"zoo/gemma4_e2b", "golden_image.safetensors", "image_features"},
        MediaGolden{"zoo/gemma4_moe", "golden_image.safetensors", "image_features"},
        MediaGolden{"zoo/qwen3_5", "golden_image.safetensors", "image_features"},
        MediaGolden{"zoo/qwen3_5", "golden_video.safetensors", "video_features"},
        MediaGolden{"zoo/qwen3_5_moe", "golden_image.safetensors", "image_features"},
        MediaGolden{"mlx_vlm/gemma4_moe-4bit-vlm", "golden_image.safetensors", "image_features"},
        MediaGolden{"mlx_vlm/qwen3_5_moe-4bit-vlm", "golden_image.safetensors", "image_features"}),
    [](const auto& test) {
      std::string name = std::string(test.param.folder) + "_" + test.param.file;
      name.resize(name.find('.'));
      for (char& c : name)
        if (c == '/' || c == '-') c = '_';
      return name;
    });

}  // namespace
}  // namespace decant
