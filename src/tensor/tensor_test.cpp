#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/format.h"
#include "tensor/weight.h"

namespace decant {
namespace {

TEST(DType, HalfRoundTripsAllCodes) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_f16(value), bits);
    const float wide = bf16_to_float(static_cast<uint16_t>(bits));
    if (!std::isnan(wide)) {
      EXPECT_EQ(float_to_bf16(wide), bits);
    }
  }
}

TEST(DType, RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.00390625f), 0x3F80);  // 1 + 2^-8: tie, down to even
  EXPECT_EQ(float_to_bf16(1.01171875f), 0x3F82);  // 1 + 3*2^-8: tie, up to even
  EXPECT_EQ(float_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_f16(65519.0f), 0x7BFF);
  EXPECT_EQ(float_to_f16(std::ldexp(1.0f, -25)), 0);
  EXPECT_EQ(e4m3_to_float(0x7E), 448.0f);
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7F)));
}

TEST(DType, EightBitFloatsRoundTripAndRoundToNearestEven) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = e4m3_to_float(static_cast<uint8_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_e4m3(value), bits);
    // Half way to the next magnitude rounds to the even of the two codes, just beyond it up.
    const float next = e4m3_to_float(static_cast<uint8_t>(bits + 1));
    if ((bits & 0x7Fu) >= 0x7Eu) continue;
    const float middle = (value + next) / 2;
    EXPECT_EQ(float_to_e4m3(middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(float_to_e4m3(std::nextafter(middle, value)), bits);
    EXPECT_EQ(float_to_e4m3(std::nextafter(middle, next)), bits + 1);
  }
  EXPECT_EQ(float_to_e4m3(1e9f), 0x7E);
  EXPECT_EQ(float_to_e4m3(-463.0f), 0xFE);
  EXPECT_EQ(e8m0_to_float(0), std::ldexp(1.0f, -127));
  EXPECT_EQ(e8m0_to_float(1), std::ldexp(1.0f, -126));
  EXPECT_EQ(e8m0_to_float(127), 1.0f);
  EXPECT_EQ(e8m0_to_float(254), std::ldexp(1.0f, 127));
  EXPECT_TRUE(std::isinf(e8m0_to_float(255)));
}

TEST(Shape, CountAndText) {
  EXPECT_EQ(Shape({3, 4}).count(), 12);
  EXPECT_EQ(Shape({3, 4}).to_string(), "(3,4)");
  EXPECT_EQ(Shape().count(), 1);
}

TEST(Weight, DequantizesEveryAffineWidth) {
  for (int bits : {1, 2, 3, 4, 5, 6, 8}) {
    const int64_t cols = 64;
    const Format format = Format::affine(bits, 32, DType::kF32);
    std::vector<std::byte> data(static_cast<size_t>(format.data_row_bytes(cols)) * 2);
    std::vector<uint32_t> codes;
    for (int64_t i = 0; i < 2 * cols; ++i) {
      const auto code = static_cast<uint32_t>(i * 7 + 3) & ((1u << bits) - 1);
      codes.push_back(code);
      for (int b = 0; b < bits; ++b)
        if (code >> b & 1u)
          data[static_cast<size_t>((i * bits + b) / 8)] |= std::byte{1} << ((i * bits + b) % 8);
    }
    const float scales[4] = {0.5f, -0.25f, 1.0f, 3.0f};
    const float biases[4] = {-1.0f, 2.0f, 0.0f, 0.125f};
    const MatrixView matrix{data.data(),
                            reinterpret_cast<const std::byte*>(scales),
                            reinterpret_cast<const std::byte*>(biases),
                            format,
                            2,
                            cols};
    for (int64_t row = 0; row < 2; ++row) {
      float out[64];
      dequantize_row(matrix, row, out);
      for (int64_t i = 0; i < cols; ++i) {
        const int64_t group = row * 2 + i / 32;
        EXPECT_EQ(out[i],
                  scales[group] * static_cast<float>(codes[static_cast<size_t>(row * cols + i)]) +
                      biases[group]);
      }
    }
  }
}

}  // namespace
}  // namespace decant
