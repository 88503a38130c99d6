#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "media/array.h"
#include "media/image.h"
#include "media/resize.h"

namespace decant::media {

using Json = nlohmann::ordered_json;

/// What a vision tower is given for one picture, by its Hugging Face names. An array the family
/// does not have is empty.
struct ImageInputs {
  /// gemma3n: [1, 3, height, width]; gemma4: [1, patches, 768], filled up with zeros to the budget;
  /// qwen3_5: [patches, 1536] in merge-block order.
  Array<float> pixel_values;
  /// qwen3_5: [1, 3], frames, rows and columns of the patch grid.
  Array<int32_t> image_grid_thw;
  /// gemma4: [1, patches, 2], column and row of each patch, (-1, -1) where filled up.
  Array<int32_t> image_position_ids;
  /// Placeholders that the picture takes in the prompt.
  int64_t soft_tokens = 0;
};

/// Width and height in pixels.
struct ImageSize {
  int64_t width = 0;
  int64_t height = 0;
};

/// What a family makes of a picture before its vision tower sees it. Safe to share by threads.
class ImageProcessor {
 public:
  virtual ~ImageProcessor() = default;
  ImageProcessor() = default;
  ImageProcessor(const ImageProcessor&) = delete;
  ImageProcessor& operator=(const ImageProcessor&) = delete;

  /// The size a picture of this size is brought to. Errors: RequestError naming `name` when the
  /// family refuses its proportions.
  virtual ImageSize target_size(ImageSize size, std::string_view name = "picture") const = 0;
  /// Placeholders that a picture of this size takes. Errors: as target_size.
  virtual int64_t soft_tokens(ImageSize size, std::string_view name = "picture") const = 0;
  /// The tower's inputs of one picture. Errors: as target_size.
  virtual ImageInputs process(const Image& image, std::string_view name = "picture") const = 0;
};

struct ImageProcessorOptions {
  /// Transformers 5 resizes with torchvision; its processors of older days, and mlx-vlm, with
  /// Pillow.
  ResizeArithmetic arithmetic = ResizeArithmetic::kTorch;
};

/// The processor of a family by its model_type: gemma3n, gemma4, gemma4_unified, qwen3_5,
/// qwen3_5_moe; configured by preprocessor_config.json or processor_config.json, which `where`
/// names. Errors: ConfigError for another family, a value out of range, or one that would change
/// the result and is not implemented.
std::unique_ptr<ImageProcessor> make_image_processor(std::string_view family, const Json& config,
                                                     std::string_view where,
                                                     const ImageProcessorOptions& options = {});

}  // namespace decant::media
