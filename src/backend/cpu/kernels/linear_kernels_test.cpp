#include "backend/cpu/kernels/linear_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/kernels/linear_kernels_testing.h"
#include "base/errors.h"

namespace decant::cpu {
namespace {

class LinearKernelsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!isa_available(GetParam()))
      GTEST_SKIP() << name_of(GetParam()) << " is not available on this processor";
    kernels_ = &linear_kernels(GetParam());
  }
  const LinearKernels& kernels() const { return *kernels_; }
  static const LinearKernels& portable() { return linear_kernels(Isa::kPortable); }

 private:
  const LinearKernels* kernels_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Sets, LinearKernelsTest, testing::ValuesIn(kAll),
                         [](const auto& set) { return std::string(name_of(set.param)); });

TEST_P(LinearKernelsTest, NamesItsSet) { EXPECT_EQ(kernels().isa, GetParam()); }

// Against double loops over the decoded weight. int8: per output the sums over a group of 32 are
// exact; what is rounded is one product and four fused sums a group, each relative to the running
// sum of magnitudes. Codes weigh scale * q and bias apart, so magnitudes are taken apart too.
TEST_P(LinearKernelsTest, Int8MatchesDoubleLoops) {
  for (const Format& format : int8_formats()) {
    SCOPED_TRACE(describe(format));
    const int64_t rows = 37;
    const int64_t cols = 5 * 128 + (format.group == 128 ? 0 : std::max(format.group, 32));
    const int64_t count = 17;
    const Matrix w(format, rows, cols, format.is_micro() ? 2 : 1);
    const Quantized x(kernels(), activations(count, cols, 2), count, cols);
    for (const int64_t live : {int64_t{1}, count}) {
      const Floats y = run_int8(kernels(), w.view, x, {live, nullptr, nullptr}, 0, rows, live);
      Floats decoded(static_cast<size_t>(cols));
      for (int64_t r = 0; r < rows; ++r) {
        dequantize_row(w.view, r, decoded.data());
        for (int64_t i = 0; i < live; ++i) {
          double sum = 0;
          double magnitude = 0;
          for (int64_t c = 0; c < cols; ++c) {
            const double value = x.value(i, c);
            const double bias = format.is_micro() ? 0.0
                                                  : load_float(w.view.biases, format.dtype,
                                                               (r * cols + c) / format.group);
            const double weight = decoded[static_cast<size_t>(c)];
            sum += weight * value;
            magnitude += (std::abs(weight - bias) + std::abs(bias)) * std::abs(value);
          }
          // 8-bit codes move 128 scales into the bias.
          const double factor = format.bits == 8 ? 2.0 : 1.0;
          const int64_t steps = 4 * cols / format.group + 8;
          const double bound = factor * magnitude * static_cast<double>(steps) *
                               std::numeric_limits<float>::epsilon() / 2;
          ASSERT_NEAR(y[static_cast<size_t>(i * rows + r)], sum, bound)
              << "row " << r << " of x row " << i << " of " << live;
        }
      }
    }
  }
}

TEST_P(LinearKernelsTest, F32MatchesDoubleLoops) {
  std::vector<Format> formats = dense_formats();
  for (const Format& format : affine_formats()) formats.push_back(format);
  for (const Format& format : micro_formats()) formats.push_back(format);
  for (const Format& format : formats) {
    SCOPED_TRACE(describe(format));
    for (const int64_t dense_cols : {int64_t{1}, int64_t{15}, int64_t{33}, int64_t{527}}) {
      const int64_t cols = format.is_dense() ? dense_cols : (dense_cols % 4 + 1) * 128;
      const int64_t rows = 21;
      const int64_t count = 4;
      const Matrix w(format, rows, cols, 3);
      const Floats x = activations(count, cols, 4);
      for (const int64_t live : {int64_t{1}, count}) {
        const Floats y = run_f32(kernels(), w.view, x, {live, nullptr, nullptr}, 0, rows, live);
        Floats decoded(static_cast<size_t>(cols));
        for (int64_t r = 0; r < rows; ++r) {
          dequantize_row(w.view, r, decoded.data());
          for (int64_t i = 0; i < live; ++i) {
            double sum = 0;
            double magnitude = 0;
            for (int64_t c = 0; c < cols; ++c) {
              const double product = static_cast<double>(decoded[static_cast<size_t>(c)]) *
                                     x[static_cast<size_t>(i * cols + c)];
              sum += product;
              magnitude += std::abs(product);
            }
            const int64_t steps = cols / 16 + 5;
            ASSERT_NEAR(
                y[static_cast<size_t>(i * rows + r)], sum,
                magnitude * static_cast<double>(steps) * std::numeric_limits<float>::epsilon() / 2)
                << "row " << r << " of x row " << i << ", " << cols << " columns";
          }
        }
      }
    }
  }
}

