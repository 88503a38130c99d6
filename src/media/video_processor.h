#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "media/image_processor.h"
#include "media/video.h"

namespace decant::media {

/// What a vision tower is given for one video.
struct VideoInputs {
  /// gemma4: one per frame; qwen3_5: one per pair of frames, with a grid of one frame.
  std::vector<ImageInputs> parts;
  /// [parts]: the text before the tokens around each part, its time, and what parts it from the
  /// one before.
  std::vector<std::string> captions;
};

/// What a family makes of a video before its vision tower sees it. Safe to share by threads.
class VideoProcessor {
 public:
  virtual ~VideoProcessor() = default;
  VideoProcessor() = default;
  VideoProcessor(const VideoProcessor&) = delete;
  VideoProcessor& operator=(const VideoProcessor&) = delete;

  /// The frames the family looks at, ascending. Errors: RequestError naming `name` for a video it
  /// refuses.
  virtual std::vector<int64_t> sample(const VideoInfo& info,
                                      std::string_view name = "video") const = 0;
  /// The size the frames of a video are brought to, of which `sampled` are looked at. Errors: as
  /// sample.
  virtual ImageSize target_size(ImageSize size, int64_t sampled,
                                std::string_view name = "video") const = 0;
  /// The times, in seconds, of the frames of one part, as the prompt has them.
  virtual std::string caption(std::span<const double> times, bool first) const = 0;

  /// Samples a video and makes the inputs; of its frames only those of one part are in memory.
  /// Errors: those of sample and Video::read; RequestError for frames of several sizes.
  VideoInputs process(Video& video, std::string_view name = "video") const;

 protected:
  /// Frames of one part; the last frame of a video is repeated to fill one.
  virtual int64_t frames_per_part() const = 0;
  virtual ImageInputs part(std::span<const Image> frames, int64_t sampled,
                           std::string_view name) const = 0;
};

/// The processor of a family by its model_type: gemma4, gemma4_unified, qwen3_5, qwen3_5_moe;
/// configured by the object `video_processor` of processor_config.json, or by
/// video_preprocessor_config.json or preprocessor_config.json as a whole, which `where` names.
/// Errors: as make_image_processor.
std::unique_ptr<VideoProcessor> make_video_processor(std::string_view family, const Json& config,
                                                     std::string_view where,
                                                     const ImageProcessorOptions& options = {});

}  // namespace decant::media
