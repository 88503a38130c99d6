#include "media/video.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "base/errors.h"
#include "media/codec.h"
#include "media/media.h"
#include "media/video_sources.h"

namespace decant::media {
namespace fs = std::filesystem;
namespace {

constexpr double kMaxRate = 1000.0;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Names in the order a person counts: runs of digits by their number, all else by bytes.
bool comes_before(const std::string& a, const std::string& b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!is_digit(a[i]) || !is_digit(b[j])) {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
      continue;
    }
    const auto number = [](const std::string& text, size_t& at) {
      while (at < text.size() && text[at] == '0') ++at;
      const size_t begin = at;
      while (at < text.size() && is_digit(text[at])) ++at;
      return std::string_view(text).substr(begin, at - begin);
    };
    const std::string_view left = number(a, i), right = number(b, j);
    if (left.size() != right.size()) return left.size() < right.size();
    if (left != right) return left < right;
  }
  if (i < a.size() || j < b.size()) return i >= a.size();
  return a < b;  // the same but for zeros
}

bool is_picture(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg" || extension == ".webp";
}

std::vector<fs::path> pictures_of(const fs::path& folder, const VideoLimits& limits) {
  std::vector<std::pair<std::string, fs::path>> found;
  std::error_code error;
  fs::directory_iterator at(folder, error);
  const fs::directory_iterator end;
  while (!error && at != end) {
    const std::string name = at->path().filename().string();
    if (!name.starts_with('.') && is_picture(at->path())) found.emplace_back(name, at->path());
    if (std::ssize(found) > limits.frames)
      refuse(folder.string(), fmt::format("at most {} pictures", limits.frames), "more");
    at.increment(error);
  }
  if (error) refuse(folder.string(), "a folder that can be read", error.message());
  if (found.empty())
    refuse(folder.string(), "a folder of JPEG, PNG or WebP pictures, the frames of a video",
           "a folder without any");
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return comes_before(a.first, b.first); });
  std::vector<fs::path> out;
  out.reserve(found.size());
  for (auto& [name, path] : found) out.push_back(std::move(path));
  return out;
}

/// Frames a second of a folder: the number in its file `fps`.
double rate_of(const fs::path& folder) {
  const fs::path path = folder / "fps";
  std::error_code error;
  if (!fs::exists(path, error)) return VideoInfo{}.fps;
  const std::vector<std::byte> bytes = read_media_file(path, 64);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  while (!text.empty() && std::strchr(" \t\r\n", text.back()) != nullptr) text.remove_suffix(1);
  double rate = 0.0;
  const auto [rest, problem] = std::from_chars(text.data(), text.data() + text.size(), rate);
  if (problem != std::errc() || rest != text.data() + text.size() || !(rate > 0.0) ||
      rate > kMaxRate)
    refuse(path.string(), fmt::format("frames a second, above 0 and up to {}", kMaxRate),
           quote(text, 64));
  return rate;
}

class FolderVideo : public Video {
 public:
  FolderVideo(const fs::path& folder, const VideoLimits& limits)
      : pictures_(pictures_of(folder, limits)), limits_(limits.frame) {
    info_.frames = std::ssize(pictures_);
    info_.fps = rate_of(folder);
  }
  int64_t read(std::span<const int64_t> indices,
               const std::function<void(const Image&)>& take) override {
    for (const int64_t index : indices)
      take(load_image(pictures_[static_cast<size_t>(index)], limits_).image);
    return std::ssize(indices);
  }

 private:
  std::vector<fs::path> pictures_;
  ImageLimits limits_;
};

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool begins(std::string_view head, std::string_view magic, size_t at = 0) {
  return head.size() >= at + magic.size() && head.substr(at, magic.size()) == magic;
}

/// The first bytes of a regular file that is not too large.
std::string head_of(const fs::path& path, uint64_t limit) {
  const std::string name = path.string();
  // A pipe must not block the open.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) refuse(name, "a file that can be read", std::strerror(errno));
  struct stat status = {};
  std::string head(16, '\0');
  const bool known = fstat(fd, &status) == 0;
  const bool regular = known && S_ISREG(status.st_mode);
  const ssize_t got = regular ? ::read(fd, head.data(), head.size()) : 0;
  const int problem = errno;
  close(fd);
  if (!known || got < 0) refuse(name, "a file that can be read", std::strerror(problem));
  if (!regular) refuse(name, "a file or a folder of pictures", "another kind");
  if (static_cast<uint64_t>(status.st_size) > limit)
    refuse(name, fmt::format("a file of at most {} bytes", limit),
           fmt::format("{} bytes", status.st_size));
  if (got == 0) refuse(name, "a video", "an empty file");
  head.resize(static_cast<size_t>(got));
  return head;
}

}  // namespace

void check_video(const VideoInfo& info, std::string_view name, const VideoLimits& limits) {
  if (info.frames < 1 || info.frames > limits.frames)
    refuse(name, fmt::format("1 to {} frames", limits.frames), fmt::format("{}", info.frames));
  if (!(info.fps > 0.0) || !std::isfinite(info.fps))
    refuse(name, "a number of frames a second", fmt::format("{}", info.fps));
  const double seconds = static_cast<double>(info.frames) / info.fps;
  if (seconds > limits.seconds)
    refuse(name, fmt::format("at most {:.0f} seconds", limits.seconds),
           fmt::format("{:.0f}", seconds));
}

std::unique_ptr<Video> open_video(const fs::path& path, const VideoLimits& limits) {
  const std::string name = path.string();
  std::unique_ptr<Video> video;
  if (is_folder(path)) {
    video = std::make_unique<FolderVideo>(path, limits);
  } else {
    const std::string head = head_of(path, limits.file_bytes);
    if (begins(head, "\xff\xd8\xff") || begins(head, "\x89PNG\r\n\x1a\n"))
      refuse(name, "a video", "a picture");
    video = begins(head, "RIFF") && begins(head, "WEBP", 8)
                ? open_webp_video(read_media_file(path, limits.file_bytes), name, limits)
                : open_ffmpeg_video(path, limits);
  }
  check_video(video->info(), name, limits);
  return video;
}

ContentHash video_hash(const fs::path& path, const VideoLimits& limits) {
  if (!is_folder(path)) return content_hash(read_media_file(path, limits.file_bytes));
  std::error_code error;
  std::string text =
      fmt::format("{}\n{}\n", fs::weakly_canonical(path, error).string(), rate_of(path));
  for (const fs::path& picture : pictures_of(path, limits)) {
    struct stat status = {};
    if (stat(picture.c_str(), &status) != 0)
      refuse(picture.string(), "a file that can be read", std::strerror(errno));
    text += fmt::format("{}/{}/{}/{}\n", picture.filename().string(), status.st_size,
                        status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  }
  return content_hash(std::as_bytes(std::span(text)));
}

fs::path find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? std::string_view() : path;
  while (!rest.empty()) {
    const std::string_view entry = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(rest.size(), entry.size() + 1));
    if (!entry.starts_with('/')) continue;
    const fs::path program = fs::path(entry) / name;
    std::error_code error;
    if (fs::is_regular_file(program, error) && access(program.c_str(), X_OK) == 0) return program;
  }
  return {};
}

}  // namespace decant::media