TEST_P(LinearKernelsTest, Int8EqualsPortableBitForBit) {
  for (const Format& format : int8_formats()) {
    SCOPED_TRACE(describe(format));
    // One group; loads left unfilled at the end; several panels and blocks of columns.
    for (const int64_t groups : {1, 3, 11, 37}) {
      const int64_t cols = groups * std::max(format.group, 32);
      const int64_t rows = 133;
      const Matrix w(format, rows, cols, 5, 8);
      for (const int64_t count : {1, 2, 3, 4, 5, 9, 17}) {
        const Quantized x(kernels(), activations(count, cols, 6), count, cols);
        const RowMap map{count, nullptr, nullptr};
        const Floats ours = run_int8(kernels(), w.view, x, map, 0, rows, count);
        const Floats expected = run_int8(portable(), w.view, x, map, 0, rows, count);
        EXPECT_SAME_BITS(ours, expected);
      }
    }
  }
}

// Long rows cross the blocks of columns after which running sums go through y, and many rows of x
// those of a sweep over float weights.
TEST_P(LinearKernelsTest, LongRowsEqualPortableBitForBit) {
  for (const Format& format : {Format::affine(3, 64), Format::affine(4, 64), Format::affine(8, 64),
                               Format::mxfp4(), Format::nvfp4()}) {
    const int64_t cols = 16384 + 192;
    const Matrix w(format, 13, cols, 7);
    for (const int64_t count : {1, 4, 6, 18}) {
      SCOPED_TRACE(describe(format));
      const Floats values = activations(count, cols, 8);
      const Quantized x(kernels(), values, count, cols);
      const RowMap map{count, nullptr, nullptr};
      EXPECT_SAME_BITS(run_int8(kernels(), w.view, x, map, 0, 13, count),
                       run_int8(portable(), w.view, x, map, 0, 13, count));
      EXPECT_SAME_BITS(run_f32(kernels(), w.view, values, map, 0, 13, count),
                       run_f32(portable(), w.view, values, map, 0, 13, count));
    }
  }
  for (const Format& format : dense_formats()) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = 32768 + 7;
    const Matrix w(format, 13, cols, 7);
    const Floats values = activations(29, cols, 8);
    const RowMap map{29, nullptr, nullptr};
    EXPECT_SAME_BITS(run_f32(kernels(), w.view, values, map, 0, 13, 29),
                     run_f32(portable(), w.view, values, map, 0, 13, 29));
  }
}

TEST_P(LinearKernelsTest, F32EqualsPortableBitForBit) {
  std::vector<Format> formats = affine_formats();
  for (const Format& format : micro_formats()) formats.push_back(format);
  for (const Format& format : formats) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = (format.is_micro() ? 21 : 5) * format.group;
    const Matrix w(format, 35, cols, 9, 8);
    const Floats x = activations(19, cols, 10);
    for (const int64_t count : {1, 4, 7, 19}) {
      const RowMap map{count, nullptr, nullptr};
      EXPECT_SAME_BITS(run_f32(kernels(), w.view, x, map, 0, 35, count),
                       run_f32(portable(), w.view, x, map, 0, 35, count));
    }
  }
  for (const Format& format : dense_formats()) {
    SCOPED_TRACE(describe(format));
    for (const int64_t cols : {1, 7, 8, 16, 17, 40, 255, 256, 257, 600}) {
      const Matrix w(format, 35, cols, 11, 2);
      const Floats x = activations(27, cols, 12);
      for (const int64_t count : {1, 2, 3, 4, 5, 6, 7, 19, 27}) {
        const RowMap map{count, nullptr, nullptr};
        EXPECT_SAME_BITS(run_f32(kernels(), w.view, x, map, 0, 35, count),
                         run_f32(portable(), w.view, x, map, 0, 35, count));
      }
    }
  }
}

