#include "media/video_processor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/errors.h"
#include "media/codec.h"
#include "media/image_processors.h"

namespace decant::media {
namespace {

constexpr int64_t kMaxPixels = int64_t{1} << 26;  // of all frames together
constexpr int64_t kMaxFrames = 4096;

// A fixed number of frames, equally far apart, each a picture of its own with a smaller budget.
// Transformers refuses a video of fewer frames; here all of them are looked at.
class Gemma4Video : public VideoProcessor {
 public:
  Gemma4Video(const Settings& settings, ResizeArithmetic arithmetic, bool merged)
      : images_(make_gemma4_images(settings, arithmetic, merged, Gemma4Defaults::video())),
        frames_(settings.integer_or("num_frames", 32, 1, kMaxFrames)) {
    if (settings.has("fps")) settings.fail("fps", "nothing: num_frames says what is sampled");
  }

  std::vector<int64_t> sample(const VideoInfo& info, std::string_view) const override {
    std::vector<int64_t> out;
    const int64_t count = std::min(frames_, info.frames);
    const double step = static_cast<double>(info.frames) / static_cast<double>(count);
    for (int64_t i = 0; i < count; ++i) {
      // The reference counts in float32.
      const auto at = static_cast<float>(static_cast<double>(i) * step);
      out.push_back(std::min(static_cast<int64_t>(at), info.frames - 1));
    }
    return out;
  }
  ImageSize target_size(ImageSize size, int64_t, std::string_view name) const override {
    return images_->target_size(size, name);
  }
  std::string caption(std::span<const double> times, bool first) const override {
    const auto seconds = static_cast<int64_t>(times.front());
    return fmt::format("{}{:02}:{:02} ", first ? "" : " ", seconds / 60, seconds % 60);
  }

 protected:
  int64_t frames_per_part() const override { return 1; }
  ImageInputs part(std::span<const Image> frames, int64_t, std::string_view name) const override {
    return images_->process(frames.front(), name);
  }

 private:
  std::unique_ptr<ImageProcessor> images_;
  int64_t frames_;
};

// So many frames a second; the budget of pixels is the whole video's. Two frames are one part.
class Qwen35Video : public VideoProcessor {
 public:
  Qwen35Video(const Settings& settings, ResizeArithmetic arithmetic)
      : patches_(settings),
        filter_(read_filter(settings, ResizeFilter::kBicubic)),
        arithmetic_(arithmetic),
        fps_(settings.number_or("fps", 2.0, 1e-3, 1000.0)),
        min_frames_(settings.integer_or("min_frames", 4, 1, kMaxFrames)),
        max_frames_(settings.integer_or("max_frames", 768, 1, kMaxFrames)),
        capped_(settings.flag_or("cap_pixels_per_frame", false)),
        max_tokens_(settings.integer_or("max_video_tokens", 768, 1, 1 << 20)) {
    if (settings.has("num_frames"))
      settings.fail("num_frames", "nothing: fps says what is sampled");
    if (settings.has("size")) {
      const Settings size = settings.object("size");
      min_pixels_ = size.integer("shortest_edge", 1, kMaxPixels);
      max_pixels_ = size.integer("longest_edge", 1, kMaxPixels);
    }
    if (min_pixels_ > max_pixels_)
      settings.fail("size",
                    fmt::format("a range of pixels, not {} to {}", min_pixels_, max_pixels_));
  }

  std::vector<int64_t> sample(const VideoInfo& info, std::string_view name) const override {
    const double wanted = static_cast<double>(info.frames) / info.fps * fps_;
    const auto most = static_cast<double>(max_frames_);
    auto count = static_cast<int64_t>(std::min(wanted, most));
    count = std::min({std::max(count, min_frames_), max_frames_, info.frames});
    if (count < patches_.frames())
      refuse(name, fmt::format("a video of at least {} frames", patches_.frames()),
             fmt::format("{}", count));
    std::vector<int64_t> out;
    const double step =
        count > 1 ? static_cast<double>(info.frames - 1) / static_cast<double>(count - 1) : 0.0;
    // nearbyint rounds half to even, as numpy does.
    for (int64_t i = 0; i + 1 < count; ++i)
      out.push_back(static_cast<int64_t>(std::nearbyint(static_cast<double>(i) * step)));
    out.push_back(count > 1 ? info.frames - 1 : 0);
    return out;
  }

