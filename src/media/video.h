#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "media/content_hash.h"
#include "media/image.h"

namespace decant::media {

/// What a video may be. Counts and sizes are checked before memory of that size is asked for; the
/// times are of the clock on the wall.
struct VideoLimits {
  uint64_t file_bytes = 200'000'000;
  double seconds = 4.0 * 3600.0;
  int64_t frames = 1'000'000;
  ImageLimits frame;  // file_bytes: of one picture of a folder
  std::chrono::milliseconds probe_time{60'000};
  std::chrono::milliseconds decode_time{600'000};
};

/// What is known of a video before a frame is decoded.
struct VideoInfo {
  int64_t frames = 0;
  double fps = 24.0;          // frames a second, on average
  std::vector<double> times;  // [frames], seconds; empty: index / fps, as Transformers counts

  double time(int64_t index) const {
    return times.empty() ? static_cast<double>(index) / fps : times[static_cast<size_t>(index)];
  }
};

/// An open video, of which never more than a few frames are in memory.
class Video {
 public:
  virtual ~Video() = default;
  Video() = default;
  Video(const Video&) = delete;
  Video& operator=(const Video&) = delete;

  const VideoInfo& info() const { return info_; }
  /// Decodes the frames at `indices` (ascending, repeats allowed, below info().frames) and gives
  /// them to `take` one by one. Returns how many there were: fewer only when the video ends before
  /// its container says. Errors: RequestError for damaged data, frames above the limits, time that
  /// ran out.
  virtual int64_t read(std::span<const int64_t> indices,
                       const std::function<void(const Image&)>& take) = 0;
  /// Counts the frames by decoding all of them, for a container that promised more than it has;
  /// false when that changes nothing.
  virtual bool recount() { return false; }

 protected:
  VideoInfo info_;
};

/// Opens a video:
///   a folder    its JPEG, PNG and WebP pictures, in the order of their names with numbers counted;
///               a text file `fps` beside them says how many a second, else 24
///   a WebP      its animation, with the times of its frames
///   any other   through the programs ffprobe and ffmpeg, which must be on PATH
/// Errors: RequestError `[media] PATH: expected X, got Y`.
std::unique_ptr<Video> open_video(const std::filesystem::path& path,
                                  const VideoLimits& limits = {});

/// Tells videos apart: the hash of a file's bytes; of a folder its path, rate and the names, sizes
/// and times of change of its pictures. Errors: as open_video.
ContentHash video_hash(const std::filesystem::path& path, const VideoLimits& limits = {});

/// The absolute path of a program on PATH, whose relative entries do not count; empty: none.
std::filesystem::path find_program(const std::string& name);

}  // namespace decant::media