TEST_P(LinearKernelsTest, ARowOfXNeverDependsOnItsNeighbours) {
  const int64_t most = 300;
  std::vector<Format> formats = doubled_formats();
  for (const int bits : {1, 2, 3, 4, 5, 6, 8})
    formats.push_back(Format::affine(bits, bits == 8 ? 128 : 64));
  for (const Format& format : formats) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = 640;
    const int64_t rows = 43;
    const Matrix w(format, rows, cols, 13);
    const Floats values = activations(most, cols, 14);
    const Quantized x(kernels(), values, most, cols);
    const Floats all = run_int8(kernels(), w.view, x, {most, nullptr, nullptr}, 0, rows, most);
    const Floats all_f32 =
        run_f32(kernels(), w.view, values, {most, nullptr, nullptr}, 0, rows, most);
    for (const int64_t count : {1, 2, 3, 5, 8, 17, 64, 100}) {
      const auto size = count * rows;
      const RowMap map{count, nullptr, nullptr};
      EXPECT_SAME_BITS(run_int8(kernels(), w.view, x, map, 0, rows, count),
                       Floats(all.begin(), all.begin() + size));
      EXPECT_SAME_BITS(run_f32(kernels(), w.view, values, map, 0, rows, count),
                       Floats(all_f32.begin(), all_f32.begin() + size));
    }
  }
  for (const Format& format : dense_formats()) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = 531;
    const int64_t rows = 19;
    const Matrix w(format, rows, cols, 15);
    const Floats values = activations(most, cols, 16);
    const Floats all = run_f32(kernels(), w.view, values, {most, nullptr, nullptr}, 0, rows, most);
    for (const int64_t count : {1, 2, 3, 5, 8, 17, 64, 100})
      EXPECT_SAME_BITS(
          run_f32(kernels(), w.view, values, {count, nullptr, nullptr}, 0, rows, count),
          Floats(all.begin(), all.begin() + count * rows));
  }
}

TEST_P(LinearKernelsTest, WeightsMayLieAnywhere) {
  std::vector<Format> formats = dense_formats();
  for (const int bits : {1, 2, 3, 4, 5, 6, 8}) formats.push_back(Format::affine(bits, 32));
  for (const Format& format : formats) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = 352;
    const int64_t count = 18;
    const Floats values = activations(count, cols, 17);
    const Quantized x(kernels(), values, count, cols);
    std::vector<Floats> results;
    for (const size_t offset : {0u, 8u, 1u, 2u, 3u, 63u}) {
      const Matrix w(format, 29, cols, 18, offset);
      for (const int64_t live : {int64_t{1}, count}) {
        const RowMap map{live, nullptr, nullptr};
        Floats y = run_f32(kernels(), w.view, values, map, 0, 29, live);
        if (!format.is_dense()) {
          const Floats more = run_int8(kernels(), w.view, x, map, 0, 29, live);
          y.insert(y.end(), more.begin(), more.end());
        }
        results.push_back(y);
      }
    }
    for (size_t i = 2; i < results.size(); ++i) EXPECT_SAME_BITS(results[i], results[i % 2]);
  }
}

