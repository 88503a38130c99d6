#pragma once

#include <algorithm>

#include "backend/cpu/kernels/linear_simd_base.h"
#include "backend/cpu/kernels/linear_simd_f32_rows.h"

// The float32 products: sixteen lanes per output, whatever the width of a register.

namespace decant::cpu::detail {
namespace {

template <int kBits>
void decode_affine(const Planes& w, int64_t row, int64_t begin, int64_t count, float* out) {
  const uint8_t* data = w.data + row * w.row_bytes;
  const uint8_t* scales = w.scales + row * w.scale_row_bytes;
  const uint8_t* biases = w.biases + row * w.scale_row_bytes;
  for (int64_t c = begin; c < begin + count; c += w.group) {
    const __m256 scale = _mm256_set1_ps(load_scalar(scales, w.dtype, c / w.group));
    const __m256 bias = _mm256_set1_ps(load_scalar(biases, w.dtype, c / w.group));
    for (int64_t k = c; k < c + w.group; k += 32) {
      const __m256i codes = unpack<kBits>(data + k * kBits / 8);
      const __m128i half[2] = {_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)};
      for (int h = 0; h < 4; ++h) {
        const __m128i eight = h % 2 == 0 ? half[h / 2] : _mm_srli_si128(half[h / 2], 8);
        const __m256 code = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
        _mm256_storeu_ps(out + (k - begin) + h * 8,
                         _mm256_add_ps(_mm256_mul_ps(scale, code), bias));
      }
    }
  }
}

/// Columns [begin, begin + count) of a row of a micro format; both are multiples of its group.
inline void decode_micro(const Planes& w, int64_t row, int64_t begin, int64_t count, float* out) {
  const uint8_t* data = w.data + row * w.row_bytes + begin * w.bits / 8;
  const uint8_t* scales = w.scales + row * w.scale_row_bytes + begin / w.group;
  const __m256 values = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  for (int64_t g = 0; g < count / w.group; ++g) {
    const __m256 scale = _mm256_broadcastss_ps(
        _mm256_castps256_ps128(widen_scales(w, _mm_cvtsi32_si128(scales[g]))));
    for (int k = 0; k < w.group; k += 8) {
      __m256 element;
      if (w.bits == 8) {
        element = widen_e4m3(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(data)));
      } else {
        int32_t word;
        std::memcpy(&word, data, 4);
        const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
        const __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(codes, 3), 31);
        element = _mm256_xor_ps(_mm256_permutevar8x32_ps(values, codes), _mm256_castsi256_ps(sign));
      }
      _mm256_storeu_ps(out + g * w.group + k, _mm256_mul_ps(element, scale));
      data += w.bits;
    }
  }
}

/// Columns [begin, begin + count) of a row as floats; for packed weights whole groups.
inline void decode_span(const Planes& w, int64_t row, int64_t begin, int64_t count, float* out) {
  if (w.group == 0) {
    const int64_t size = w.bits / 8;
    const uint8_t* p = w.data + row * w.row_bytes + begin * size;
    if (w.dtype == DType::kF32) {
      std::memcpy(out, p, static_cast<size_t>(count * 4));
      return;
    }
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(out + i, widen_half(load128(p + i * 2), w.dtype));
    for (; i < count; ++i) out[i] = load_scalar(p, w.dtype, i);
    return;
  }
  if (w.kind != Format::Kind::kAffine) return decode_micro(w, row, begin, count, out);
  switch (w.bits) {
    case 1:
      return decode_affine<1>(w, row, begin, count, out);
    case 2:
      return decode_affine<2>(w, row, begin, count, out);
    case 3:
      return decode_affine<3>(w, row, begin, count, out);
    case 4:
      return decode_affine<4>(w, row, begin, count, out);
    case 5:
      return decode_affine<5>(w, row, begin, count, out);
    case 6:
      return decode_affine<6>(w, row, begin, count, out);
    default:
      return decode_affine<8>(w, row, begin, count, out);
  }
}

// Rows of x up to which mxfp8 weights are widened as they are used: AVX-512 widens them quicker
// than it goes through a panel.
constexpr int64_t kMxfp8Rows = kVnni ? INT64_MAX : 6;
constexpr int64_t kDotCols = 1024;  // columns of a decoded panel
constexpr int64_t kDotRows = 32;    // its rows
constexpr int64_t kDotSlice = 48;   // rows of x whose lanes are kept between panels

