#include "media/resize.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/errors.h"

namespace decant::media {
namespace {

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Keys' cubic with a = -0.5; both references write it in this order of operations.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Kernel {
  double (*weight)(double);
  double support;
};

Kernel kernel_of(ResizeFilter filter) {
  switch (filter) {
    case ResizeFilter::kBilinear:
      return {bilinear, 1.0};
    case ResizeFilter::kBicubic:
      return {bicubic, 2.0};
    case ResizeFilter::kLanczos:
      return {lanczos, 3.0};
    default:
      break;
  }
  DECANT_ASSERT(false, "a resize filter is one of its enumerators");
}

// The integer weights that make one side: output i is the sum over j of
// weight[i * taps + j] * input[first[i] + j], j < count[i].
struct Axis {
  size_t taps = 0;
  int shift = 0;
  std::vector<int64_t> first;
  std::vector<int64_t> count;
  std::vector<int32_t> weights;
};

// As C converts: towards zero, which is how both references round.
int64_t truncated(double value) { return static_cast<int64_t>(value); }

// Fractional bits of 16-bit weights: as many as keep the largest one below 2^15.
int torch_shift(double largest) {
  int shift = 0;
  while (shift < 22 && truncated(0.5 + largest * (1 << (shift + 1))) < (1 << 15)) ++shift;
  return shift;
}

Axis make_axis(int64_t from, int64_t to, const Kernel& kernel, ResizeArithmetic arithmetic) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);
  const double support = kernel.support * stretch;
  const double inverse = 1.0 / stretch;
  Axis axis;
  axis.taps = static_cast<size_t>(std::ceil(support)) * 2 + 1;
  axis.first.resize(static_cast<size_t>(to));
  axis.count.resize(static_cast<size_t>(to));
  std::vector<double> exact(axis.taps * static_cast<size_t>(to));
  double largest = 0.0;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int64_t low = std::max<int64_t>(truncated(center - support + 0.5), 0);
    const int64_t high = std::min<int64_t>(truncated(center + support + 0.5), from);
    const int64_t count = std::min<int64_t>(high - low, static_cast<int64_t>(axis.taps));
    double* w = exact.data() + static_cast<size_t>(i) * axis.taps;
    double sum = 0.0;
    for (int64_t j = 0; j < count; ++j) {
      w[j] = kernel.weight((static_cast<double>(j + low) - center + 0.5) * inverse);
      sum += w[j];
    }
    for (int64_t j = 0; j < count; ++j) {
      if (sum != 0.0) w[j] /= sum;
      largest = std::max(largest, w[j]);
    }
    axis.first[static_cast<size_t>(i)] = low;
    axis.count[static_cast<size_t>(i)] = count;
  }
  axis.shift = arithmetic == ResizeArithmetic::kPillow ? 22 : torch_shift(largest);
  axis.weights.resize(exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    const double scaled = exact[i] * (1 << axis.shift);
    axis.weights[i] = static_cast<int32_t>(truncated(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
  }
  return axis;
}

uint8_t clip(int32_t sum, int shift) {
  return static_cast<uint8_t>(std::clamp(sum >> shift, 0, 255));
}

// [rows, from, 3] -> [rows, to, 3]
void resize_rows(const uint8_t* in, uint8_t* out, int64_t rows, int64_t from, const Axis& axis) {
  const size_t to = axis.first.size();
  const int32_t half = axis.shift > 0 ? 1 << (axis.shift - 1) : 0;
  for (int64_t y = 0; y < rows; ++y) {
    const uint8_t* row = in + y * from * 3;
    for (size_t x = 0; x < to; ++x, out += 3) {
      const int32_t* w = axis.weights.data() + x * axis.taps;
      const uint8_t* pixel = row + axis.first[x] * 3;
      int32_t red = half;
      int32_t green = half;
      int32_t blue = half;
      for (int64_t j = 0; j < axis.count[x]; ++j, pixel += 3) {
        red += pixel[0] * w[j];
        green += pixel[1] * w[j];
        blue += pixel[2] * w[j];
      }
      out[0] = clip(red, axis.shift);
      out[1] = clip(green, axis.shift);
      out[2] = clip(blue, axis.shift);
    }
  }
}

// [from - skipped rows, columns] -> [to, columns]; `in` begins at input row `offset`.
void resize_columns(const uint8_t* in, uint8_t* out, int64_t columns, int64_t offset,
                    const Axis& axis) {
  const int32_t half = axis.shift > 0 ? 1 << (axis.shift - 1) : 0;
  std::vector<int32_t> sums(static_cast<size_t>(columns));
  for (size_t y = 0; y < axis.first.size(); ++y, out += columns) {
    std::fill(sums.begin(), sums.end(), half);
    const int32_t* w = axis.weights.data() + y * axis.taps;
    for (int64_t j = 0; j < axis.count[y]; ++j) {
      const uint8_t* row = in + (axis.first[y] + j - offset) * columns;
      const int32_t weight = w[j];
      for (int64_t x = 0; x < columns; ++x) sums[static_cast<size_t>(x)] += row[x] * weight;
    }
    for (int64_t x = 0; x < columns; ++x) out[x] = clip(sums[static_cast<size_t>(x)], axis.shift);
  }
}

}  // namespace

Image resize(const Image& image, int64_t width, int64_t height, ResizeFilter filter,
             ResizeArithmetic arithmetic) {
  DECANT_ASSERT(width >= 1 && height >= 1 && image.width >= 1 && image.height >= 1,
                "pictures have at least one pixel");
  if (width == image.width && height == image.height) return image;
  const Kernel kernel = kernel_of(filter);
  const auto new_image = [](int64_t w, int64_t h) {
    return Image{w, h, std::vector<uint8_t>(static_cast<size_t>(w * h * 3))};
  };
  if (height == image.height) {
    const Axis axis = make_axis(image.width, width, kernel, arithmetic);
    Image out = new_image(width, height);
    resize_rows(image.rgb.data(), out.rgb.data(), height, image.width, axis);
    return out;
  }
  if (width == image.width) {
    const Axis axis = make_axis(image.height, height, kernel, arithmetic);
    Image out = new_image(width, height);
    resize_columns(image.rgb.data(), out.rgb.data(), width * 3, 0, axis);
    return out;
  }
  // Pillow's one exception from its order: very tall pictures are first made less tall.
  if (arithmetic == ResizeArithmetic::kPillow && image.height > 100 * image.width &&
      height < image.height) {
    return resize(resize(image, image.width, height, filter, arithmetic), width, height, filter,
                  arithmetic);
  }
  // Only rows that the vertical pass reads are resized; every row does not depend on the others.
  const Axis vertical = make_axis(image.height, height, kernel, arithmetic);
  const Axis horizontal = make_axis(image.width, width, kernel, arithmetic);
  const int64_t first = vertical.first.front();
  const int64_t last = vertical.first.back() + vertical.count.back();
  Image middle = new_image(width, last - first);
  resize_rows(image.row(first), middle.rgb.data(), middle.height, image.width, horizontal);
  Image out = new_image(width, height);
  resize_columns(middle.rgb.data(), out.rgb.data(), width * 3, first, vertical);
  return out;
}

}  // namespace decant::media