TEST_P(LinearKernelsTest, MapsGatherAndScatterRows) {
  const int64_t cols = 256;
  const int64_t rows = 50;
  const int64_t total = 40;
  const Floats values = activations(total, cols, 19);
  const Quantized x(kernels(), values, total, cols);
  const Matrix w(Format::affine(4, 64), rows, cols, 20);
  const RowMap plain{total, nullptr, nullptr};
  const Floats all = run_int8(kernels(), w.view, x, plain, 0, rows, total);
  const Floats all_f32 = run_f32(kernels(), w.view, values, plain, 0, rows, total);
  for (const int64_t count : {1, 3, 7, 30}) {
    std::vector<int32_t> from;
    std::vector<int32_t> to;
    for (int32_t i = 0; i < count; ++i) {
      from.push_back((i * 7 + 5) % static_cast<int32_t>(total));
      to.push_back(static_cast<int32_t>(total) - 1 - i);
    }
    for (const bool maps_y : {false, true}) {
      const RowMap map{count, from.data(), maps_y ? to.data() : nullptr};
      Floats expected(all.size(), kSentinel);
      Floats expected_f32(all.size(), kSentinel);
      for (size_t i = 0; i < from.size(); ++i) {
        const int64_t row = maps_y ? to[i] : static_cast<int64_t>(i);
        std::copy_n(all.begin() + from[i] * rows, rows, expected.begin() + row * rows);
        std::copy_n(all_f32.begin() + from[i] * rows, rows, expected_f32.begin() + row * rows);
      }
      EXPECT_SAME_BITS(run_int8(kernels(), w.view, x, map, 0, rows, total), expected);
      EXPECT_SAME_BITS(run_f32(kernels(), w.view, values, map, 0, rows, total), expected_f32);
    }
  }
  const RowMap nothing{0, nullptr, nullptr};
  EXPECT_SAME_BITS(run_int8(kernels(), w.view, x, nothing, 0, rows, 1),
                   Floats(static_cast<size_t>(rows), kSentinel));
  EXPECT_SAME_BITS(run_f32(kernels(), w.view, values, nothing, 0, rows, 1),
                   Floats(static_cast<size_t>(rows), kSentinel));
}

TEST_P(LinearKernelsTest, ARangeOfRowsWritesNothingElse) {
  const int64_t cols = 704;
  const int64_t rows = 150;
  for (const Format& format : {Format::affine(3, 64), Format::affine(4, 64), Format::affine(8, 64),
                               Format::mxfp4(), Format::nvfp4()}) {
    SCOPED_TRACE(describe(format));
    const Matrix w(format, rows, cols, 21);
    for (const int64_t count : {1, 4, 5, 20}) {
      const Floats values = activations(count, cols, 22);
      const Quantized x(kernels(), values, count, cols);
      const RowMap map{count, nullptr, nullptr};
      const Floats all = run_int8(kernels(), w.view, x, map, 0, rows, count);
      const Floats all_f32 = run_f32(kernels(), w.view, values, map, 0, rows, count);
      for (const auto& [begin, end] :
           {std::pair{0, 1}, {3, 3}, {5, 12}, {1, 66}, {16, 32}, {100, 149}, {149, 150}}) {
        Floats expected(all.size(), kSentinel);
        Floats expected_f32(all.size(), kSentinel);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t r = begin; r < end; ++r) {
            expected[static_cast<size_t>(i * rows + r)] = all[static_cast<size_t>(i * rows + r)];
            expected_f32[static_cast<size_t>(i * rows + r)] =
                all_f32[static_cast<size_t>(i * rows + r)];
          }
        }
        EXPECT_SAME_BITS(run_int8(kernels(), w.view, x, map, begin, end, count), expected);
        EXPECT_SAME_BITS(run_f32(kernels(), w.view, values, map, begin, end, count), expected_f32);
      }
    }
  }
}

