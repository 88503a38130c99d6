#pragma once

#include <optional>
#include <variant>
#include <vector>

#include "checkpoint/weight_scope.h"
#include "layers/norm.h"
#include "ops/conv2d.h"

namespace decant::layers {

/// A picture on its way through a convolutional net: pixels are rows.
struct Picture {
  Value pixels;  // [height * width, C]
  int64_t height = 0, width = 0;
};

/// MobileNetV5 with its fusion adapter, the vision encoder of Gemma 3n: what each block is and how
/// wide follows from the names and shapes of the checkpoint. All norms are RMS norms over the
/// channels of a pixel; windows are padded as TensorFlow's "SAME"; the first block of a stage
/// halves the sides.
/// Source  timm, mobilenetv5_300m_enc; gemma3n.md section 4.
class MobileNet {
 public:
  /// Side of the picture of features, in pixels.
  static constexpr int64_t kSide = 16;

  /// `scope` is the module that holds conv_stem, blocks and msfa; `width` are the channels of the
  /// features. A checkpoint whose blocks do not fit each other is reported with its other problems.
  MobileNet(const WeightScope& scope, int64_t width);

  /// pixels [height * width, 3] in [0, 1] -> features [kSide * kSide, width], row by row.
  Value operator()(const Picture& picture) const;
  /// The same with the picture after each stage, for tests.
  Value operator()(const Picture& picture, std::vector<Picture>* stages) const;

 private:
  struct Reader;
  /// A convolution with its norm (none: null) and perhaps GELU.
  struct Convolution {
    const Weight* weight = nullptr;
    const Weight* bias = nullptr;
    const Weight* norm = nullptr;
    int64_t size = 1, stride = 1;
    bool depthwise = false, activated = false;
    Picture operator()(const Picture& x) const;
  };
  /// Convolutions one after the other; what comes out is scaled and added to what went in.
  struct Residual {
    std::vector<Convolution> steps;
    const Weight* gamma = nullptr;  // or null
    bool skip = false;
    Picture operator()(const Picture& x) const;
  };
  struct Attention {
    const Weight *norm, *gamma;
    Convolution query, output;
    std::vector<Convolution> key, value;
    int64_t head_dim = 0;
    Picture operator()(const Picture& x) const;
  };
  using Block = std::variant<Residual, Attention>;

  Convolution stem_;
  std::vector<std::vector<Block>> stages_;
  Residual fusion_;
  const Weight* norm_ = nullptr;
};

}  // namespace decant::layers
