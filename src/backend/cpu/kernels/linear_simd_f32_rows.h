#pragma once

#include "backend/cpu/kernels/linear_simd_base.h"

// Float32 products straight from the weights: those whose elements take a few instructions to widen
// are widened again for every few rows of x. Sixteen lanes per output, whatever the width of a
// register, as in linear_simd_f32.h.

namespace decant::cpu::detail {
namespace {

/// The sum of sixteen lanes: those 8, 4, 2 and 1 apart.
inline float fold_lanes(const float* lanes) {
  const __m256 eight = _mm256_add_ps(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + 8));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#if defined(__AVX512VNNI__)
using HalfVec = __m256i;  // kLanes of 16 bits
inline HalfVec load_halves(const uint8_t* p) { return load256(p); }
inline HalfVec widen_bytes(const uint8_t* p) { return _mm256_cvtepi8_epi16(load128(p)); }
inline HalfVec broadcast_half(int v) { return _mm256_set1_epi16(static_cast<int16_t>(v)); }
inline HalfVec shift_left_halves(HalfVec v, int count) { return _mm256_slli_epi16(v, count); }
inline HalfVec and_halves(HalfVec a, HalfVec b) { return _mm256_and_si256(a, b); }
inline HalfVec or_halves(HalfVec a, HalfVec b) { return _mm256_or_si256(a, b); }
inline HalfVec equal_halves(HalfVec a, HalfVec b) { return _mm256_cmpeq_epi16(a, b); }
inline FloatVec from_f16(HalfVec v) { return _mm512_cvtph_ps(v); }
inline FloatVec from_bf16(HalfVec v) {
  return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
#else
using HalfVec = __m128i;
inline HalfVec load_halves(const uint8_t* p) { return load128(p); }
inline HalfVec widen_bytes(const uint8_t* p) {
  return _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline HalfVec broadcast_half(int v) { return _mm_set1_epi16(static_cast<int16_t>(v)); }
inline HalfVec shift_left_halves(HalfVec v, int count) { return _mm_slli_epi16(v, count); }
inline HalfVec and_halves(HalfVec a, HalfVec b) { return _mm_and_si128(a, b); }
inline HalfVec or_halves(HalfVec a, HalfVec b) { return _mm_or_si128(a, b); }
inline HalfVec equal_halves(HalfVec a, HalfVec b) { return _mm_cmpeq_epi16(a, b); }
inline FloatVec from_f16(HalfVec v) { return _mm256_cvtph_ps(v); }
inline FloatVec from_bf16(HalfVec v) { return widen_bf16(v); }
#endif

/// A row of dense weights. `at` gives the elements of kLanes columns from c on.
template <DType kType>
struct DenseRow {
  static constexpr int64_t kSize = kType == DType::kF32 ? 4 : 2;
  static constexpr int64_t kScaleCols = 0;
  const uint8_t* data;

  DenseRow(const Planes& w, int64_t row) : data(w.data + row * w.row_bytes) {}
  FloatVec at(int64_t c) const { return of(data + c * kSize); }
  static FloatVec of(const uint8_t* p) {
    if constexpr (kType == DType::kF32)
      return load_float_vec(reinterpret_cast<const float*>(p));
    else if constexpr (kType == DType::kF16)
      return from_f16(load_halves(p));
    else
      return from_bf16(load_halves(p));
  }
  /// Columns [whole, whole + rest), then zeros, as sixteen elements.
  void pad(int64_t whole, int64_t rest, uint8_t (&to)[16 * kSize]) const {
    std::memset(to, 0, sizeof(to));
    std::memcpy(to, data + whole * kSize, static_cast<size_t>(rest * kSize));
  }
};

/// A row of mxfp8 weights: elements and scales as decode_micro has them. kAny: whatever the codes
/// are. Otherwise by way of elements 2^8 too small and scales as much too large, which is exact and
/// quick, but only for rows of which mxfp8_is_plain() holds.
template <bool kAny>
struct Mxfp8Row {
  static constexpr int64_t kSize = 1;
  static constexpr int64_t kScaleCols = 512;  // whose scales are decoded at a time
  const uint8_t* data;
  const uint8_t* codes;  // of the scales
  float scales[kScaleCols / 32];

  Mxfp8Row(const Planes& w, int64_t row)
      : data(w.data + row * w.row_bytes), codes(w.scales + row * w.scale_row_bytes) {}
  void decode_scales(int64_t c, int64_t cols) {
    uint8_t some[16] = {};
    const int64_t count = smaller(16, (cols - c) / 32);
    std::memcpy(some, codes + c / 32, static_cast<size_t>(count));
    for (int half = 0; half < 2; ++half) {
      const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(some + 8 * half));
      const __m256i larger = _mm256_add_epi32(_mm256_cvtepu8_epi32(eight), _mm256_set1_epi32(8));
      _mm256_storeu_ps(scales + 8 * half, kAny
                                              ? widen_e8m0(eight)
                                              : _mm256_castsi256_ps(_mm256_slli_epi32(larger, 23)));
    }
  }
  FloatVec at(int64_t c) const {
    const FloatVec scale = broadcast_float(scales[c % kScaleCols / 32]);
    const HalfVec v = widen_bytes(data + c);
    if constexpr (kAny) {
      const HalfVec magnitude = and_halves(v, broadcast_half(0x7F));
      const HalfVec nan =
          and_halves(equal_halves(magnitude, broadcast_half(0x7F)), broadcast_half(0x7E00));
      const HalfVec sign = and_halves(v, broadcast_half(-0x8000));
      const HalfVec half = or_halves(or_halves(shift_left_halves(magnitude, 7), nan), sign);
      return mul_vec(mul_vec(from_f16(half), broadcast_float(256.0f)), scale);
    } else {
      // Sign extension leaves a copy of the sign below it.
      return mul_vec(from_f16(and_halves(shift_left_halves(v, 7), broadcast_half(-0x4001))), scale);
    }
  }
};

/// Whether rows [begin, end) hold neither a NaN nor a scale too large for elements 2^8 too small.
inline bool mxfp8_is_plain(const Planes& w, int64_t begin, int64_t end) {
  constexpr int kMostScale = 246;
  const uint8_t* data = w.data + begin * w.row_bytes;
  const int64_t bytes = (end - begin) * w.row_bytes;  // whole words
  IntVec most = zero_int();
  for (int64_t i = 0; i < bytes; i += kVecBytes)
    most = most_u8(most, and_vec(load_words(data + i, (bytes - i) / 4), broadcast_byte(0x7F)));
  const uint8_t* scales = w.scales + begin * w.scale_row_bytes;
  const int64_t codes = (end - begin) * w.scale_row_bytes;
  IntVec most_scale = zero_int();
  int64_t i = 0;
  for (; i + kVecBytes <= codes; i += kVecBytes)
    most_scale = most_u8(most_scale, load_int(scales + i));
  for (; i < codes; ++i) most_scale = most_u8(most_scale, broadcast_byte(scales[i]));
  return !any_equal_8(most, broadcast_byte(0x7F)) &&
         !any_equal_8(most_u8(most_scale, broadcast_byte(kMostScale + 1)), most_scale);
}

constexpr int kRowsW = 4;              // rows of weights at a time
constexpr int kRowsX = kVnni ? 6 : 3;  // rows of x whose sums fill the registers beside them

/// Rows [r0, r0 + kRowsW) of the weights times kX rows of x. The first of the passes over them asks
/// for the rows after them. Never inlined: in a larger function GCC spills the sums.
template <class Row, int kX>
[[gnu::noinline]] void rows_tile(const Planes& w, const float* const* x, float* const* y,
                                 int64_t r0, int64_t row_end, bool ahead) {
  constexpr int64_t kLine = 64 / Row::kSize;  // columns of a cache line
  // One row of x leaves room for all sixteen lanes in AVX2's registers; more take them in turn.
  constexpr int kAtOnce = kX == 1 ? 16 / kLanes : 1;
  const int64_t whole = w.cols / 16 * 16;
  Row rows[kRowsW] = {{w, r0},
                      {w, smaller(r0 + 1, row_end - 1)},
                      {w, smaller(r0 + 2, row_end - 1)},
                      {w, smaller(r0 + 3, row_end - 1)}};
  alignas(64) float lanes[kX][kRowsW][16];
  for (int64_t part = 0; part < 16; part += int64_t{kAtOnce} * kLanes) {
    FloatVec acc[kRowsW][kX][kAtOnce];
    for (auto& sums : acc)
      for (auto& of_x : sums)
        for (FloatVec& sum : of_x) sum = broadcast_float(0.0f);
    const auto enter = [&](int64_t c) {
      if constexpr (Row::kScaleCols != 0) {
        if (c % Row::kScaleCols != 0) return;
        for (Row& row : rows) row.decode_scales(c, w.cols);
        if (ahead) prefetch(rows[0].codes + kRowsW * (w.scale_row_bytes + c / 32));
      }
    };
    const auto step = [&](int64_t c) {
      for (int h = 0; h < kAtOnce; ++h) {
        FloatVec in[kX];
        for (int i = 0; i < kX; ++i) {
          in[i] = load_float_vec(x[i] + c + h * kLanes);
          pin(in[i]);
        }
        for (int r = 0; r < kRowsW; ++r) {
          const FloatVec element = rows[r].at(c + h * kLanes);
          for (int i = 0; i < kX; ++i) acc[r][i][h] = fma_vec(element, in[i], acc[r][i][h]);
        }
      }
    };
    // In the order of their addresses: see stream() of the int8 product.
    const uint8_t* next = rows[0].data + kRowsW * w.row_bytes;
    int64_t c = 0;
    for (; c + kLine <= whole; c += kLine) {
      if (ahead && part == 0) {
        for (int r = 0; r < kRowsW; ++r) prefetch(next + r * 64);
        next += kRowsW * 64;
      }
      enter(c);
      for (int64_t k = c; k < c + kLine; k += 16) step(k + part);
    }
    for (; c < whole; c += 16) {
      enter(c);
      step(c + part);
    }
    if constexpr (Row::kScaleCols == 0) {
      if (const int64_t rest = w.cols - whole; rest != 0) {
        for (int r = 0; r < kRowsW; ++r) {
          alignas(64) uint8_t padded[16 * Row::kSize];
          rows[r].pad(whole, rest, padded);
          for (int h = 0; h < kAtOnce; ++h) {
            const int64_t at = part + h * kLanes;
            const FloatVec element = Row::of(padded + at * Row::kSize);
            for (int i = 0; i < kX; ++i)
              acc[r][i][h] =
                  fma_vec(element, load_float_vec(x[i] + whole + at, rest - at), acc[r][i][h]);
          }
        }
      }
    }
    for (int i = 0; i < kX; ++i)
      for (int r = 0; r < kRowsW; ++r)
        for (int h = 0; h < kAtOnce; ++h)
          store_float_vec(lanes[i][r] + part + h * kLanes, acc[r][i][h]);
  }
  for (int i = 0; i < kX; ++i)
    for (int r = 0; r < kRowsW && r0 + r < row_end; ++r) y[i][r0 + r] = fold_lanes(lanes[i][r]);
}

/// rows_tile() of `live` rows of x, at most kX.
template <class Row, int kX = kRowsX>
void rows_pass(int64_t live, const Planes& w, const float* const* x, float* const* y, int64_t r0,
               int64_t row_end, bool ahead) {
  if constexpr (kX > 1) {
    if (live < kX) return rows_pass<Row, kX - 1>(live, w, x, y, r0, row_end, ahead);
  }
  rows_tile<Row, kX>(w, x, y, r0, row_end, ahead);
}

/// Rows of x that one sweep over the weights takes, so that they stay in the cache.
inline int64_t rows_slice(int64_t cols) {
  constexpr int64_t kBytes = 1 << 20;
  const int64_t passes = kBytes / (cols * int64_t{sizeof(float)} * kRowsX);
  return (passes < 2 ? 2 : passes) * kRowsX;
}

/// pass(live, x, y, r0, ahead) for kRowsW rows of weights from r0 on and every few rows of x.
template <class Pass>
void sweep_rows(int64_t cols, const float* x, int64_t x_stride, const RowMap& map, float* y,
                int64_t y_stride, int64_t row_begin, int64_t row_end, const Pass& pass) {
  const int64_t most = rows_slice(cols);
  for (int64_t first = 0; first < map.count; first += most) {
    const int64_t end = smaller(first + most, map.count);
    const int64_t passes = (end - first + kRowsX - 1) / kRowsX;
    const int64_t each = (end - first + passes - 1) / passes;
    for (int64_t r0 = row_begin; r0 < row_end; r0 += kRowsW)
      for (int64_t i = first; i < end; i += each) {
        const int64_t live = smaller(each, end - i);
        const float* in[kRowsX];
        float* out[kRowsX];
        for (int64_t k = 0; k < live; ++k) {
          in[k] = x + (map.x_rows != nullptr ? map.x_rows[i + k] : i + k) * x_stride;
          out[k] = y + (map.y_rows != nullptr ? map.y_rows[i + k] : i + k) * y_stride;
        }
        pass(live, in, out, r0, i == first);
      }
  }
}

template <DType kType>
void dense_rows(const Planes& w, const float* x, int64_t x_stride, const RowMap& map, float* y,
                int64_t y_stride, int64_t row_begin, int64_t row_end) {
  sweep_rows(w.cols, x, x_stride, map, y, y_stride, row_begin, row_end,
             [&](int64_t live, const float* const* in, float* const* out, int64_t r0, bool ahead) {
               rows_pass<DenseRow<kType>>(live, w, in, out, r0, row_end, ahead);
             });
}

inline void mxfp8_rows(const Planes& w, const float* x, int64_t x_stride, const RowMap& map,
                       float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) {
  bool plain = false;
  sweep_rows(w.cols, x, x_stride, map, y, y_stride, row_begin, row_end,
             [&](int64_t live, const float* const* in, float* const* out, int64_t r0, bool ahead) {
               if (ahead) plain = mxfp8_is_plain(w, r0, smaller(r0 + kRowsW, row_end));
               if (plain)
                 rows_pass<Mxfp8Row<false>>(live, w, in, out, r0, row_end, ahead);
               else
                 rows_pass<Mxfp8Row<true>>(live, w, in, out, r0, row_end, ahead);
             });
}

}  // namespace
}  // namespace decant::cpu::detail