// All codes at their largest and every activation at +-127: where 16-bit sums would saturate first.
TEST_P(LinearKernelsTest, ExtremesDoNotSaturate) {
  for (const int bits : {1, 2, 3, 4, 5, 6, 8}) {
    for (const bool zeros : {false, true}) {  // code 0 is -128, the other end, for 8 bits
      const Format format = Format::affine(bits, 64, DType::kF32);
      const int64_t cols = 320;
      const int64_t rows = 40;
      Matrix w(format, rows, cols, 23, 0, true);
      if (zeros) std::memset(w.data.data(), 0, static_cast<size_t>(rows * cols * bits / 8));
      for (int64_t i = 0; i < rows * (cols / 64); ++i) {
        store(w.scales.data(), DType::kF32, i, 1.0f);
        store(w.biases.data(), DType::kF32, i, 0.0f);
      }
      for (const int sign : {1, -1, 0}) {  // 0: alternating
        const int64_t count = 18;
        Floats values(static_cast<size_t>(count * cols));
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = sign != 0 ? 127.0f * static_cast<float>(sign) : i % 2 == 0 ? 127.0f : -127.0f;
        const Quantized x(kernels(), values, count, cols);
        ASSERT_EQ(x.rows.scales[0], 1.0f);
        const double code = zeros ? 0 : (1 << bits) - 1;
        for (const int64_t live : {int64_t{1}, count}) {
          for (const float y :
               run_int8(kernels(), w.view, x, {live, nullptr, nullptr}, 0, rows, live))
            ASSERT_EQ(y, static_cast<double>(cols) * 127 * sign * code) << bits << " bits";
        }
      }
    }
  }
}

// E2M1 at its ends, +6 and -6, with scales of one.
TEST_P(LinearKernelsTest, DoubledExtremesDoNotSaturate) {
  for (const Format& format : doubled_formats()) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = 320;
    const int64_t rows = 40;
    for (const int codes : {0x77, 0xFF, 0x00}) {
      Matrix w(format, rows, cols, 23);
      std::memset(w.data.data(), codes, static_cast<size_t>(rows * cols / 2));
      std::memset(w.scales.data(), format.group == 16 ? 0x38 : 127,
                  static_cast<size_t>(rows * (cols / format.group)));
      for (const int sign : {1, -1}) {
        const int64_t count = 18;
        const Floats values(static_cast<size_t>(count * cols), 127.0f * static_cast<float>(sign));
        const Quantized x(kernels(), values, count, cols);
        const double element = codes == 0x77 ? 6 : codes == 0xFF ? -6 : 0;
        for (const int64_t live : {int64_t{1}, count})
          for (const float y :
               run_int8(kernels(), w.view, x, {live, nullptr, nullptr}, 0, rows, live))
            ASSERT_EQ(y, static_cast<double>(cols) * 127 * sign * element);
      }
    }
  }
}

// Every element code under every scale code, NaN, infinity and subnormal scales among them; and
// again without elements that are NaN.
TEST_P(LinearKernelsTest, DecodesEveryCodeUnderEveryScaleAsTheReference) {
  for (const Format& format : micro_formats())
    for (const bool nan : {true, false}) {
      SCOPED_TRACE(describe(format));
      const int64_t cols = 256;
      Matrix w(format, 256, cols, 31);
      for (int64_t r = 0; r < 256; ++r) {
        for (int64_t c = 0; c < cols * format.bits / 8; ++c) {
          auto code = static_cast<uint8_t>(c * 2 + r);
          if (!nan && (code & 0x7Fu) == 0x7Fu) code ^= 1u;
          w.data.data()[r * cols * format.bits / 8 + c] = static_cast<std::byte>(code);
        }
        for (int64_t g = 0; g < cols / format.group; ++g)
          w.scales.data()[r * (cols / format.group) + g] = static_cast<std::byte>(r + g * 51);
        Floats ours(static_cast<size_t>(cols));
        Floats expected(ours.size());
        kernels().decode_row(w.view, r, ours.data());
        dequantize_row(w.view, r, expected.data());
        EXPECT_SAME_BITS(ours, expected);
      }
      // The products take them without a trap, as the portable kernels do: NaN where it is due.
      const Floats values = activations(17, cols, 32);
      const Quantized x(kernels(), values, 17, cols);
      for (const int64_t count : {1, 2, 17}) {
        const auto same = [&](const Floats& a, const Floats& b) {
          for (size_t i = 0; i < a.size(); ++i)
            if (!(std::isnan(a[i]) && std::isnan(b[i]))) {
              ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i])) << i;
            }
        };
        const RowMap map{count, nullptr, nullptr};
        same(run_f32(kernels(), w.view, values, map, 0, 256, count),
             run_f32(portable(), w.view, values, map, 0, 256, count));
        if (int8_supported(format, cols))
          same(run_int8(kernels(), w.view, x, map, 0, 256, count),
               run_int8(portable(), w.view, x, map, 0, 256, count));
      }
    }
}

