#include "media/image_processors.h"

namespace decant::media {
namespace {

// MobileNetV5: one fixed size whatever the proportions, planes of [0, 1].
class Gemma3nImages : public ImageProcessor {
 public:
  Gemma3nImages(const Settings& settings, const Settings& file, ResizeArithmetic arithmetic)
      : values_(settings, true),
        filter_(read_filter(settings, ResizeFilter::kBicubic)),
        arithmetic_(arithmetic) {
    const Settings size = settings.object("size");
    size_.height = size.integer("height", 1, 4096);
    size_.width = size.integer("width", 1, 4096);
    soft_tokens_ = file.integer_or("image_seq_length", 256, 1, 65536);
    soft_tokens_ = settings.integer_or("image_seq_length", soft_tokens_, 1, 65536);
  }

  ImageSize target_size(ImageSize, std::string_view) const override { return size_; }
  int64_t soft_tokens(ImageSize, std::string_view) const override { return soft_tokens_; }

  ImageInputs process(const Image& image, std::string_view) const override {
    const Image resized = resize(image, size_.width, size_.height, filter_, arithmetic_);
    const auto pixels = static_cast<size_t>(size_.width * size_.height);
    ImageInputs out;
    out.soft_tokens = soft_tokens_;
    out.pixel_values.shape = {1, 3, size_.height, size_.width};
    out.pixel_values.data.resize(3 * pixels);
    for (size_t c = 0; c < 3; ++c) {
      float* plane = out.pixel_values.data.data() + c * pixels;
      for (size_t i = 0; i < pixels; ++i) {
        plane[i] = values_(static_cast<int>(c), resized.rgb[3 * i + c]);
      }
    }
    return out;
  }

 private:
  PixelValues values_;
  ResizeFilter filter_;
  ResizeArithmetic arithmetic_;
  ImageSize size_;
  int64_t soft_tokens_ = 0;
};

}  // namespace

std::unique_ptr<ImageProcessor> make_gemma3n_images(const Settings& settings, const Settings& file,
                                                    ResizeArithmetic arithmetic) {
  return std::make_unique<Gemma3nImages>(settings, file, arithmetic);
}

}  // namespace decant::media
