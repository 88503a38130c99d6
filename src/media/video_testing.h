#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "media/testing.h"
#include "media/video.h"

namespace decant::media {

/// A folder that is gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "decant-video-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }
  /// A program for /bin/sh.
  void write_program(const std::string& name, const std::string& script) const {
    write(name, "#!/bin/sh\n" + script);
    chmod((path_ / name).c_str(), 0755);
  }

 private:
  std::filesystem::path path_;
};

/// PATH, as it is while the object lives.
class SearchPath {
 public:
  explicit SearchPath(const std::string& value) {
    if (const char* old = std::getenv("PATH")) old_ = old;
    setenv("PATH", value.c_str(), 1);
  }
  ~SearchPath() { setenv("PATH", old_.c_str(), 1); }
  SearchPath(const SearchPath&) = delete;
  SearchPath& operator=(const SearchPath&) = delete;

 private:
  std::string old_;
};

/// Frame `index` of the frozen clip (scripts/goldens/video.py).
inline Image clip_frame(int64_t index) {
  return load_image(fixture("clip") / ("frame" + std::to_string(index + 1) + ".png")).image;
}

/// The frozen clip at a rate of its own.
class ClipVideo : public Video {
 public:
  explicit ClipVideo(double fps, int64_t frames = 11) {
    info_.frames = frames;
    info_.fps = fps;
  }
  int64_t read(std::span<const int64_t> indices,
               const std::function<void(const Image&)>& take) override {
    for (const int64_t index : indices) take(clip_frame(index));
    return std::ssize(indices);
  }
};

/// The frames at `indices`.
inline std::vector<Image> frames_of(Video& video, const std::vector<int64_t>& indices) {
  std::vector<Image> out;
  video.read(indices, [&](const Image& image) { out.push_back(image); });
  return out;
}

}  // namespace decant::media
