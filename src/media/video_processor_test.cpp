#include "media/video_processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "media/video_testing.h"

namespace decant::media {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json golden() {
  const std::vector<std::byte> bytes = fixture_bytes("clip.json");
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "clip.json");
}

std::unique_ptr<VideoProcessor> videos(const std::string& family, const std::string& config) {
  return make_video_processor(family, parse_json(config, "config"), "config");
}

std::unique_ptr<VideoProcessor> videos(const Json& golden_case) {
  return make_video_processor(golden_case.at("family").get<std::string>(), golden_case.at("config"),
                              "config");
}

template <typename T>
std::string hash_of(const std::vector<T>& values) {
  return to_string(content_hash(std::as_bytes(std::span(values))));
}

// What the prompt has for a video, from captions and numbers of tokens.
std::string text_of(const std::string& family, const VideoInputs& inputs) {
  const bool qwen = family == "qwen3_5";
  std::string out;
  for (size_t i = 0; i < inputs.parts.size(); ++i) {
    out += inputs.captions[i] + (qwen ? "<|vision_start|>" : "<|image>");
    for (int64_t t = 0; t < inputs.parts[i].soft_tokens; ++t)
      out += qwen ? "<|video_pad|>" : "<|video|>";
    out += qwen ? "<|vision_end|>" : "<image|>";
  }
  return out;
}

TEST(VideoProcessor, EqualsTransformers) {
  const Json all = golden();
  ASSERT_EQ(all.at("cases").size(), 8u);
  for (const Json& want : all.at("cases")) {
    const std::string family = want.at("family").get<std::string>();
    SCOPED_TRACE(family + " " + want.at("config").dump());
    const auto processor = videos(want);
    ClipVideo video(want.at("fps").get<double>());
    EXPECT_EQ(processor->sample(video.info()), want.at("indices").get<std::vector<int64_t>>());
    const VideoInputs got = processor->process(video);
    std::vector<float> pixels;
    std::vector<int32_t> positions;
    for (const ImageInputs& part : got.parts) {
      pixels.insert(pixels.end(), part.pixel_values.data.begin(), part.pixel_values.data.end());
      positions.insert(positions.end(), part.image_position_ids.data.begin(),
                       part.image_position_ids.data.end());
      if (want.contains("grid")) {
        EXPECT_THAT(part.image_grid_thw.data,
                    ElementsAre(1, want.at("grid")[1].get<int>(), want.at("grid")[2].get<int>()));
      } else {
        EXPECT_EQ(part.soft_tokens, want.at("soft_tokens").get<int64_t>());
      }
    }
    if (want.contains("grid")) {
      EXPECT_EQ(got.parts.size(), want.at("grid")[0].get<size_t>());
    }
    size_t size = 1;
    for (const Json& side : want.at("shape")) size *= side.get<size_t>();
    EXPECT_EQ(pixels.size(), size);
    EXPECT_EQ(hash_of(pixels), want.at("pixels").get<std::string>());
    if (want.contains("positions")) {
      EXPECT_EQ(hash_of(positions), want.at("positions").get<std::string>());
    }
    EXPECT_EQ(text_of(family, got), want.at("text").get<std::string>());
  }
}

TEST(VideoProcessor, SamplesAsTransformers) {
  const Json all = golden();
  ASSERT_EQ(all.at("samples").size(), 14u);
  for (const Json& want : all.at("samples")) {
    SCOPED_TRACE(want.dump());
    VideoInfo info;
    info.frames = want.at("frames").get<int64_t>();
    info.fps = want.at("fps").get<double>();
    EXPECT_EQ(videos(want)->sample(info), want.at("indices").get<std::vector<int64_t>>());
  }
}

