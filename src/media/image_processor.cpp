#include "media/image_processor.h"

#include <string>

#include "base/errors.h"
#include "media/image_processors.h"

namespace decant::media {

PixelValues::PixelValues(const Settings& settings, bool normalize_default, double mean_default,
                         double deviation_default) {
  settings.expect("do_rescale", true);
  const double factor = settings.number_or("rescale_factor", 1.0 / 255.0, 1e-6, 1e6);
  const std::vector<double> mean =
      settings.numbers_or("image_mean", std::vector<double>(3, mean_default));
  const std::vector<double> deviation =
      settings.numbers_or("image_std", std::vector<double>(3, deviation_default));
  const bool normalize = settings.flag_or("do_normalize", normalize_default);
  for (size_t c = 0; c < 3; ++c) {
    if (normalize && !(deviation[c] > 0.0)) settings.fail("image_std", "3 numbers above 0");
    // Both steps in one: mean and deviation are brought to the scale of the levels.
    const auto inverse = static_cast<float>(1.0 / factor);
    const float shift = static_cast<float>(mean[c]) * inverse;
    const float divisor = static_cast<float>(deviation[c]) * inverse;
    for (size_t level = 0; level < 256; ++level) {
      const auto value = static_cast<float>(level);
      table_[c][level] = normalize ? (value - shift) / divisor : value * static_cast<float>(factor);
    }
  }
}

ResizeFilter read_filter(const Settings& settings, ResizeFilter fallback) {
  switch (settings.integer_or("resample", fallback == ResizeFilter::kBilinear ? 2 : 3, 0, 5)) {
    case 2:
      return ResizeFilter::kBilinear;
    case 3:
      return ResizeFilter::kBicubic;
    default:
      settings.fail("resample", "2 (bilinear) or 3 (bicubic)");
  }
}

void refuse_other_steps(const Settings& settings) {
  settings.expect("do_resize", true);
  settings.expect("do_center_crop", false);
  settings.expect("do_pad", false);
  settings.expect("do_pan_and_scan", false);
  settings.expect("do_image_splitting", false);
  settings.expect_one_of("data_format", {"channels_first"});
}

std::unique_ptr<ImageProcessor> make_image_processor(std::string_view family, const Json& config,
                                                     std::string_view where,
                                                     const ImageProcessorOptions& options) {
  const Settings settings(config, std::string(where), {"image_processor"});
  refuse_other_steps(settings);
  const auto expect_type = [&](std::string_view type) {
    const std::string fast = std::string(type) + "Fast";
    const std::string pil = std::string(type) + "Pil";
    settings.expect_one_of("image_processor_type", {type, fast, pil});
  };
  if (family == "gemma3n") {
    expect_type("SiglipImageProcessor");
    return make_gemma3n_images(settings, Settings(config, std::string(where), {}),
                               options.arithmetic);
  }
  if (family == "gemma4" || family == "gemma4_unified") {
    const bool merged = family == "gemma4_unified";
    expect_type(merged ? "Gemma4UnifiedImageProcessor" : "Gemma4ImageProcessor");
    return make_gemma4_images(settings, options.arithmetic, merged);
  }
  if (family == "qwen3_5" || family == "qwen3_5_moe") {
    expect_type("Qwen2VLImageProcessor");
    return make_qwen3_5_images(settings, options.arithmetic);
  }
  throw ConfigError("[media] {}: expected a family that reads pictures, got {}", where,
                    quote(family));
}

}  // namespace decant::media
