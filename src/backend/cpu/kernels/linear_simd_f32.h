#pragma once

#include <algorithm>
#include <bit>

#include "backend/cpu/kernels/linear_simd_base.h"

// The float32 products: sixteen lanes per output, whatever the width of a register.

namespace decant::cpu::detail {
namespace {

/// Sixteen E4M3 codes as halves of 2^-8 of their value: see widen_e4m3.
inline __m256i half_e4m3(const uint8_t* p) {
  const __m256i v = _mm256_cvtepi8_epi16(load128(p));
  const __m256i magnitude = _mm256_and_si256(v, _mm256_set1_epi16(0x7F));
  const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F)),
                                       _mm256_set1_epi16(0x4180));
  const __m256i sign = _mm256_and_si256(v, _mm256_set1_epi16(-0x8000));
  return _mm256_or_si256(_mm256_xor_si256(_mm256_slli_epi16(magnitude, 7), nan), sign);
}

/// The same in three instructions, but for NaN, which becomes that of 480.
inline __m256i half_number_e4m3(const uint8_t* p) {
  // Sign extension leaves a copy of the sign below it.
  return _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(load128(p)), 7),
                          _mm256_set1_epi16(-0x4001));
}

/// Sixteen floats.
#if defined(__AVX512VNNI__)
struct Lanes {
  __m512 v;
};
inline Lanes lanes_zero() { return {_mm512_setzero_ps()}; }
inline Lanes lanes_load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Lanes lanes_load(const float* p, int64_t count) { return {load_float_vec(p, count)}; }
inline void lanes_store(float* p, Lanes a) { _mm512_storeu_ps(p, a.v); }
inline Lanes lanes_fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Lanes lanes_widen_bf16(const uint8_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(p)), 16))};
}
inline Lanes lanes_widen_f16(const uint8_t* p) { return {_mm512_cvtph_ps(load256(p))}; }
inline Lanes lanes_set(float v) { return {_mm512_set1_ps(v)}; }
inline Lanes lanes_mul(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes lanes_widen_halves(__m256i v) { return {_mm512_cvtph_ps(v)}; }
inline __m256 lanes_half_sum(Lanes a) {
  return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}
constexpr int kDotW = 4;
constexpr int kDotX = 4;
#else
struct Lanes {
  __m256 low;
  __m256 high;
};
inline Lanes lanes_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes lanes_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes lanes_load(const float* p, int64_t count) {
  return {load_float_vec(p, count), load_float_vec(p + 8, count - 8)};
}
inline void lanes_store(float* p, Lanes a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline Lanes lanes_fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Lanes lanes_widen_bf16(const uint8_t* p) {
  return {widen_bf16(load128(p)), widen_bf16(load128(p + 16))};
}
inline Lanes lanes_widen_f16(const uint8_t* p) {
  return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 16))};
}
inline Lanes lanes_set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
inline Lanes lanes_mul(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Lanes lanes_widen_halves(__m256i v) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
}
inline __m256 lanes_half_sum(Lanes a) { return _mm256_add_ps(a.low, a.high); }
constexpr int kDotW = 4;
constexpr int kDotX = 3;
#endif

