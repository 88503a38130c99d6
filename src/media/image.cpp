#include "media/image.h"

#include <cstring>
#include <optional>
#include <string>

#include "base/checked.h"
#include "base/errors.h"
#include "media/codec.h"
#include "media/orientation.h"

namespace decant::media {
namespace {

bool begins(std::span<const std::byte> file, std::string_view magic, size_t at = 0) {
  return file.size() >= at + magic.size() &&
         std::memcmp(file.data() + at, magic.data(), magic.size()) == 0;
}

// What a file that is none of ours looks like, so that the message helps.
std::string guess(std::span<const std::byte> file) {
  if (file.empty()) return "an empty file";
  if (begins(file, "GIF8")) return "a GIF";
  if (begins(file, "BM")) return "a BMP";
  if (begins(file, std::string_view("II*\0", 4)) || begins(file, std::string_view("MM\0*", 4))) {
    return "a TIFF";
  }
  if (begins(file, "ftypheic", 4) || begins(file, "ftypmif1", 4)) return "a HEIC picture";
  if (begins(file, "ftypavif", 4)) return "an AVIF picture";
  if (begins(file, "%PDF")) return "a PDF";
  return "a file that begins with " +
         quote(std::string_view(reinterpret_cast<const char*>(file.data()),
                                std::min<size_t>(file.size(), 8)));
}

DecodedImage decode_any(std::span<const std::byte> file, std::string_view name,
                        const ImageLimits& limits) {
  if (file.size() > limits.file_bytes) {
    refuse(name, fmt::format("a picture of at most {} bytes", limits.file_bytes),
           fmt::format("{} bytes", file.size()));
  }
  if (begins(file, "\xff\xd8\xff")) return decode_jpeg(file, name, limits);
  if (begins(file, "\x89PNG\r\n\x1a\n")) return decode_png(file, name, limits);
  if (begins(file, "RIFF") && begins(file, "WEBP", 8)) return decode_webp(file, name, limits);
  refuse(name, "a JPEG, PNG or WebP picture", guess(file));
}

}  // namespace

void refuse(std::string_view name, std::string_view expected, std::string_view got) {
  throw RequestError("[media] {}: expected {}, got {}", name, expected, got);
}

size_t checked_rgb_bytes(int64_t width, int64_t height, std::string_view name,
                         const ImageLimits& limits) {
  const std::optional<int64_t> pixels = checked_mul(width, height);
  if (width < 1 || height < 1 || width > limits.side || height > limits.side || !pixels ||
      *pixels > limits.pixels) {
    refuse(name, fmt::format("at most {} pixels and sides of 1 to {}", limits.pixels, limits.side),
           fmt::format("{} x {}", width, height));
  }
  return static_cast<size_t>(*pixels) * 3;
}

Image decode_image(std::span<const std::byte> file, std::string_view name,
                   const ImageLimits& limits) {
  DecodedImage decoded = decode_any(file, name, limits);
  std::optional<int> orientation;
  if (decoded.has_exif) orientation = exif_orientation(decoded.exif);
  if (!orientation) orientation = xmp_orientation(decoded.xmp);
  return apply_orientation(std::move(decoded.image), orientation.value_or(1));
}

}  // namespace decant::media