/// lanes[r * kDotSlice + i] += panel row r times row i of x, over `cols` columns, a multiple of 16.
/// Lanes pass through in parts of one register, so that the sums, kX of x and one of the panel fill
/// the register file.
template <int kW, int kX>
inline void dot_tile(const float* panel, int64_t cols, const float* const* x, bool first,
                     float* lanes) {
  constexpr int64_t kStep = kLanes;
  for (int64_t part = 0; part < 16; part += kStep) {
    FloatVec acc[kW][kX];
    for (int r = 0; r < kW; ++r)
      for (int i = 0; i < kX; ++i)
        acc[r][i] =
            first ? broadcast_float(0.0f) : load_float_vec(lanes + (r * kDotSlice + i) * 16 + part);
    for (int64_t c = part; c < cols; c += 16) {
      FloatVec in[kX];
      for (int i = 0; i < kX; ++i) {
        in[i] = load_float_vec(x[i] + c);
        pin(in[i]);
      }
      for (int r = 0; r < kW; ++r) {
        const FloatVec w = load_float_vec(panel + r * kDotCols + c);
        for (int i = 0; i < kX; ++i) acc[r][i] = fma_vec(w, in[i], acc[r][i]);
      }
    }
    for (int r = 0; r < kW; ++r)
      for (int i = 0; i < kX; ++i)
        store_float_vec(lanes + (r * kDotSlice + i) * 16 + part, acc[r][i]);
  }
}

/// All panel rows times `live` rows of x, at most kX.
template <int kX>
inline void dot_rows(int live, const float* panel, int64_t rows, int64_t cols,
                     const float* const* x, bool first, float* lanes) {
  if constexpr (kX > 1) {
    if (live < kX) return dot_rows<kX - 1>(live, panel, rows, cols, x, first, lanes);
  }
  int64_t r = 0;
  for (; r + kRowsW <= rows; r += kRowsW)
    dot_tile<kRowsW, kX>(panel + r * kDotCols, cols, x, first, lanes + r * kDotSlice * 16);
  for (; r < rows; ++r)
    dot_tile<1, kX>(panel + r * kDotCols, cols, x, first, lanes + r * kDotSlice * 16);
}

inline void blocked_f32(const Planes& w, const float* x, int64_t x_stride, const RowMap& map,
                        float* y, int64_t y_stride, int64_t row_begin, int64_t row_end,
                        Scratch& scratch) {
  static_assert((kDotRows * kDotCols + kDotRows * kDotSlice * 16) * int64_t{sizeof(float)} <=
                Scratch::kBytes);
  auto* panel = reinterpret_cast<float*>(scratch.data);  // [kDotRows, kDotCols]
  float* lanes = panel + kDotRows * kDotCols;            // [kDotRows, kDotSlice, 16]
  for (int64_t r0 = row_begin; r0 < row_end; r0 += kDotRows) {
    const int64_t rows = smaller(kDotRows, row_end - r0);
    for (int64_t first = 0; first < map.count; first += kDotSlice) {
      const int64_t slice = smaller(kDotSlice, map.count - first);
      for (int64_t c0 = 0; c0 < w.cols; c0 += kDotCols) {
        const int64_t cols = smaller(kDotCols, w.cols - c0);
        for (int64_t r = 0; r < rows; ++r) decode_span(w, r0 + r, c0, cols, panel + r * kDotCols);
        for (int64_t i = 0; i < slice; i += kRowsX) {
          const int live = static_cast<int>(smaller(kRowsX, slice - i));
          const float* in[kRowsX];
          for (int k = 0; k < live; ++k) {
            const int64_t n = first + i + k;
            in[k] = x + (map.x_rows != nullptr ? map.x_rows[n] : n) * x_stride + c0;
          }
          dot_rows<kRowsX>(live, panel, rows, cols, in, c0 == 0, lanes + i * 16);
        }
      }
      for (int64_t i = 0; i < slice; ++i) {
        const int64_t n = first + i;
        float* out = y + (map.y_rows != nullptr ? map.y_rows[n] : n) * y_stride + r0;
        for (int64_t r = 0; r < rows; ++r) out[r] = fold_lanes(lanes + (r * kDotSlice + i) * 16);
      }
    }
  }
}

inline void f32(const MatrixView& view, const float* x, int64_t x_stride, const RowMap& map,
                float* y, int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  check_f32(view, row_begin, row_end);
  const Planes w = planes_of(view);
  if (w.kind == Format::Kind::kMxfp8 && map.count <= kMxfp8Rows)
    return mxfp8_rows(w, x, x_stride, map, y, y_stride, row_begin, row_end);
  if (w.group != 0)
    return blocked_f32(w, x, x_stride, map, y, y_stride, row_begin, row_end, scratch);
  switch (w.dtype) {
    case DType::kF32:
      return dense_rows<DType::kF32>(w, x, x_stride, map, y, y_stride, row_begin, row_end);
    case DType::kF16:
      return dense_rows<DType::kF16>(w, x, x_stride, map, y, y_stride, row_begin, row_end);
    default:
      return dense_rows<DType::kBF16>(w, x, x_stride, map, y, y_stride, row_begin, row_end);
  }
}

inline void decode_row(const MatrixView& view, int64_t row, float* out) {
  check_f32(view, row, row + 1);
  decode_span(planes_of(view), row, 0, view.cols, out);
}

}  // namespace
}  // namespace decant::cpu::detail