TEST(VideoProcessor, SizesAsTransformers) {
  const Json all = golden();
  ASSERT_EQ(all.at("sizes").size(), 22u);
  for (const Json& want : all.at("sizes")) {
    SCOPED_TRACE(want.dump());
    const auto processor = make_video_processor("qwen3_5", want.at("config"), "config");
    const ImageSize to = processor->target_size(
        {want.at("from")[0].get<int64_t>(), want.at("from")[1].get<int64_t>()},
        want.at("sampled").get<int64_t>());
    EXPECT_THAT((std::array{to.width, to.height}),
                ElementsAre(want.at("to")[0].get<int64_t>(), want.at("to")[1].get<int64_t>()));
  }
}

// Transformers refuses to choose 32 of fewer frames.
TEST(VideoProcessor, Gemma4TakesAllFramesOfAShortVideo) {
  const auto processor = videos("gemma4", "{}");
  ClipVideo video(5.0, 3);
  EXPECT_THAT(processor->sample(video.info()), ElementsAre(0, 1, 2));
  EXPECT_EQ(processor->process(video).parts.size(), 3u);
}

TEST(VideoProcessor, Gemma4CountsMinutes) {
  const auto processor = videos("gemma4", "{}");
  const auto caption = [&](double seconds, bool first) {
    return processor->caption(std::array{seconds}, first);
  };
  EXPECT_EQ(caption(0.0, true), "00:00 ");
  EXPECT_EQ(caption(59.999, false), " 00:59 ");
  EXPECT_EQ(caption(61.0, false), " 01:01 ");
  EXPECT_EQ(caption(6000.5, false), " 100:00 ");
}

TEST(VideoProcessor, TimesOfTheFileCount) {
  const auto processor = videos("qwen3_5", R"({"size": {"shortest_edge": 4096,
                                                       "longest_edge": 36864}})");
  const auto video = open_video(fixture("clip.webp"));
  const VideoInputs got = processor->process(*video);
  // Frames 0 and 2, 3 and 5, 7 and 8, ... of 0.1 s, 0.14 s, ...: 3.3 s, so 6 of them.
  EXPECT_THAT(processor->sample(video->info()), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(got.captions, ElementsAre("<0.1 seconds>", "<0.9 seconds>", "<2.4 seconds>"));
}

TEST(VideoProcessor, RefusesWhatItDoesNotDo) {
  const auto refusal = [](const char* family, const char* config) {
    return error_of([&] { videos(family, config); });
  };
  EXPECT_THAT(refusal("gemma4", R"({"fps": 2})"),
              HasSubstr("[media] config: fps: expected nothing: num_frames says what is sampled"));
  EXPECT_THAT(refusal("qwen3_5", R"({"video_processor": {"num_frames": 8}})"),
              HasSubstr("video_processor.num_frames: expected nothing"));
  EXPECT_THAT(refusal("qwen3_5", R"({"do_sample_frames": false})"), HasSubstr("do_sample_frames"));
  EXPECT_THAT(refusal("qwen3_5", R"({"video_processor_type": "LlavaVideoProcessor"})"),
              HasSubstr("video_processor_type: expected Qwen3VLVideoProcessor"));
  EXPECT_THAT(refusal("qwen3_5", R"({"fps": 0})"), HasSubstr("fps: expected a number"));
  EXPECT_THAT(refusal("qwen3_5", R"({"size": {"shortest_edge": 9}})"),
              HasSubstr("size.longest_edge"));
  EXPECT_THAT(refusal("gemma4", R"({"num_frames": 100000})"), HasSubstr("num_frames"));
  EXPECT_THAT(refusal("gemma4", R"({"do_resize": false})"), HasSubstr("do_resize"));
  EXPECT_THAT(refusal("gemma3n", "{}"), HasSubstr("a family that watches videos"));
  ClipVideo still(5.0, 1);
  EXPECT_EQ(error_of([&] { videos("qwen3_5", "{}")->process(still, "a.mp4"); }),
            "[media] a.mp4: expected a video of at least 2 frames, got 1");
}

}  // namespace
}  // namespace decant::media
