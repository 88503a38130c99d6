#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "backend/cpu/kernels/linear_internal.h"

// Plain loops that any processor runs; also the written-out form of the contract, which the other
// sets must equal bit for bit.

namespace decant::cpu::detail {
namespace {

/// a * b + c rounded once, on processors with or without an FMA instruction.
inline float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  // The product is exact in double. The sum is rounded to odd, so that rounding it again to float
  // cannot differ from rounding the exact value once.
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = c;
  const double sum = product + addend;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);
  const auto bits = std::bit_cast<uint64_t>(sum);
  if ((error > 0 || error < 0) && (bits & 1u) == 0)
    return static_cast<float>(
        std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1));
  return static_cast<float>(sum);
#endif
}

/// Codes of columns [begin, begin + count) of one row; begin is a multiple of 8.
void read_codes(const std::byte* row, int bits, int64_t begin, int64_t count, int16_t* out) {
  const auto mask = (1u << bits) - 1u;
  const std::byte* p = row + begin * bits / 8;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t bit = i * bits;
    uint32_t word = static_cast<uint32_t>(p[bit / 8]);
    if (bit % 8 + bits > 8) word |= static_cast<uint32_t>(p[bit / 8 + 1]) << 8;
    out[i] = static_cast<int16_t>(word >> (bit % 8) & mask);
  }
}

void quantize_rows(const float* x, int64_t x_stride, int64_t row_begin, int64_t row_end,
                   const QuantizedRows& out) {
  constexpr int64_t kGroup = QuantizedRows::kGroup;
  const int64_t groups = out.cols / kGroup;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t j = 0; j < groups; ++j) {
      const float* in = x + row * x_stride + j * kGroup;
      int8_t* values = out.values + row * out.cols + j * kGroup;
      // Magnitudes compare as integers, so a NaN or infinity wins and spoils the scale.
      uint32_t largest = 0;
      for (int64_t i = 0; i < kGroup; ++i)
        largest = std::max(largest, std::bit_cast<uint32_t>(in[i]) & 0x7FFFFFFFu);
      const float scale = std::bit_cast<float>(largest) / 127.0f;
      int32_t sum = 0;
      const bool usable = largest < 0x7F800000u && scale > 0;
      for (int64_t i = 0; i < kGroup; ++i) {
        if (!usable) {
          values[i] = 0;
          continue;
        }
        // A subnormal scale is coarse: its quotients can pass 127.
        const float quotient = std::min(std::max(in[i] / scale, -127.0f), 127.0f);
        constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest even
        const float rounded = (quotient + kRound) - kRound;
        values[i] = static_cast<int8_t>(static_cast<int>(rounded));
        sum += values[i];
      }
      out.scales[row * groups + j] = scale;
      out.sums[row * groups + j] = scale * static_cast<float>(sum);
    }
  }
}

/// mxfp4 and nvfp4.
void int8_micro(const MatrixView& w, const QuantizedRows& x, const RowMap& map, float* y,
                int64_t y_stride, int64_t row_begin, int64_t row_end) {
  constexpr std::array<int16_t, 16> kDoubled = {0, 1,  2,  3,  4,  6,  8,  12,
                                                0, -1, -2, -3, -4, -6, -8, -12};
  const int64_t group = w.format.group;
  const int64_t x_groups = w.cols / QuantizedRows::kGroup;
  std::array<int16_t, 128> codes;
  for (int64_t r = row_begin; r < row_end; ++r) {
    const std::byte* data = w.data + r * w.format.data_row_bytes(w.cols);
    const std::byte* scales = w.scales + r * w.format.scale_row_bytes(w.cols);
    for (int64_t g = 0; g < w.cols / group; ++g) {
      read_codes(data, 4, g * group, group, codes.data());
      for (int64_t i = 0; i < group; ++i)
        codes[static_cast<size_t>(i)] =
            kDoubled[static_cast<size_t>(codes[static_cast<size_t>(i)])];
      const auto code = static_cast<uint8_t>(scales[g]);
      const float scale =
          0.5f * (w.format.kind == Format::Kind::kNvfp4 ? e4m3_to_float(code) * w.tensor_scale
                                                        : e8m0_to_float(code));
      for (int64_t i = 0; i < map.count; ++i) {
        const int64_t from = map.x_rows != nullptr ? map.x_rows[i] : i;
        const int64_t to = map.y_rows != nullptr ? map.y_rows[i] : i;
        const int8_t* values = x.values + from * x.cols + g * group;
        int32_t exact = 0;
        for (int64_t c = 0; c < group; ++c)
          exact += int32_t{codes[static_cast<size_t>(c)]} * values[c];
        const float product = static_cast<float>(exact) *
                              x.scales[from * x_groups + g * group / QuantizedRows::kGroup];
        float& out = y[to * y_stride + r];
        out = fused(product, scale, g == 0 ? 0.0f : out);
      }
    }
  }
}