TEST_P(LinearKernelsTest, QuantizesRowsAsTheContractSays) {
  const int64_t cols = 96;
  Floats x = activations(5, cols, 24);
  for (int64_t c = 0; c < 32; ++c) x[static_cast<size_t>(c)] = 0;  // a group of zeros
  for (int64_t c = 32; c < 64; ++c) x[static_cast<size_t>(c)] = 63.5f;
  x[40] = -127;                                      // scale 1; 63.5 is a tie
  x[41] = 62.5f;                                     // a tie to the even below
  for (size_t c = 64; c < 96; ++c) x[c] = 190e-45f;  // subnormal: the scale is coarse
  x[96] = std::numeric_limits<float>::infinity();
  x[96 + 32] = std::numeric_limits<float>::quiet_NaN();
  const Quantized got(kernels(), x, 5, cols);
  EXPECT_EQ(got.rows.scales[0], 0.0f);
  EXPECT_EQ(got.rows.values[0], 0);
  EXPECT_EQ(got.rows.sums[0], 0.0f);
  EXPECT_EQ(got.rows.scales[1], 1.0f);
  EXPECT_EQ(got.rows.values[32], 64);
  EXPECT_EQ(got.rows.values[40], -127);
  EXPECT_EQ(got.rows.values[41], 62);
  EXPECT_EQ(got.rows.sums[1], 30.0f * 64 + 62 - 127);
  EXPECT_LE(got.rows.values[64], 127);
  EXPECT_GT(got.rows.values[64], 0);
  EXPECT_TRUE(std::isnan(got.rows.sums[3]));  // infinity and NaN spoil their group, not silently
  EXPECT_TRUE(std::isnan(got.rows.sums[4]));
  EXPECT_FALSE(std::isnan(got.rows.sums[5]));
  for (int64_t row = 2; row < 5; ++row) {
    for (int64_t j = 0; j < cols / 32; ++j) {
      float most = 0;
      float sum = 0;
      const float* in = x.data() + row * cols + j * 32;
      for (int64_t i = 0; i < 32; ++i) most = std::max(most, std::abs(in[i]));
      const float scale = most / 127;
      EXPECT_EQ(got.rows.scales[row * 3 + j], scale);
      for (int64_t i = 0; i < 32; ++i) {
        const auto value = static_cast<float>(got.rows.values[row * cols + j * 32 + i]);
        EXPECT_EQ(value, std::nearbyint(in[i] / scale));
        sum += value;
      }
      EXPECT_EQ(got.rows.sums[row * 3 + j], scale * sum);
    }
  }
}

TEST_P(LinearKernelsTest, QuantizedRowsEqualPortableBitForBit) {
  const int64_t cols = 2048;
  const int64_t rows = 40;
  const int64_t stride = cols + 3;
  Floats x = activations(rows, stride, 25);
  for (size_t i = 0; i < x.size(); ++i)  // magnitudes over the whole range of floats
    x[i] = std::ldexp(x[i], static_cast<int>(i / 32 * 37 % 250) - 140);
  for (size_t i = 0; i < x.size(); i += 3) x[i] = std::round(x[i]) + 0.5f;
  const auto size = static_cast<size_t>(QuantizedRows::bytes(rows, cols));
  Bytes ours(size, 0);
  Bytes expected(size, 0);
  std::memset(ours.data(), 0x5A, size);
  std::memset(expected.data(), 0x5A, size);
  // Rows outside the range stay as they were.
  kernels().quantize_rows(x.data(), stride, 1, rows - 1,
                          QuantizedRows::over(ours.data(), rows, cols));
  portable().quantize_rows(x.data(), stride, 1, rows - 1,
                           QuantizedRows::over(expected.data(), rows, cols));
  EXPECT_EQ(std::memcmp(ours.data(), expected.data(), size), 0);
  const QuantizedRows view = QuantizedRows::over(ours.data(), rows, cols);
  EXPECT_EQ(view.values[cols - 1], 0x5A);
  EXPECT_EQ(view.values[(rows - 1) * cols], 0x5A);
}