/// Lanes 8, 4, 2 and 1 apart.
inline float fold_lanes(Lanes a) {
  const __m256 eight = lanes_half_sum(a);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/// Sixteen elements of a dense row of type kType.
template <DType kType>
inline Lanes lanes_widen(const uint8_t* p) {
  if constexpr (kType == DType::kF32) {
    return lanes_load(reinterpret_cast<const float*>(p));
  } else if constexpr (kType == DType::kF16) {
    return lanes_widen_f16(p);
  } else {
    return lanes_widen_bf16(p);
  }
}

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

/// One row of x and dense weights: four weight rows at a time, straight from where they lie.
template <DType kType>
void stream_dense(const Planes& w, const float* x, float* y, int64_t row_begin, int64_t row_end) {
  constexpr int kRows = 4;
  constexpr int64_t kSize = kType == DType::kF32 ? 4 : 2;
  const int64_t whole = w.cols / 16 * 16;
  const int64_t rest = w.cols - whole;
  for (int64_t r0 = row_begin; r0 < row_end; r0 += kRows) {
    const uint8_t* p[kRows];
    Lanes acc[kRows];
    for (int r = 0; r < kRows; ++r) {
      p[r] = w.data + smaller(r0 + r, row_end - 1) * w.row_bytes;
      acc[r] = lanes_zero();
    }
    // The next rows, in the order of their addresses: see stream() of the int8 product.
    const uint8_t* next = p[0] + kRows * w.row_bytes;
    constexpr int64_t kLine = 64 / kSize;  // columns of a cache line
    int64_t c = 0;
    for (; c + kLine <= whole; c += kLine) {
      for (int r = 0; r < kRows; ++r)
        _mm_prefetch(reinterpret_cast<const char*>(next + r * 64), _MM_HINT_T1);
      next += kRows * 64;
      for (int64_t k = c; k < c + kLine; k += 16) {
        const Lanes in = lanes_load(x + k);
        for (int r = 0; r < kRows; ++r)
          acc[r] = lanes_fma(lanes_widen<kType>(p[r] + k * kSize), in, acc[r]);
      }
    }
    for (; c < whole; c += 16) {
      const Lanes in = lanes_load(x + c);
      for (int r = 0; r < kRows; ++r)
        acc[r] = lanes_fma(lanes_widen<kType>(p[r] + c * kSize), in, acc[r]);
    }
    if (rest != 0) {
      const Lanes in = lanes_load(x + whole, rest);
      for (int r = 0; r < kRows; ++r) {
        alignas(64) uint8_t padded[16 * kSize] = {};
        std::memcpy(padded, p[r] + whole * kSize, static_cast<size_t>(rest * kSize));
        acc[r] = lanes_fma(lanes_widen<kType>(padded), in, acc[r]);
      }
    }
    for (int r = 0; r < kRows && r0 + r < row_end; ++r) y[r0 + r] = fold_lanes(acc[r]);
  }
}

/// Four rows of mxfp8 weights times one row of x: elements and scales are decoded as decode_micro
/// does, on the way to the sums. kAny: whatever the codes are. Otherwise by way of elements 2^8 too
/// small and scales as much too large, which is exact and quick; false where an element is NaN or a
/// scale too large for that, and the sums are of no use.
template <bool kAny>
bool dot_mxfp8(const uint8_t* const* rows, const uint8_t* const* scales, const float* x,
               int64_t cols, int64_t row_bytes, int64_t scale_row_bytes, Lanes* acc) {
  constexpr int kRows = 4;
  constexpr uint8_t kMostScale = 246;
  const uint8_t* next = rows[0] + kRows * row_bytes;
  const uint8_t* next_scales = scales[0] + kRows * scale_row_bytes;
  uint8_t most = 0;
  __m256i nan = _mm256_setzero_si256();
  for (int64_t c = 0; c < cols; c += 32) {
    for (int at = 0; at < kRows * 32; at += 64)
      _mm_prefetch(reinterpret_cast<const char*>(next + at), _MM_HINT_T1);
    next += kRows * 32;
    if (c % 512 == 0) {
      _mm_prefetch(reinterpret_cast<const char*>(next_scales), _MM_HINT_T1);
      next_scales += kRows * 16;
    }
    for (int r = 0; r < kRows; ++r) {
      const uint8_t code = scales[r][c / 32];
      if constexpr (kAny) {
        const Lanes scale = lanes_set(e8m0_scalar(code));
        for (int64_t k = c; k < c + 32; k += 16) {
          const Lanes element =
              lanes_mul(lanes_widen_halves(half_e4m3(rows[r] + k)), lanes_set(256.0f));
          acc[r] = lanes_fma(lanes_mul(element, scale), lanes_load(x + k), acc[r]);
        }
      } else {
        const auto codes = load256(rows[r] + c);
        const auto all = _mm256_set1_epi8(-1);
        const auto magnitude = _mm256_or_si256(codes, _mm256_set1_epi8(-0x80));
        nan = _mm256_or_si256(nan, _mm256_cmpeq_epi8(magnitude, all));
        most = code > most ? code : most;
        const Lanes scale = lanes_set(std::bit_cast<float>((uint32_t{code} + 8) << 23));
        for (int64_t k = c; k < c + 32; k += 16)
          acc[r] = lanes_fma(lanes_mul(lanes_widen_halves(half_number_e4m3(rows[r] + k)), scale),
                             lanes_load(x + k), acc[r]);
      }
    }
  }
  return most <= kMostScale && _mm256_testz_si256(nan, nan) != 0;
}

/// One row of x and mxfp8 weights: four weight rows at a time.
inline void stream_mxfp8(const Planes& w, const float* x, float* y, int64_t row_begin,
                         int64_t row_end) {
  constexpr int kRows = 4;
  for (int64_t r0 = row_begin; r0 < row_end; r0 += kRows) {
    const uint8_t* p[kRows];
    const uint8_t* s[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = smaller(r0 + r, row_end - 1);
      p[r] = w.data + row * w.row_bytes;
      s[r] = w.scales + row * w.scale_row_bytes;
    }
    Lanes acc[kRows];
    std::fill_n(acc, kRows, lanes_zero());
    if (!dot_mxfp8<false>(p, s, x, w.cols, w.row_bytes, w.scale_row_bytes, acc)) {
      std::fill_n(acc, kRows, lanes_zero());
      dot_mxfp8<true>(p, s, x, w.cols, w.row_bytes, w.scale_row_bytes, acc);
    }
    for (int r = 0; r < kRows && r0 + r < row_end; ++r) y[r0 + r] = fold_lanes(acc[r]);
  }
}

constexpr int64_t kDotCols = 256;  // columns of a decoded panel
constexpr int64_t kDotRows = 16;   // its rows
constexpr int64_t kDotSlice = 48;  // rows of x whose lanes are kept between panels

/// lanes[r * kDotSlice + i] += panel row r times row i of x, over `cols` columns. Lanes pass
/// through in parts of one register, so that the sums, kX of x and one of the panel fill the
/// register file.
template <int kW, int kX>
inline void dot_tile(const float* panel, int64_t cols, const float* const* x, bool first,
                     float* lanes) {
  constexpr int64_t kStep = kLanes;
  const int64_t whole = cols / 16 * 16;
  for (int64_t part = 0; part < 16; part += kStep) {
    FloatVec acc[kW][kX];
    for (int r = 0; r < kW; ++r)
      for (int i = 0; i < kX; ++i)
        acc[r][i] =
            first ? broadcast_float(0.0f) : load_float_vec(lanes + (r * kDotSlice + i) * 16 + part);
    for (int64_t c = part; c < whole; c += 16) {
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
    // The panel goes on with zeros, x does not.
    if (const int64_t rest = smaller(cols - whole - part, kStep); rest > 0) {
      const int64_t c = whole + part;
      for (int i = 0; i < kX; ++i) {
        const FloatVec in = load_float_vec(x[i] + c, rest);
        for (int r = 0; r < kW; ++r)
          acc[r][i] = fma_vec(load_float_vec(panel + r * kDotCols + c), in, acc[r][i]);
      }
    }
    for (int r = 0; r < kW; ++r)
      for (int i = 0; i < kX; ++i)
        store_float_vec(lanes + (r * kDotSlice + i) * 16 + part, acc[r][i]);
  }
}

template <int kX>
inline void dot_rows(const float* panel, int64_t rows, int64_t cols, const float* const* x,
                     bool first, float* lanes) {
  int64_t r = 0;
  for (; r + kDotW <= rows; r += kDotW)
    dot_tile<kDotW, kX>(panel + r * kDotCols, cols, x, first, lanes + r * kDotSlice * 16);
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
        for (int64_t r = 0; r < rows; ++r) {
          float* to = panel + r * kDotCols;
          decode_span(w, r0 + r, c0, cols, to);
          for (int64_t c = cols; c % 16 != 0; ++c) to[c] = 0;
        }
        for (int64_t i = 0; i < slice; i += kDotX) {
          const int live = static_cast<int>(smaller(kDotX, slice - i));
          const float* in[kDotX];
          for (int k = 0; k < live; ++k) {
            const int64_t n = first + i + k;
            in[k] = x + (map.x_rows != nullptr ? map.x_rows[n] : n) * x_stride + c0;
          }
          float* at = lanes + i * 16;
          const bool start = c0 == 0;
          if (live == kDotX) {
            dot_rows<kDotX>(panel, rows, cols, in, start, at);
          } else {
            for (int k = 0; k < live; ++k)
              dot_rows<1>(panel, rows, cols, in + k, start, at + k * 16);
          }
        }
      }
      for (int64_t i = 0; i < slice; ++i) {
        const int64_t n = first + i;
        float* out = y + (map.y_rows != nullptr ? map.y_rows[n] : n) * y_stride + r0;
        for (int64_t r = 0; r < rows; ++r)
          out[r] = fold_lanes(lanes_load(lanes + (r * kDotSlice + i) * 16));
      }
    }
  }
}

inline void f32(const MatrixView& view, const float* x, int64_t x_stride, const RowMap& map,
                float* y, int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  check_f32(view, row_begin, row_end);
  const Planes w = planes_of(view);
  const bool mxfp8 = w.kind == Format::Kind::kMxfp8;
  if (map.count != 1 || (w.group != 0 && !mxfp8))
    return blocked_f32(w, x, x_stride, map, y, y_stride, row_begin, row_end, scratch);
  if (map.x_rows != nullptr) x += map.x_rows[0] * x_stride;
  if (map.y_rows != nullptr) y += map.y_rows[0] * y_stride;
  if (mxfp8) return stream_mxfp8(w, x, y, row_begin, row_end);
  if (w.dtype == DType::kF32) return stream_dense<DType::kF32>(w, x, y, row_begin, row_end);
  if (w.dtype == DType::kF16) return stream_dense<DType::kF16>(w, x, y, row_begin, row_end);
  return stream_dense<DType::kBF16>(w, x, y, row_begin, row_end);
}

inline void decode_row(const MatrixView& view, int64_t row, float* out) {
  check_f32(view, row, row + 1);
  decode_span(planes_of(view), row, 0, view.cols, out);
}

}  // namespace
}  // namespace decant::cpu::detail
