#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "media/testing.h"

namespace decant::media {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The configurations the golden processors were made with, but for what are defaults.
constexpr const char* kGemma3n = R"({
  "image_processor_type": "SiglipImageProcessorFast", "size": {"height": 256, "width": 256},
  "resample": 2, "do_normalize": false, "rescale_factor": 0.00392156862745098})";
constexpr const char* kGemma4 = R"({"max_soft_tokens": 70})";
constexpr const char* kQwen = R"({
  "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "merge_size": 2,
  "temporal_patch_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
  "size": {"shortest_edge": 4096, "longest_edge": 36864}})";

std::unique_ptr<ImageProcessor> images(const char* family, const char* config,
                                       const ImageProcessorOptions& options = {}) {
  return make_image_processor(family, parse_json(config, "config"), "config", options);
}

std::unique_ptr<AudioProcessor> sounds(const char* family, const char* config) {
  return make_audio_processor(family, parse_json(config, "config"), "config");
}

Image picture() { return load_image(fixture("picture.png")).image; }

template <typename T>
void expect_equal(const Array<T>& got, const Array<T>& want) {
  EXPECT_EQ(got.shape, want.shape);
  ASSERT_EQ(got.data.size(), want.data.size());
  size_t different = 0;
  double largest = 0.0;
  for (size_t i = 0; i < want.data.size(); ++i) {
    if (got.data[i] == want.data[i]) continue;
    ++different;
    largest = std::max(
        largest, std::fabs(static_cast<double>(got.data[i]) - static_cast<double>(want.data[i])));
  }
  EXPECT_EQ(different, 0u) << "largest difference " << largest;
}

double largest_difference(const Array<float>& got, const Array<float>& want) {
  EXPECT_EQ(got.shape, want.shape);
  if (got.data.size() != want.data.size()) return INFINITY;
  double largest = 0.0;
  for (size_t i = 0; i < want.data.size(); ++i) {
    largest = std::max(largest, std::fabs(static_cast<double>(got.data[i] - want.data[i])));
  }
  return largest;
}

TEST(ImageProcessor, GoldenPictureIsRead) {
  const Array<uint8_t> want = Golden().read<uint8_t>("image");
  const Image image = picture();
  EXPECT_THAT(want.shape, ElementsAre(image.height, image.width, 3));
  EXPECT_EQ(image.rgb, want.data);
}

TEST(ImageProcessor, Gemma3nEqualsTransformers) {
  const ImageInputs got = images("gemma3n", kGemma3n)->process(picture());
  expect_equal(got.pixel_values, Golden().read<float>("gemma3n_256.pixel_values"));
  EXPECT_EQ(got.soft_tokens, 256);
}

TEST(ImageProcessor, Gemma4EqualsTransformers) {
  const Golden golden;
  const ImageInputs got = images("gemma4", kGemma4)->process(picture());
  expect_equal(got.pixel_values, golden.read<float>("gemma4_70.pixel_values"));
  expect_equal(got.image_position_ids, golden.read<int32_t>("gemma4_70.image_position_ids"));
  EXPECT_THAT(golden.read<int32_t>("gemma4_70.num_soft_tokens_per_image").data,
              ElementsAre(got.soft_tokens));
}

TEST(ImageProcessor, Qwen35EqualsTransformers) {
  const Golden golden;
  const auto processor = images("qwen3_5", kQwen);
  const Image image = picture();
  const ImageInputs got = processor->process(image);
  expect_equal(got.pixel_values, golden.read<float>("qwen3_5.pixel_values"));
  expect_equal(got.image_grid_thw, golden.read<int32_t>("qwen3_5.image_grid_thw"));
  EXPECT_EQ(got.soft_tokens, got.pixel_values.shape[0] / 4);
  EXPECT_EQ(processor->soft_tokens({image.width, image.height}), got.soft_tokens);
}

// The 12B's cells hold the pixels of nine patches in raster order.
TEST(ImageProcessor, Gemma4UnifiedMergesPatches) {
  const Image image = picture();
  const ImageInputs patches = images("gemma4", kGemma4)->process(image);
  const ImageInputs cells = images("gemma4_unified", kGemma4)->process(image);
  EXPECT_THAT(cells.pixel_values.shape, ElementsAre(1, 70, 6912));
  EXPECT_EQ(cells.soft_tokens, patches.soft_tokens);
  const size_t columns =
      static_cast<size_t>(*std::max_element(patches.image_position_ids.data.begin(),
                                            patches.image_position_ids.data.end()) +
                          1);
  for (size_t cell = 0; cell < static_cast<size_t>(cells.soft_tokens); ++cell) {
    const auto x = static_cast<size_t>(cells.image_position_ids.data[2 * cell]);
    const auto y = static_cast<size_t>(cells.image_position_ids.data[2 * cell + 1]);
    ASSERT_EQ(cell, y * (columns / 3) + x);
    for (size_t row = 0; row < 48; ++row) {
      for (size_t column = 0; column < 48; ++column) {
        const size_t patch = (3 * y + row / 16) * columns + 3 * x + column / 16;
        for (size_t c = 0; c < 3; ++c) {
          ASSERT_EQ(cells.pixel_values.data[cell * 6912 + (row * 48 + column) * 3 + c],
                    patches.pixel_values.data[patch * 768 + (row % 16 * 16 + column % 16) * 3 + c]);
        }
      }
    }
  }
  EXPECT_EQ(cells.image_position_ids.data.back(), -1);
}