void int8(const MatrixView& w, const QuantizedRows& x, const RowMap& map, float* y,
          int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch&) {
  check_int8(w, x, row_begin, row_end);
  if (w.format.is_micro()) return int8_micro(w, x, map, y, y_stride, row_begin, row_end);
  constexpr int64_t kJ = QuantizedRows::kGroup;
  const int bits = w.format.bits;
  const int64_t group = w.format.group;
  const int64_t x_groups = w.cols / kJ;
  const int64_t per_group = group / kJ;
  std::array<int16_t, 128> codes;
  for (int64_t r = row_begin; r < row_end; ++r) {
    const std::byte* data = w.data + r * w.format.data_row_bytes(w.cols);
    const std::byte* scales = w.scales + r * w.format.scale_row_bytes(w.cols);
    const std::byte* biases = w.biases + r * w.format.bias_row_bytes(w.cols);
    for (int64_t g = 0; g < w.cols / group; ++g) {
      read_codes(data, bits, g * group, group, codes.data());
      const float scale = load_float(scales, w.format.dtype, g);
      float bias = load_float(biases, w.format.dtype, g);
      if (bits == 8) {
        bias = fused(128.0f, scale, bias);
        for (int64_t i = 0; i < group; ++i)
          codes[static_cast<size_t>(i)] = static_cast<int16_t>(codes[static_cast<size_t>(i)] - 128);
      }
      for (int64_t i = 0; i < map.count; ++i) {
        const int64_t from = map.x_rows != nullptr ? map.x_rows[i] : i;
        const int64_t to = map.y_rows != nullptr ? map.y_rows[i] : i;
        float product = 0;
        float sum = 0;
        for (int64_t j = g * per_group; j < (g + 1) * per_group; ++j) {
          const int8_t* values = x.values + from * x.cols + j * kJ;
          const int16_t* code = codes.data() + (j - g * per_group) * kJ;
          int32_t exact = 0;
          for (int64_t c = 0; c < kJ; ++c) exact += int32_t{code[c]} * values[c];
          product = fused(static_cast<float>(exact), x.scales[from * x_groups + j], product);
          sum =
              j == g * per_group ? x.sums[from * x_groups + j] : sum + x.sums[from * x_groups + j];
        }
        float& out = y[to * y_stride + r];
        out = fused(sum, bias, fused(product, scale, g == 0 ? 0.0f : out));
      }
    }
  }
}

void decode_row(const MatrixView& w, int64_t row, float* out) { dequantize_row(w, row, out); }

/// Columns [begin, begin + count) of one row as floats, begin a multiple of 128.
void decode_span(const MatrixView& w, int64_t row, int64_t begin, int64_t count, float* out) {
  const Format& format = w.format;
  const std::byte* data = w.data + row * format.data_row_bytes(w.cols);
  if (format.is_dense()) {
    for (int64_t i = 0; i < count; ++i) out[i] = load_float(data, format.dtype, begin + i);
    return;
  }
  if (format.is_micro()) {
    MatrixView span = w.slice_rows(row, 1);
    span.data += format.data_row_bytes(begin);
    span.scales += format.scale_row_bytes(begin);
    span.cols = count;
    return dequantize_row(span, 0, out);
  }
  std::array<int16_t, 128> codes;
  const std::byte* scales = w.scales + row * format.scale_row_bytes(w.cols);
  const std::byte* biases = w.biases + row * format.bias_row_bytes(w.cols);
  for (int64_t at = begin; at < begin + count; at += format.group) {
    read_codes(data, format.bits, at, format.group, codes.data());
    const float scale = load_float(scales, format.dtype, at / format.group);
    const float bias = load_float(biases, format.dtype, at / format.group);
    for (int64_t i = 0; i < format.group; ++i) {
      const float product = scale * static_cast<float>(codes[static_cast<size_t>(i)]);
      out[at - begin + i] = product + bias;
    }
  }
}

void f32(const MatrixView& w, const float* x, int64_t x_stride, const RowMap& map, float* y,
         int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  check_f32(w, row_begin, row_end);
  constexpr int64_t kLanes = 16;
  constexpr int64_t kBlock = 4096;     // columns decoded at a time
  constexpr int64_t kRowSlice = 8192;  // rows of x whose lanes fit the scratch
  static_assert((kBlock + kRowSlice * kLanes) * int64_t{sizeof(float)} <= Scratch::kBytes);
  auto* decoded = reinterpret_cast<float*>(scratch.data);
  float* lanes = decoded + kBlock;
  for (int64_t r = row_begin; r < row_end; ++r) {
    for (int64_t first = 0; first < map.count; first += kRowSlice) {
      const int64_t rows = std::min(kRowSlice, map.count - first);
      std::memset(lanes, 0, static_cast<size_t>(rows * kLanes) * sizeof(float));
      for (int64_t begin = 0; begin < w.cols; begin += kBlock) {
        const int64_t count = std::min(kBlock, w.cols - begin);
        decode_span(w, r, begin, count, decoded);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t from = map.x_rows != nullptr ? map.x_rows[first + i] : first + i;
          const float* in = x + from * x_stride + begin;
          float* lane = lanes + i * kLanes;
          // Columns past the end count as zeros, so every lane takes the same number of steps.
          for (int64_t c = 0; c < count; c += kLanes)
            for (int64_t l = 0; l < kLanes; ++l)
              lane[l] = c + l < count ? fused(decoded[c + l], in[c + l], lane[l])
                                      : fused(0.0f, 0.0f, lane[l]);
        }
      }
      for (int64_t i = 0; i < rows; ++i) {
        float* lane = lanes + i * kLanes;
        for (int64_t apart = kLanes / 2; apart > 0; apart /= 2)
          for (int64_t l = 0; l < apart; ++l) lane[l] += lane[l + apart];
        const int64_t to = map.y_rows != nullptr ? map.y_rows[first + i] : first + i;
        y[to * y_stride + r] = lane[0];
      }
    }
  }
}

constexpr LinearKernels kKernels = {Isa::kPortable, quantize_rows, int8, f32, decode_row};

}  // namespace

const LinearKernels* portable_kernels() { return &kKernels; }

}  // namespace decant::cpu::detail
