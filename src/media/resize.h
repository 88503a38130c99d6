#pragma once

#include <cstdint>

#include "media/image.h"

namespace decant::media {

/// The kernels of a resize, by the names Pillow gives them; all widen with the scale when
/// shrinking.
enum class ResizeFilter { kBilinear, kBicubic, kLanczos };

/// Whose fixed-point arithmetic a resize follows, bit for bit.
enum class ResizeArithmetic {
  /// `Image.resize` of Pillow up to 12: weights of 22 fractional bits. (Pillow 13 sums alike but
  /// puts
  /// the vertical pass first for some shapes.)
  kPillow,
  /// torchvision's antialiased resize of uint8 pictures: 16-bit weights, as many fractional bits as
  /// the largest weight leaves. Differs from Pillow by at most a few units in single pixels.
  kTorch,
};

/// The picture at another size: horizontally, then vertically, rounded to 8 bits after each; a side
/// that stays is left alone. width and height >= 1.
Image resize(const Image& image, int64_t width, int64_t height, ResizeFilter filter,
             ResizeArithmetic arithmetic);

}  // namespace decant::media
