#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "media/codec.h"
#include "media/image_processors.h"

namespace decant::media {
namespace {

constexpr int64_t kMaxPixels = 32 << 20;

// Sides become multiples of 32 (patch 16, merge 2) with the number of pixels between two bounds. A
// still is a clip of two equal frames; a patch is (channel, frame, row, column).
class Qwen35Images : public ImageProcessor {
 public:
  Qwen35Images(const Settings& settings, ResizeArithmetic arithmetic)
      : patches_(settings),
        filter_(read_filter(settings, ResizeFilter::kBicubic)),
        arithmetic_(arithmetic),
        factor_(patches_.factor()) {
    const Settings size = settings.object("size");
    min_pixels_ = size.integer_or("shortest_edge", 65536, 1, kMaxPixels);
    max_pixels_ = size.integer_or("longest_edge", 16777216, 1, kMaxPixels);
    min_pixels_ = settings.integer_or("min_pixels", min_pixels_, 1, kMaxPixels);
    max_pixels_ = settings.integer_or("max_pixels", max_pixels_, 1, kMaxPixels);
    if (min_pixels_ > max_pixels_) {
      settings.fail("size",
                    fmt::format("a range of pixels, not {} to {}", min_pixels_, max_pixels_));
    }
  }

  ImageSize target_size(ImageSize size, std::string_view name) const override {
    const auto width = static_cast<double>(size.width);
    const auto height = static_cast<double>(size.height);
    const auto factor = static_cast<double>(factor_);
    if (std::max(width, height) / std::min(width, height) > 200.0) {
      refuse(name, "sides within a ratio of 200", fmt::format("{} x {}", size.width, size.height));
    }
    // nearbyint rounds half to even, as Python does.
    const auto whole = [&](double units) { return static_cast<int64_t>(units) * factor_; };
    ImageSize to = {whole(std::nearbyint(width / factor)), whole(std::nearbyint(height / factor))};
    const double area = height * width;
    if (to.width * to.height > max_pixels_) {
      const double beta = std::sqrt(area / static_cast<double>(max_pixels_));
      to.width = std::max(factor_, whole(std::floor(width / beta / factor)));
      to.height = std::max(factor_, whole(std::floor(height / beta / factor)));
    } else if (to.width * to.height < min_pixels_) {
      const double beta = std::sqrt(static_cast<double>(min_pixels_) / area);
      to.width = whole(std::ceil(width * beta / factor));
      to.height = whole(std::ceil(height * beta / factor));
    }
    return to;
  }

  int64_t soft_tokens(ImageSize size, std::string_view name) const override {
    const ImageSize to = target_size(size, name);
    return (to.width / factor_) * (to.height / factor_);
  }

  ImageInputs process(const Image& image, std::string_view name) const override {
    const ImageSize to = target_size({image.width, image.height}, name);
    const Image resized = resize(image, to.width, to.height, filter_, arithmetic_);
    return patches_(std::span(&resized, 1));
  }

 private:
  MergedPatches patches_;
  ResizeFilter filter_;
  ResizeArithmetic arithmetic_;
  int64_t factor_;
  int64_t min_pixels_ = 0;
  int64_t max_pixels_ = 0;
};

}  // namespace

MergedPatches::MergedPatches(const Settings& settings)
    : values_(settings, true),
      patch_(settings.integer_or("patch_size", 16, 1, 256)),
      merge_(settings.integer_or("merge_size", 2, 1, 16)),
      frames_(settings.integer_or("temporal_patch_size", 2, 1, 16)) {}

ImageInputs MergedPatches::operator()(std::span<const Image> frames) const {
  const int64_t rows = frames.front().height / patch_;
  const int64_t columns = frames.front().width / patch_;
  const int64_t patch_values = 3 * frames_ * patch_ * patch_;
  ImageInputs out;
  out.soft_tokens = (rows / merge_) * (columns / merge_);
  out.image_grid_thw.shape = {1, 3};
  out.image_grid_thw.data = {1, static_cast<int32_t>(rows), static_cast<int32_t>(columns)};
  out.pixel_values.shape = {rows * columns, patch_values};
  out.pixel_values.data.resize(static_cast<size_t>(rows * columns * patch_values));
  float* value = out.pixel_values.data.data();
  for (int64_t y = 0; y < rows; y += merge_) {
    for (int64_t x = 0; x < columns; x += merge_) {
      for (int64_t dy = 0; dy < merge_; ++dy) {
        for (int64_t dx = 0; dx < merge_; ++dx) {
          value = write_patch(frames, (y + dy) * patch_, (x + dx) * patch_, value);
        }
      }
    }
  }
  return out;
}

float* MergedPatches::write_patch(std::span<const Image> frames, int64_t top, int64_t left,
                                  float* value) const {
  for (int c = 0; c < 3; ++c) {
    for (int64_t frame = 0; frame < frames_; ++frame) {
      const Image& image = frames[std::min(static_cast<size_t>(frame), frames.size() - 1)];
      for (int64_t row = 0; row < patch_; ++row) {
        const uint8_t* pixel = image.row(top + row) + left * 3 + c;
        for (int64_t i = 0; i < patch_; ++i, pixel += 3) *value++ = values_(c, *pixel);
      }
    }
  }
  return value;
}

std::unique_ptr<ImageProcessor> make_qwen3_5_images(const Settings& settings,
                                                    ResizeArithmetic arithmetic) {
  return std::make_unique<Qwen35Images>(settings, arithmetic);
}

}  // namespace decant::media