TEST(ImageProcessor, Gemma4TargetSizes) {
  const auto processor = images("gemma4", "{}");
  const ImageSize usual = processor->target_size({1024, 768});
  EXPECT_EQ(usual.width, 912);
  EXPECT_EQ(usual.height, 672);
  EXPECT_EQ(processor->soft_tokens({1024, 768}), 266);
  const ImageSize thin = processor->target_size({10000, 10});
  EXPECT_EQ(thin.width, 280 * 48);
  EXPECT_EQ(thin.height, 48);
  const ImageSize tall = processor->target_size({3, 900});
  EXPECT_EQ(tall.width, 48);
  EXPECT_EQ(tall.height, 280 * 48);
}

TEST(ImageProcessor, Qwen35TargetSizes) {
  const auto processor = images("qwen3_5_moe", "{}");
  const auto size = [&](int64_t width, int64_t height) {
    const ImageSize to = processor->target_size({width, height});
    return std::pair(to.width, to.height);
  };
  EXPECT_EQ(size(640, 480), std::pair(INT64_C(640), INT64_C(480)));
  EXPECT_EQ(size(656, 720), std::pair(INT64_C(640), INT64_C(704)));  // 20.5 and 22.5: half to even
  EXPECT_EQ(size(688, 752), std::pair(INT64_C(704), INT64_C(768)));  // 21.5 and 23.5
  EXPECT_EQ(size(10, 20), std::pair(INT64_C(192), INT64_C(384)));
  EXPECT_EQ(size(8000, 6000), std::pair(INT64_C(4704), INT64_C(3520)));
  EXPECT_THAT(error_of([&] { processor->target_size({1, 201}, "a.png"); }),
              HasSubstr("[media] a.png: expected sides within a ratio of 200, got 1 x 201"));
}

TEST(ImageProcessor, PillowArithmeticIsNearTorch) {
  const Image image = picture();
  const Array<float> torch = images("qwen3_5", kQwen)->process(image).pixel_values;
  const Array<float> pillow = images("qwen3_5", kQwen, {.arithmetic = ResizeArithmetic::kPillow})
                                  ->process(image)
                                  .pixel_values;
  const double difference = largest_difference(torch, pillow);
  EXPECT_GT(difference, 0.0);
  EXPECT_LE(difference, 2.1 / 127.5);
}

TEST(ImageProcessor, SectionsOfAProcessorFile) {
  const auto processor = images("gemma4", R"({
    "image_processor": {"max_soft_tokens": 140, "image_processor_type": "Gemma4ImageProcessor"},
    "processor_class": "Gemma4Processor", "audio_seq_length": 750})");
  EXPECT_LE(processor->soft_tokens({500, 500}), 140);
  EXPECT_GT(processor->soft_tokens({500, 500}), 70);
  const auto gemma3n = images("gemma3n", R"({
    "image_processor": {"size": {"height": 96, "width": 64}}, "image_seq_length": 6})");
  EXPECT_EQ(gemma3n->soft_tokens({5, 5}), 6);
  EXPECT_THAT(gemma3n->process(picture()).pixel_values.shape, ElementsAre(1, 3, 96, 64));
}

TEST(ImageProcessor, RefusesWhatItDoesNotDo) {
  const auto refusal = [](const char* family, const char* config) {
    return error_of([&] { images(family, config); });
  };
  EXPECT_EQ(refusal("gemma4", R"({"do_resize": false})"),
            "[media] config: do_resize: expected true, got false");
  EXPECT_THAT(refusal("gemma4", R"({"resample": 1})"),
              HasSubstr("resample: expected 2 (bilinear) or 3 (bicubic), got"));
  EXPECT_THAT(refusal("gemma4", R"({"max_soft_tokens": 100})"), HasSubstr("70, 140, 280"));
  EXPECT_THAT(refusal("gemma4", R"({"image_processor_type": "Idefics3ImageProcessor"})"),
              HasSubstr("image_processor_type: expected Gemma4ImageProcessor"));
  EXPECT_THAT(refusal("gemma3n", "{}"), HasSubstr("size.height: expected an integer"));
  EXPECT_THAT(refusal("gemma3n", R"({"size": {"height": 1e9, "width": 5}})"),
              HasSubstr("size.height: expected an integer from 1 to 4096"));
  EXPECT_THAT(refusal("gemma3n", R"({"size": {"height": 18446744073709551615, "width": 5}})"),
              HasSubstr("size.height"));
  EXPECT_THAT(refusal("qwen3_5", R"({"size": {"shortest_edge": 10, "longest_edge": 5}})"),
              HasSubstr("size: expected a range of pixels, not 10 to 5"));
  EXPECT_THAT(refusal("qwen3_5", R"({"image_std": [1, 0, 1]})"), HasSubstr("above 0"));
  EXPECT_THAT(refusal("qwen3_5", R"({"image_mean": [1, 2]})"), HasSubstr("3 numbers"));
  EXPECT_THAT(refusal("qwen3_5", R"({"image_processor": 3})"), HasSubstr("an object"));
  EXPECT_THAT(refusal("qwen3_5", "[]"), HasSubstr("expected an object"));
  EXPECT_THAT(refusal("qwen3", "{}"), HasSubstr("a family that reads pictures, got"));
}

