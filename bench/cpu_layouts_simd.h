#pragma once

#include "backend/cpu/kernels/linear_simd_base.h"
#include "cpu_layouts.h"

// Compiled once per instruction set; see linear_simd_base.h for the rules.

namespace decant::cpu::detail {
namespace {

constexpr int kVecs = 16 / kLanes;  // vectors for the 16 rows of a block

inline FloatVec widen_vec(const uint8_t* p) {
#if defined(__AVX512VNNI__)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(p)), 16));
#else
  return widen_bf16(load128(p));
#endif
}

/// Sums of 32 columns; x as broadcast words.
template <int kBits, int kX>
inline void group_of_x(const uint8_t* codes, const int8_t* const* x, IntVec (*sum)[kVecs]) {
#if defined(__AVX512VNNI__)
  for (int i = 0; i < kX; ++i) {
    sum[i][0] = _mm512_setzero_si512();
    if constexpr (kBits == 8)
      for (int q = 0; q < 8; ++q)
        sum[i][0] =
            _mm512_dpbusd_epi32(sum[i][0], _mm512_set1_epi8(-128), broadcast_int(x[i] + q * 4));
    if constexpr (kBits == 8) sum[i][0] = _mm512_sub_epi32(_mm512_setzero_si512(), sum[i][0]);
  }
  if constexpr (kBits == 4) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int q = 0; q < 4; ++q) {
      const __m512i v = load_int(codes + q * 64);
      const __m512i low = _mm512_and_si512(v, mask);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
      for (int i = 0; i < kX; ++i) {
        sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], low, broadcast_int(x[i] + q * 8));
        sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], high, broadcast_int(x[i] + q * 8 + 4));
      }
    }
  } else {
    for (int q = 0; q < 8; ++q) {
      const __m512i v = load_int(codes + q * 64);
      for (int i = 0; i < kX; ++i)
        sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], v, broadcast_int(x[i] + q * 4));
    }
  }
#else
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (kBits == 4) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (int q = 0; q < 4; ++q) {
      for (int n = 0; n < kVecs; ++n) {
        const __m256i v = load_int(codes + q * 64 + n * 32);
        const __m256i low = _mm256_and_si256(v, mask);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
        for (int i = 0; i < kX; ++i) {
          const __m256i a = _mm256_maddubs_epi16(low, broadcast_int(x[i] + q * 8));
          const __m256i b = _mm256_maddubs_epi16(high, broadcast_int(x[i] + q * 8 + 4));
          const __m256i both = _mm256_add_epi16(a, b);
          sum[i][n] = q == 0 ? both : _mm256_add_epi16(sum[i][n], both);
        }
      }
    }
    for (int i = 0; i < kX; ++i)
      for (int n = 0; n < kVecs; ++n) sum[i][n] = _mm256_madd_epi16(sum[i][n], ones);
  } else {
    for (int q = 0; q < 8; ++q) {
      for (int n = 0; n < kVecs; ++n) {
        const __m256i code =
            _mm256_xor_si256(load_int(codes + q * 64 + n * 32), _mm256_set1_epi8(-128));
        const __m256i magnitude = _mm256_abs_epi8(code);
        for (int i = 0; i < kX; ++i) {
          const __m256i value = _mm256_sign_epi8(broadcast_int(x[i] + q * 4), code);
          const __m256i d = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, value), ones);
          sum[i][n] = q == 0 ? d : _mm256_add_epi32(sum[i][n], d);
        }
      }
    }
  }
#endif
}

template <int kBits, int kX>
void interleaved_rows(const bench::Interleaved& w, const QuantizedRows& x, int64_t first, float* y,
                      int64_t y_stride, int64_t block) {
  constexpr int64_t kGroupBytes = bench::interleaved_group_bytes(kBits);
  const int64_t groups = w.cols / 64;
  const auto* p = reinterpret_cast<const uint8_t*>(w.data) + block * groups * kGroupBytes;
  FloatVec acc[kX][kVecs];
  for (int i = 0; i < kX; ++i)
    for (int n = 0; n < kVecs; ++n) acc[i][n] = broadcast_float(0.0f);
  for (int64_t g = 0; g < groups; ++g, p += kGroupBytes) {
    FloatVec product[kX][kVecs];
    for (int half = 0; half < 2; ++half) {
      const int8_t* values[kX];
      for (int i = 0; i < kX; ++i) values[i] = x.values + (first + i) * x.cols + g * 64 + half * 32;
      IntVec sum[kX][kVecs];
      group_of_x<kBits, kX>(p + 64 + half * 64 * kBits, values, sum);
      for (int i = 0; i < kX; ++i) {
        const FloatVec s = broadcast_float(x.scales[(first + i) * (x.cols / 32) + g * 2 + half]);
        for (int n = 0; n < kVecs; ++n)
          product[i][n] = half == 0 ? mul_vec(to_float(sum[i][n]), s)
                                    : fma_vec(to_float(sum[i][n]), s, product[i][n]);
      }
    }
    for (int n = 0; n < kVecs; ++n) {
      const FloatVec scale = widen_vec(p + n * kLanes * 2);
      FloatVec bias = widen_vec(p + 32 + n * kLanes * 2);
      if constexpr (kBits == 8) bias = fma_vec(broadcast_float(128.0f), scale, bias);
      for (int i = 0; i < kX; ++i) {
        const float* sums = x.sums + (first + i) * (x.cols / 32) + g * 2;
        acc[i][n] = fma_vec(product[i][n], scale, acc[i][n]);
        acc[i][n] = fma_vec(broadcast_float(sums[0] + sums[1]), bias, acc[i][n]);
      }
    }
  }
  for (int i = 0; i < kX; ++i)
    for (int n = 0; n < kVecs; ++n)
      store_float_vec(y + (first + i) * y_stride + block * 16 + n * kLanes, acc[i][n]);
}

template <int kBits>
void interleaved_bits(const bench::Interleaved& w, const QuantizedRows& x, int64_t count, float* y,
                      int64_t y_stride, int64_t row_begin, int64_t row_end) {
  for (int64_t block = row_begin / 16; block < row_end / 16; ++block) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) interleaved_rows<kBits, 4>(w, x, i, y, y_stride, block);
    for (; i < count; ++i) interleaved_rows<kBits, 1>(w, x, i, y, y_stride, block);
  }
}

inline void interleaved_product(const bench::Interleaved& w, const QuantizedRows& x, int64_t count,
                                float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if (w.bits == 4) return interleaved_bits<4>(w, x, count, y, y_stride, row_begin, row_end);
  return interleaved_bits<8>(w, x, count, y, y_stride, row_begin, row_end);
}

}  // namespace
}  // namespace decant::cpu::detail
