#include "media/media.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/errors.h"
#include "media/codec.h"

namespace decant::media {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

std::vector<std::byte> read_media_file(const std::filesystem::path& path, uint64_t limit) {
  const std::string name = path.string();
  // A pipe must not block the open.
  const Descriptor file = {open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) refuse(name, "a file that can be read", std::strerror(errno));
  struct stat status = {};
  if (fstat(file.fd, &status) != 0) refuse(name, "a file that can be read", std::strerror(errno));
  if (!S_ISREG(status.st_mode)) {
    refuse(name, "a regular file", S_ISDIR(status.st_mode) ? "a folder" : "another kind");
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > limit) {
    refuse(name, fmt::format("a file of at most {} bytes", limit), fmt::format("{} bytes", size));
  }
  std::vector<std::byte> bytes(static_cast<size_t>(size));
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t got = read(file.fd, bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(name, "a file that can be read", std::strerror(errno));
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  bytes.resize(have);  // a file that was cut meanwhile
  return bytes;
}

LoadedImage load_image(const std::filesystem::path& path, const ImageLimits& limits) {
  const std::vector<std::byte> bytes = read_media_file(path, limits.file_bytes);
  return {decode_image(bytes, path.string(), limits), content_hash(bytes)};
}

LoadedAudio load_audio(const std::filesystem::path& path, int64_t sample_rate,
                       const AudioLimits& limits) {
  const std::vector<std::byte> bytes = read_media_file(path, limits.file_bytes);
  return {decode_audio(bytes, path.string(), sample_rate, limits), content_hash(bytes)};
}

}  // namespace decant::media