  ImageSize target_size(ImageSize size, int64_t sampled, std::string_view name) const override {
    const int64_t unit = patches_.factor();
    const auto factor = static_cast<double>(unit);
    int64_t width = size.width, height = size.height;
    if (height < unit || width < unit) {
      const double scale =
          std::max(factor / static_cast<double>(height), factor / static_cast<double>(width));
      height = static_cast<int64_t>(static_cast<double>(height) * scale);
      width = static_cast<int64_t>(static_cast<double>(width) * scale);
    }
    const auto w = static_cast<double>(width), h = static_cast<double>(height);
    if (std::max(w, h) / std::min(w, h) > 200.0)
      refuse(name, "sides within a ratio of 200", fmt::format("{} x {}", size.width, size.height));
    int64_t most = max_pixels_;
    if (capped_) {
      const auto least = static_cast<int64_t>(static_cast<double>(min_pixels_) * 1.05);
      most = std::max(std::min(max_tokens_ * unit * unit, max_pixels_ / sampled), least) * sampled;
    }
    const auto whole = [&](double units) { return static_cast<int64_t>(units) * unit; };
    const int64_t group = patches_.frames();
    const auto n = static_cast<double>(sampled);
    const auto frames =
        static_cast<int64_t>(std::nearbyint(n / static_cast<double>(group))) * group;
    ImageSize to = {whole(std::nearbyint(w / factor)), whole(std::nearbyint(h / factor))};
    const int64_t pixels = frames * to.height * to.width;
    const double volume = n * h * w;
    if (pixels > most) {
      const double beta = std::sqrt(volume / static_cast<double>(most));
      to.width = std::max(unit, whole(std::floor(w / beta / factor)));
      to.height = std::max(unit, whole(std::floor(h / beta / factor)));
    } else if (pixels < min_pixels_) {
      const double beta = std::sqrt(static_cast<double>(min_pixels_) / volume);
      to.width = whole(std::ceil(w * beta / factor));
      to.height = whole(std::ceil(h * beta / factor));
    }
    return to;
  }

  std::string caption(std::span<const double> times, bool) const override {
    return fmt::format("<{:.1f} seconds>", (times.front() + times.back()) / 2.0);
  }

 protected:
  int64_t frames_per_part() const override { return patches_.frames(); }
  ImageInputs part(std::span<const Image> frames, int64_t sampled,
                   std::string_view name) const override {
    const ImageSize to = target_size({frames.front().width, frames.front().height}, sampled, name);
    std::vector<Image> resized;
    for (const Image& frame : frames)
      resized.push_back(resize(frame, to.width, to.height, filter_, arithmetic_));
    return patches_(resized);
  }

 private:
  MergedPatches patches_;
  ResizeFilter filter_;
  ResizeArithmetic arithmetic_;
  double fps_;
  int64_t min_frames_;
  int64_t max_frames_;
  bool capped_;
  int64_t max_tokens_;
  int64_t min_pixels_ = 128 * 32 * 32;
  int64_t max_pixels_ = 768 * 32 * 32;
};

}  // namespace

VideoInputs VideoProcessor::process(Video& video, std::string_view name) const {
  for (bool counted = false;; counted = true) {
    const std::vector<int64_t> indices = sample(video.info(), name);
    const auto sampled = std::ssize(indices);
    const auto group = static_cast<size_t>(frames_per_part());
    VideoInputs out;
    std::vector<Image> frames;
    std::vector<double> times;
    ImageSize size;
    const auto finish_part = [&] {
      frames.resize(group, frames.back());
      times.resize(group, times.back());
      out.parts.push_back(part(frames, sampled, name));
      out.captions.push_back(caption(times, out.captions.empty()));
      frames.clear();
      times.clear();
    };
    size_t at = 0;
    const int64_t got = video.read(indices, [&](const Image& image) {
      if (at == 0) size = {image.width, image.height};
      if (image.width != size.width || image.height != size.height)
        refuse(name, fmt::format("frames of one size, {} x {}", size.width, size.height),
               fmt::format("{} x {} for frame {}", image.width, image.height, indices[at]));
      frames.push_back(image);
      times.push_back(video.info().time(indices[at++]));
      if (frames.size() == group) finish_part();
    });
    if (got < sampled) {
      if (!counted && video.recount()) continue;
      refuse(name, fmt::format("{} frames, as its container says", video.info().frames),
             "fewer that can be decoded");
    }
    if (!frames.empty()) finish_part();
    return out;
  }
}

std::unique_ptr<VideoProcessor> make_video_processor(std::string_view family, const Json& config,
                                                     std::string_view where,
                                                     const ImageProcessorOptions& options) {
  const Settings settings(config, std::string(where), {"video_processor"});
  refuse_other_steps(settings);
  settings.expect("do_sample_frames", true);
  if (family == "gemma4" || family == "gemma4_unified") {
    const bool merged = family == "gemma4_unified";
    settings.expect_one_of("video_processor_type",
                           {merged ? "Gemma4UnifiedVideoProcessor" : "Gemma4VideoProcessor"});
    return std::make_unique<Gemma4Video>(settings, options.arithmetic, merged);
  }
  if (family == "qwen3_5" || family == "qwen3_5_moe") {
    settings.expect_one_of("video_processor_type", {"Qwen3VLVideoProcessor"});
    return std::make_unique<Qwen35Video>(settings, options.arithmetic);
  }
  throw ConfigError("[media] {}: expected a family that watches videos, got {}", where,
                    quote(family));
}

}  // namespace decant::media
