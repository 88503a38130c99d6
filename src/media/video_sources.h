#pragma once

#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "media/video.h"

namespace decant::media {

/// The kinds of video behind open_video. Errors: as there.
std::unique_ptr<Video> open_webp_video(std::vector<std::byte> bytes, std::string_view name,
                                       const VideoLimits& limits);
std::unique_ptr<Video> open_ffmpeg_video(const std::filesystem::path& path,
                                         const VideoLimits& limits);

/// Checks the number of frames, their rate and the length. Errors: RequestError.
void check_video(const VideoInfo& info, std::string_view name, const VideoLimits& limits);

}  // namespace decant::media
