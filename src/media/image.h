#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace decant::media {

/// A decoded picture: 8-bit RGB, row-major [height, width, 3].
struct Image {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> rgb;

  const uint8_t* row(int64_t y) const { return rgb.data() + y * width * 3; }
};

/// What a picture may be; checked before anything of its size is allocated.
struct ImageLimits {
  uint64_t file_bytes = 20'000'000;
  int64_t pixels = 50'000'000;
  int64_t side = 65'535;
  /// Passes over the picture that a progressive JPEG may make: real ones make about ten.
  int scans = 100;
};

/// Decodes a JPEG, PNG or WebP file as Pillow 12's `ImageOps.exif_transpose(Image.open(f))`
/// followed by `.convert("RGB")` does, bit for bit: alpha is dropped, 16-bit grey is clipped to
/// 255, 16-bit colour keeps its high byte, CMYK is read as Adobe writes it, an animation gives its
/// first frame. `name` stands for the file in messages. Errors: RequestError `[media] NAME:
/// expected X, got Y`.
Image decode_image(std::span<const std::byte> file, std::string_view name,
                   const ImageLimits& limits = {});

}  // namespace decant::media