Audio golden_sound() { return {16000, Golden().read<float>("audio_16k").data}; }

Array<uint8_t> narrow_mask(const Array<int32_t>& mask) {
  Array<uint8_t> out;
  out.shape = mask.shape;
  out.data.assign(mask.data.begin(), mask.data.end());
  return out;
}

// The reference's float32 transform errs by about 1e-7 of a frame's largest magnitude; the energies
// here are far above the floor, so logarithms agree to 1e-5.
TEST(AudioProcessor, Gemma3nEqualsTransformers) {
  const Golden golden;
  const AudioInputs got = sounds("gemma3n", "{}")->process(golden_sound());
  EXPECT_LT(
      largest_difference(got.input_features, golden.read<float>("gemma3n_audio.input_features")),
      1e-5);
  expect_equal(got.input_features_mask,
               narrow_mask(golden.read<int32_t>("gemma3n_audio.input_features_mask")));
  EXPECT_EQ(got.soft_tokens, 188);
}

TEST(AudioProcessor, Gemma4EqualsTransformers) {
  const Golden golden;
  const AudioInputs got = sounds("gemma4", "{}")->process(golden_sound());
  EXPECT_LT(
      largest_difference(got.input_features, golden.read<float>("gemma4_audio.input_features")),
      1e-5);
  expect_equal(got.input_features_mask,
               narrow_mask(golden.read<int32_t>("gemma4_audio.input_features_mask")));
  EXPECT_EQ(got.soft_tokens, 25);
}

TEST(AudioProcessor, Gemma4MasksFilling) {
  Audio audio = golden_sound();
  audio.samples.resize(960);  // filled up to 1024: one frame ends in the filling
  const AudioInputs got = sounds("gemma4", "{}")->process(audio);
  EXPECT_THAT(got.input_features_mask.data, ElementsAre(1, 1, 1, 1, 1, 0));
  EXPECT_EQ(got.input_features.data.back(), 0.0f);
  EXPECT_EQ(got.soft_tokens, 2);
}

TEST(AudioProcessor, LongSoundsAreCut) {
  Audio audio = {16000, std::vector<float>(500'000, 0.25f)};
  const AudioInputs got = sounds("gemma4", "{}")->process(audio);
  EXPECT_EQ(got.input_features.shape[1], 2999);
  EXPECT_EQ(got.soft_tokens, 750);
}

TEST(AudioProcessor, ShortSoundsAreRefused) {
  const Audio audio = {16000, std::vector<float>(100, 0.5f)};
  EXPECT_THAT(error_of([&] { sounds("gemma3n", "{}")->process(audio, "a.wav"); }),
              HasSubstr("[media] a.wav: expected a sound of at least 33 ms, got 100 samples"));
}

TEST(AudioProcessor, Gemma4UnifiedTakesSamples) {
  Audio audio = golden_sound();
  audio.samples.resize(1281);
  const AudioInputs got = sounds("gemma4_unified", "{}")->process(audio);
  EXPECT_THAT(got.input_features.shape, ElementsAre(1, 3, 640));
  EXPECT_EQ(got.input_features.data[1280], audio.samples[1280]);
  EXPECT_EQ(got.input_features.data[1281], 0.0f);
  EXPECT_EQ(got.soft_tokens, 3);
}

TEST(AudioProcessor, RefusesWhatItDoesNotDo) {
  const auto refusal = [](const char* family, const char* config) {
    return error_of([&] { sounds(family, config); });
  };
  EXPECT_EQ(refusal("gemma4", R"({"dither": 0.1})"),
            "[media] config: dither: expected 0, got number 0.1");
  EXPECT_THAT(refusal("gemma4", R"({"padding_side": "left"})"), HasSubstr("expected right"));
  EXPECT_THAT(refusal("gemma4", R"({"max_frequency": -5})"), HasSubstr("max_frequency"));
  EXPECT_THAT(refusal("gemma3n", R"({"feature_extractor": {"frame_length_ms": 1000,
                                     "sampling_rate": 192000}})"),
              HasSubstr("feature_extractor.frame_length_ms: expected 2 to 32768 samples"));
  EXPECT_THAT(refusal("gemma3n", R"({"per_bin_stddev": 0})"), HasSubstr("not 0"));
  EXPECT_THAT(refusal("qwen3_5", "{}"), HasSubstr("a family that hears sounds"));
}

}  // namespace
}  // namespace decant::media
