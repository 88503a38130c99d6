#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "media/image_processor.h"
#include "media/settings.h"

namespace decant::media {

/// The value of each 8-bit level in each channel, after rescaling and, where asked, normalising: in
/// float32, in the order of operations of Transformers' torchvision processors.
class PixelValues {
 public:
  /// Reads do_rescale, rescale_factor, do_normalize, image_mean and image_std; `mean` and
  /// `deviation` stand for the latter where they are absent.
  PixelValues(const Settings& settings, bool normalize_default, double mean = 0.5,
              double deviation = 0.5);
  float operator()(int channel, uint8_t level) const {
    return table_[static_cast<size_t>(channel)][level];
  }

 private:
  std::array<std::array<float, 256>, 3> table_;
};

/// The filter that `resample` names (2 bilinear, 3 bicubic; absent: `fallback`). Errors:
/// ConfigError for the others, which no family uses.
ResizeFilter read_filter(const Settings& settings, ResizeFilter fallback);

/// Refuses what no processor here does: no resizing, cropping, padding, panning, channels last.
void refuse_other_steps(const Settings& settings);

/// `file`: the whole file, where image_seq_length stands when the processors have sections.
std::unique_ptr<ImageProcessor> make_gemma3n_images(const Settings& settings, const Settings& file,
                                                    ResizeArithmetic arithmetic);

/// What a Gemma 4 processor does where its file is silent.
struct Gemma4Defaults {
  int64_t soft_tokens = 280;
  bool normalize = false;
  double mean = 0.5, deviation = 0.5;
  static Gemma4Defaults video() { return {70, true, 0.0, 1.0}; }
};
/// `merged`: the encoder-free 12B, whose patches are whole cells of 3 x 3 patches.
std::unique_ptr<ImageProcessor> make_gemma4_images(const Settings& settings,
                                                   ResizeArithmetic arithmetic, bool merged,
                                                   const Gemma4Defaults& defaults = {});

/// Qwen 3.5's pixel_values: patches (channel, frame, row, column), those that merge into one token
/// one after the other.
class MergedPatches {
 public:
  /// Reads patch_size, merge_size, temporal_patch_size and what PixelValues reads.
  explicit MergedPatches(const Settings& settings);
  /// Pixels on a side of one token.
  int64_t factor() const { return patch_ * merge_; }
  /// Frames of one patch.
  int64_t frames() const { return frames_; }
  /// Of frames of one size, a multiple of factor(), the last of which stands for those that lack.
  ImageInputs operator()(std::span<const Image> frames) const;

 private:
  float* write_patch(std::span<const Image> frames, int64_t top, int64_t left, float* value) const;

  PixelValues values_;
  int64_t patch_;
  int64_t merge_;
  int64_t frames_;
};
std::unique_ptr<ImageProcessor> make_qwen3_5_images(const Settings& settings,
                                                    ResizeArithmetic arithmetic);

}  // namespace decant::media
