#include "media/orientation.h"

#include <cstdint>
#include <cstring>
#include <utility>

namespace decant::media {
namespace {

constexpr uint64_t kOrientationTag = 0x0112;

// A TIFF block: numbers in the byte order its head names; reads behind the end give nothing.
class Tiff {
 public:
  Tiff(std::span<const std::byte> bytes, bool big_endian) : bytes_(bytes), big_(big_endian) {}

  std::optional<uint64_t> number(uint64_t at, int size) const {
    if (at > bytes_.size() || bytes_.size() - at < static_cast<uint64_t>(size)) return std::nullopt;
    uint64_t value = 0;
    for (int i = 0; i < size; ++i) {
      const auto byte = std::to_integer<uint64_t>(bytes_[at + static_cast<uint64_t>(i)]);
      value |= byte << (8 * (big_ ? size - 1 - i : i));
    }
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  bool big_;
};

// Bytes of the integer types that a directory entry may hold in place; 0 for every other type.
int integer_size(uint64_t type) {
  switch (type) {
    case 6:  // signed byte
      return 1;
    case 3:  // short
    case 8:  // signed short
      return 2;
    case 4:  // long
    case 9:  // signed long
      return 4;
    default:
      return 0;
  }
}

}  // namespace

std::optional<int> exif_orientation(std::span<const std::byte> exif) {
  static constexpr std::string_view kHead("Exif\0\0", 6);
  while (exif.size() >= kHead.size() && std::memcmp(exif.data(), kHead.data(), kHead.size()) == 0) {
    exif = exif.subspan(kHead.size());
  }
  if (exif.size() < 8) return std::nullopt;
  const bool big = exif[0] == std::byte{'M'} && exif[1] == std::byte{'M'};
  if (!big && !(exif[0] == std::byte{'I'} && exif[1] == std::byte{'I'})) return std::nullopt;
  const Tiff tiff(exif, big);
  if (tiff.number(2, 2) != 42) return std::nullopt;
  const uint64_t directory = *tiff.number(4, 4);
  const std::optional<uint64_t> entries = tiff.number(directory, 2);
  if (!entries) return std::nullopt;
  std::optional<int> found;  // the last one counts when a tag stands twice
  for (uint64_t i = 0; i < *entries; ++i) {
    const uint64_t entry = directory + 2 + 12 * i;
    const auto tag = tiff.number(entry, 2);
    const auto type = tiff.number(entry + 2, 2);
    const auto count = tiff.number(entry + 4, 4);
    if (!tag || !type || !count) break;
    if (*tag != kOrientationTag) continue;
    const int size = *count == 1 ? integer_size(*type) : 0;
    const auto value = size == 0 ? std::nullopt : tiff.number(entry + 8, size);
    // A tag that means nothing still keeps XMP from being asked.
    found = value && *value <= 8 ? static_cast<int>(*value) : 0;
  }
  return found;
}

std::optional<int> xmp_orientation(std::string_view xmp) {
  static constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with(">")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

Image apply_orientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const int64_t width = image.width;
  const int64_t height = image.height;
  const bool swapped = orientation >= 5;
  Image out;
  out.width = swapped ? height : width;
  out.height = swapped ? width : height;
  out.rgb.resize(image.rgb.size());
  // Orientations by what they ask of (x, y) of the result: first the axes, then the mirrors.
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int64_t y = 0; y < out.height; ++y) {
    uint8_t* to = out.rgb.data() + y * out.width * 3;
    for (int64_t x = 0; x < out.width; ++x, to += 3) {
      int64_t from_x = swapped ? y : x;
      int64_t from_y = swapped ? x : y;
      if (flip_x) from_x = width - 1 - from_x;
      if (flip_y) from_y = height - 1 - from_y;
      std::memcpy(to, image.row(from_y) + from_x * 3, 3);
    }
  }
  return out;
}

}  // namespace decant::media
