#include <webp/demux.h>

#include <memory>
#include <utility>

#include "base/errors.h"
#include "media/codec.h"
#include "media/video_sources.h"

namespace decant::media {
namespace {

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
struct DeleteDecoder {
  void operator()(WebPAnimDecoder* decoder) const { WebPAnimDecoderDelete(decoder); }
};

/// Frames are composed on one canvas, each on what the one before left: a frame is reached through
/// all before it.
class WebpVideo : public Video {
 public:
  WebpVideo(std::vector<std::byte> bytes, std::string_view name, const VideoLimits& limits)
      : bytes_(std::move(bytes)), name_(name), limits_(limits) {
    const WebPData file = data();
    const std::unique_ptr<WebPDemuxer, DeleteDemuxer> demuxer(WebPDemux(&file));
    if (!demuxer) refuse(name_, "a readable WebP", "a damaged or cut file");
    width_ = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
    height_ = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
    rgb_bytes_ = checked_rgb_bytes(width_, height_, name_, limits_.frame);
    const int64_t count = WebPDemuxGetI(demuxer.get(), WEBP_FF_FRAME_COUNT);
    if (count > limits_.frames)
      refuse(name_, fmt::format("1 to {} frames", limits_.frames), fmt::format("{}", count));
    int64_t milliseconds = 0;
    WebPIterator frame;
    if (WebPDemuxGetFrame(demuxer.get(), 1, &frame) != 0) {
      do {
        info_.times.push_back(static_cast<double>(milliseconds) / 1000.0);
        milliseconds += frame.duration;  // 24 bits of them in the file
      } while (WebPDemuxNextFrame(&frame) != 0);
      WebPDemuxReleaseIterator(&frame);
    }
    info_.frames = std::ssize(info_.times);
    if (info_.frames != count)
      refuse(name_, fmt::format("a WebP of {} frames", count), fmt::format("{}", info_.frames));
    // A still has no times.
    if (milliseconds > 0)
      info_.fps = static_cast<double>(count) * 1000.0 / static_cast<double>(milliseconds);
    else
      info_.times.clear();
  }

  int64_t read(std::span<const int64_t> indices,
               const std::function<void(const Image&)>& take) override {
    const auto deadline = std::chrono::steady_clock::now() + limits_.decode_time;
    WebPAnimDecoderOptions options;
    if (WebPAnimDecoderOptionsInit(&options) == 0)
      throw RuntimeError("[media] {}: libwebp is not the version decant was built with", name_);
    options.color_mode = MODE_RGBA;
    const WebPData file = data();
    const std::unique_ptr<WebPAnimDecoder, DeleteDecoder> decoder(
        WebPAnimDecoderNew(&file, &options));
    if (!decoder) refuse(name_, "a readable WebP", "damaged picture data");
    Image image = {width_, height_, std::vector<uint8_t>(rgb_bytes_)};
    int64_t next = 0;
    for (const int64_t index : indices) {
      for (; next <= index; ++next) {
        if (std::chrono::steady_clock::now() > deadline)
          refuse(name_, fmt::format("a video read within {} s", limits_.decode_time.count() / 1000),
                 fmt::format("{} of {} frames", next, info_.frames));
        uint8_t* rgba = nullptr;
        int timestamp = 0;
        if (WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp) == 0)
          refuse(name_, "a readable WebP", fmt::format("damaged data of frame {}", next));
        if (next < index) continue;
        for (size_t i = 0; i < rgb_bytes_ / 3; ++i)
          for (size_t c = 0; c < 3; ++c) image.rgb[3 * i + c] = rgba[4 * i + c];
      }
      take(image);
    }
    return std::ssize(indices);
  }

 private:
  WebPData data() const { return {reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()}; }

  std::vector<std::byte> bytes_;
  std::string name_;
  VideoLimits limits_;
  int64_t width_ = 0;
  int64_t height_ = 0;
  size_t rgb_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Video> open_webp_video(std::vector<std::byte> bytes, std::string_view name,
                                       const VideoLimits& limits) {
  return std::make_unique<WebpVideo>(std::move(bytes), name, limits);
}

}  // namespace decant::media
