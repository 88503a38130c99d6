#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "media/codec.h"
#include "media/image_processors.h"

namespace decant::media {
namespace {

// Proportions are kept and the picture is scaled, up as well as down, to as many cells of 48 pixels
// as the budget of soft tokens allows; a cell of 3 x 3 patches of 16 becomes one soft token.
class Gemma4Images : public ImageProcessor {
 public:
  Gemma4Images(const Settings& settings, ResizeArithmetic arithmetic, bool merged,
               const Gemma4Defaults& defaults)
      : values_(settings, defaults.normalize, defaults.mean, defaults.deviation),
        filter_(read_filter(settings, ResizeFilter::kBicubic)),
        arithmetic_(arithmetic) {
    const int64_t patch = settings.integer_or("patch_size", 16, 1, 256);
    const int64_t pool = settings.integer_or("pooling_kernel_size", 3, 1, 16);
    budget_ = settings.integer_or("max_soft_tokens", defaults.soft_tokens, 1, 1120);
    if (budget_ != 70 && budget_ != 140 && budget_ != 280 && budget_ != 560 && budget_ != 1120) {
      settings.fail("max_soft_tokens", "70, 140, 280, 560 or 1120");
    }
    cell_ = patch * pool;
    patch_ = merged ? cell_ : patch;
    max_pixels_ = budget_ * cell_ * cell_;
    max_patches_ = max_pixels_ / (patch_ * patch_);
  }

  ImageSize target_size(ImageSize size, std::string_view name) const override {
    const auto width = static_cast<double>(size.width);
    const auto height = static_cast<double>(size.height);
    const double factor =
        std::sqrt(static_cast<double>(max_pixels_) / static_cast<double>(size.width * size.height));
    const auto cells = [&](double side) {
      return static_cast<int64_t>(std::floor(factor * side / static_cast<double>(cell_)));
    };
    ImageSize to = {cells(width) * cell_, cells(height) * cell_};
    if (to.width == 0 && to.height == 0) {
      refuse(name, "a picture that scales to at least one cell",
             fmt::format("{} x {}", size.width, size.height));
    }
    if (to.height == 0) {
      to = {std::min(size.width / size.height, budget_) * cell_, cell_};
    } else if (to.width == 0) {
      to = {cell_, std::min(size.height / size.width, budget_) * cell_};
    }
    return to;
  }

  int64_t soft_tokens(ImageSize size, std::string_view name) const override {
    const ImageSize to = target_size(size, name);
    return (to.width / cell_) * (to.height / cell_);
  }

  ImageInputs process(const Image& image, std::string_view name) const override {
    const ImageSize to = target_size({image.width, image.height}, name);
    const Image resized = resize(image, to.width, to.height, filter_, arithmetic_);
    const int64_t patch_values = patch_ * patch_ * 3;
    ImageInputs out;
    out.soft_tokens = (to.width / cell_) * (to.height / cell_);
    out.pixel_values.shape = {1, max_patches_, patch_values};
    out.pixel_values.data.assign(static_cast<size_t>(max_patches_ * patch_values), 0.0f);
    out.image_position_ids.shape = {1, max_patches_, 2};
    out.image_position_ids.data.assign(static_cast<size_t>(max_patches_ * 2), -1);
    // A patch is (row, column, channel): whole rows of pixels, as the picture has them.
    float* value = out.pixel_values.data.data();
    int32_t* position = out.image_position_ids.data.data();
    for (int64_t y = 0; y < to.height / patch_; ++y) {
      for (int64_t x = 0; x < to.width / patch_; ++x) {
        *position++ = static_cast<int32_t>(x);
        *position++ = static_cast<int32_t>(y);
        for (int64_t row = 0; row < patch_; ++row) {
          const uint8_t* pixel = resized.row(y * patch_ + row) + x * patch_ * 3;
          for (int64_t i = 0; i < patch_; ++i) {
            for (int c = 0; c < 3; ++c) *value++ = values_(c, *pixel++);
          }
        }
      }
    }
    return out;
  }

 private:
  PixelValues values_;
  ResizeFilter filter_;
  ResizeArithmetic arithmetic_;
  int64_t budget_ = 0;       // soft tokens
  int64_t cell_ = 0;         // pixels on a side of one soft token
  int64_t patch_ = 0;        // pixels on a side of one row of pixel_values
  int64_t max_pixels_ = 0;   // of the scaled picture
  int64_t max_patches_ = 0;  // rows of pixel_values
};

}  // namespace

std::unique_ptr<ImageProcessor> make_gemma4_images(const Settings& settings,
                                                   ResizeArithmetic arithmetic, bool merged,
                                                   const Gemma4Defaults& defaults) {
  return std::make_unique<Gemma4Images>(settings, arithmetic, merged, defaults);
}

}  // namespace decant::media
