#pragma once

#include "backend/cpu/kernels/linear_simd_block.h"
#include "backend/cpu/kernels/linear_simd_f32.h"
#include "backend/cpu/kernels/linear_simd_stream.h"

// The entry points of a vector instruction set: see linear_simd_base.h for who includes this.

namespace decant::cpu::detail {
namespace {

inline void quantize_rows(const float* x, int64_t x_stride, int64_t row_begin, int64_t row_end,
                          const QuantizedRows& out) {
  const int64_t groups = out.cols / QuantizedRows::kGroup;
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t j = 0; j < groups; ++j) {
      const float* in = x + row * x_stride + j * 32;
      int8_t* values = out.values + row * out.cols + j * 32;
      __m256 v[4];
      __m256i largest = _mm256_setzero_si256();
      for (int i = 0; i < 4; ++i) {
        v[i] = _mm256_loadu_ps(in + i * 8);
        // Magnitudes compare as integers, so a NaN or infinity wins and spoils the scale.
        largest = _mm256_max_epi32(largest, _mm256_castps_si256(_mm256_and_ps(v[i], magnitude)));
      }
      __m128i most =
          _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
      most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4E));
      most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xB1));
      const float scale = _mm_cvtss_f32(_mm_castsi128_ps(most)) / 127.0f;
      int32_t sum = 0;
      if (_mm_cvtsi128_si32(most) < 0x7F800000 && scale > 0) {
        const __m256 divisor = _mm256_set1_ps(scale);
        __m256i q[4];
        for (int i = 0; i < 4; ++i) {
          // A subnormal scale is coarse: its quotients can pass 127.
          const __m256 quotient =
              _mm256_min_ps(_mm256_max_ps(_mm256_div_ps(v[i], divisor), _mm256_set1_ps(-127.0f)),
                            _mm256_set1_ps(127.0f));
          q[i] = _mm256_cvtps_epi32(quotient);
        }
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])),
            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        store256(values, bytes);
        const __m256i total =
            _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        __m128i s =
            _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
        sum = _mm_cvtsi128_si32(s);
      } else {
        store256(values, _mm256_setzero_si256());
      }
      out.scales[row * groups + j] = scale;
      out.sums[row * groups + j] = scale * static_cast<float>(sum);
    }
  }
}

template <int kCode, int kGroup>
void stream_all(const Planes& w, const QuantizedRows& x, const RowMap& map, float* y,
                int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  // With several slices of x, weights are read again while they are still in the cache.
  const int64_t step = map.count <= kStreamX ? row_end - row_begin : kStreamTile;
  for (int64_t r = row_begin; r < row_end; r += step) {
    const int64_t end = smaller(r + step, row_end);
    for (int64_t i = 0; i < map.count; i += kStreamX) {
      switch (map.count - i) {
        case 1:
          stream<kCode, kGroup, 1>(w, x, map, i, y, y_stride, r, end, scratch);
          break;
        case 2:
          stream<kCode, kGroup, 2>(w, x, map, i, y, y_stride, r, end, scratch);
          break;
        case 3:
          stream<kCode, kGroup, 3>(w, x, map, i, y, y_stride, r, end, scratch);
          break;
        default:
          stream<kCode, kGroup, 4>(w, x, map, i, y, y_stride, r, end, scratch);
      }
    }
  }
}

template <int kCode, int kGroup>
void int8_group(const Planes& w, const QuantizedRows& x, const RowMap& map, float* y,
                int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  if (map.count > kStreamRows<kCode>)
    blocked<kCode, kGroup>(w, x, map, y, y_stride, row_begin, row_end, scratch);
  else
    stream_all<kCode, kGroup>(w, x, map, y, y_stride, row_begin, row_end, scratch);
}

template <int kBits>
void int8_bits(const Planes& w, const QuantizedRows& x, const RowMap& map, float* y,
               int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  switch (w.group) {
    case 32:
      return int8_group<kBits, 32>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    case 64:
      return int8_group<kBits, 64>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    default:
      return int8_group<kBits, 128>(w, x, map, y, y_stride, row_begin, row_end, scratch);
  }
}

inline void int8(const MatrixView& view, const QuantizedRows& x, const RowMap& map, float* y,
                 int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  check_int8(view, x, row_begin, row_end);
  if (map.count <= 0) return;
  const Planes w = planes_of(view);
  if (w.kind == Format::Kind::kMxfp4)
    return int8_group<kE2m1, 32>(w, x, map, y, y_stride, row_begin, row_end, scratch);
  if (w.kind == Format::Kind::kNvfp4)
    return int8_group<kE2m1, 16>(w, x, map, y, y_stride, row_begin, row_end, scratch);
  switch (w.bits) {
    case 1:
      return int8_bits<1>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    case 2:
      return int8_bits<2>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    case 3:
      return int8_bits<3>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    case 4:
      return int8_bits<4>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    case 5:
      return int8_bits<5>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    case 6:
      return int8_bits<6>(w, x, map, y, y_stride, row_begin, row_end, scratch);
    default:
      return int8_bits<8>(w, x, map, y, y_stride, row_begin, row_end, scratch);
  }
}

}  // namespace
}  // namespace decant::cpu::detail
