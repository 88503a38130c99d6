#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "media/image.h"

namespace decant::media {

/// The Orientation tag (0x0112) of the first directory of an Exif block, which may begin with
/// "Exif\0\0"; nothing when the block has none or is damaged (metadata never fails a picture).
std::optional<int> exif_orientation(std::span<const std::byte> exif);

/// `tiff:Orientation` of an XMP packet, written as attribute or as element.
std::optional<int> xmp_orientation(std::string_view xmp);

/// The picture turned upright: orientation 1 to 8 as Exif numbers them, anything else is 1.
Image apply_orientation(Image image, int orientation);

}  // namespace decant::media
