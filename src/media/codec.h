#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "media/image.h"

namespace decant::media {

/// What a decoder gives: the picture as stored, and the metadata that may hold its orientation.
struct DecodedImage {
  Image image;
  std::vector<std::byte> exif;  // a TIFF file, maybe behind "Exif\0\0"
  bool has_exif = false;
  std::string xmp;
};

/// Throws the RequestError of a file: `[media] NAME: expected EXPECTED, got GOT`.
[[noreturn]] void refuse(std::string_view name, std::string_view expected, std::string_view got);

/// Checks width and height against the limits and gives their product times 3, the bytes of an RGB
/// picture. Errors: RequestError.
size_t checked_rgb_bytes(int64_t width, int64_t height, std::string_view name,
                         const ImageLimits& limits);

DecodedImage decode_jpeg(std::span<const std::byte> file, std::string_view name,
                         const ImageLimits& limits);
DecodedImage decode_png(std::span<const std::byte> file, std::string_view name,
                        const ImageLimits& limits);
DecodedImage decode_webp(std::span<const std::byte> file, std::string_view name,
                         const ImageLimits& limits);

}  // namespace decant::media