TEST_P(LinearKernelsTest, DecodesRowsAsTheReference) {
  std::vector<Format> formats = affine_formats();
  for (const Format& format : micro_formats()) formats.push_back(format);
  for (const Format& format : formats) {
    SCOPED_TRACE(describe(format));
    const int64_t cols = 7 * format.group;
    const Matrix w(format, 5, cols, 26, 8);
    for (int64_t row = 0; row < 5; ++row) {
      Floats ours(static_cast<size_t>(cols + 1), kSentinel);
      Floats expected(static_cast<size_t>(cols + 1), kSentinel);
      kernels().decode_row(w.view, row, ours.data());
      dequantize_row(w.view, row, expected.data());
      EXPECT_SAME_BITS(ours, expected);
    }
  }
  for (const Format& format : dense_formats()) {
    for (const int64_t cols : {1, 8, 19, 64}) {
      const Matrix w(format, 3, cols, 27, 1);
      Floats ours(static_cast<size_t>(cols + 1), kSentinel);
      Floats expected(static_cast<size_t>(cols + 1), kSentinel);
      kernels().decode_row(w.view, 2, ours.data());
      dequantize_row(w.view, 2, expected.data());
      EXPECT_SAME_BITS(ours, expected);
    }
  }
}

TEST_P(LinearKernelsTest, RefusesOperandsThatDisagree) {
  const Matrix w(Format::affine(4, 64), 8, 128, 28);
  const Matrix dense(Format::dense(DType::kBF16), 8, 128, 28);
  const Quantized x(kernels(), activations(1, 128, 29), 1, 128);
  const Matrix mxfp8(Format::mxfp8(), 8, 128, 28);
  const Quantized narrow(kernels(), activations(1, 64, 29), 1, 64);
  const RowMap one{1, nullptr, nullptr};
  EXPECT_THROW(run_int8(kernels(), w.view, narrow, one, 0, 8, 1), InternalError);
  EXPECT_THROW(run_int8(kernels(), dense.view, x, one, 0, 8, 1), InternalError);
  EXPECT_THROW(run_int8(kernels(), mxfp8.view, x, one, 0, 8, 1), InternalError);
  EXPECT_THROW(run_int8(kernels(), w.view, x, one, 0, 9, 1), InternalError);
  EXPECT_THROW(run_f32(kernels(), w.view, activations(1, 128, 30), one, -1, 8, 1), InternalError);
}

TEST(LinearKernels, TheEnvironmentNamesTheSet) {
  const char* before = std::getenv("DECANT_CPU_ISA");
  const std::string saved = before != nullptr ? before : "";
  setenv("DECANT_CPU_ISA", "portable", 1);
  EXPECT_EQ(selected_isa(), Isa::kPortable);
  setenv("DECANT_CPU_ISA", "mmx", 1);
  EXPECT_THROW(selected_isa(), UsageError);
  if (!isa_available(Isa::kAvx512)) {
    setenv("DECANT_CPU_ISA", "avx512", 1);
    EXPECT_THROW(selected_isa(), UsageError);
  }
  unsetenv("DECANT_CPU_ISA");
  const Isa best = selected_isa();
  for (const Isa isa : kAll) EXPECT_TRUE(!isa_available(isa) || isa <= best);
  if (before != nullptr) setenv("DECANT_CPU_ISA", saved.c_str(), 1);
}

}  // namespace
}  // namespace decant::cpu
