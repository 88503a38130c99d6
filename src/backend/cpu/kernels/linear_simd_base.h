#pragma once

// Shared by linear_avx2.cpp and linear_avx512.cpp only, which are compiled for different
// processors. Everything here is in an anonymous namespace, and nothing inline from another header
// is called: a shared inline function would be kept once by the linker, perhaps with instructions
// the processor lacks.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "backend/cpu/kernels/linear_internal.h"
#include "backend/cpu/kernels/linear_simd_vec.h"
#include "backend/cpu/kernels/unroll.h"

namespace decant::cpu::detail {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

/// Asks for a line as far as the second level of the cache: the first has room for few lines that
/// are still on their way, and waits when it is full.
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

/// The planes of a weight as plain bytes and strides.
struct Planes {
  const uint8_t* data;
  const uint8_t* scales;
  const uint8_t* biases;
  int64_t row_bytes;
  int64_t scale_row_bytes;
  int64_t cols;
  int bits;
  int group;  // columns; 0 for dense
  DType dtype;
  Format::Kind kind;
  float tensor_scale;
};

inline Planes planes_of(const MatrixView& w) {
  Planes out;
  out.data = reinterpret_cast<const uint8_t*>(w.data);
  out.scales = reinterpret_cast<const uint8_t*>(w.scales);
  out.biases = reinterpret_cast<const uint8_t*>(w.biases);
  out.cols = w.cols;
  out.bits = w.format.bits;
  out.group = w.format.group;
  out.dtype = w.format.dtype;
  out.row_bytes = w.cols * out.bits / 8;
  out.kind = w.format.kind;
  out.tensor_scale = w.tensor_scale;
  const bool affine = out.kind == Format::Kind::kAffine;
  const int64_t scale_bytes = !affine ? 1 : out.dtype == DType::kF32 ? 4 : 2;
  out.scale_row_bytes = out.group == 0 ? 0 : w.cols / out.group * scale_bytes;
  return out;
}

/// Element `index` of an f32, f16 or bf16 array at any address.
inline float load_scalar(const uint8_t* p, DType dtype, int64_t index) {
  float out;
  if (dtype == DType::kF32) {
    std::memcpy(&out, p + index * 4, 4);
    return out;
  }
  uint16_t bits;
  std::memcpy(&bits, p + index * 2, 2);
  if (dtype == DType::kF16) return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  std::memcpy(&out, &wide, 4);
  return out;
}

inline __m256 widen_bf16(__m128i v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
inline __m256 widen_half(__m128i v, DType dtype) {
  return dtype == DType::kF16 ? _mm256_cvtph_ps(v) : widen_bf16(v);
}

// --- codes -------------------------------------------------------------------------------------

/// What the codes of a weight are, as a template argument: the width of affine codes, or kE2m1,
/// which is 4 bits wide and taken as twice its value, an integer from -12 to 12.
constexpr int kE2m1 = 9;
constexpr int width_of(int code) { return code == kE2m1 ? 4 : code; }
/// Codes are multiplied as unsigned bytes up to most_of, offset_of above what they mean. (Without
/// VNNI, 8-bit codes are split into magnitude and sign instead.)
constexpr int most_of(int code) { return code == kE2m1 ? 24 : (1 << code) - 1; }
constexpr int offset_of(int code) { return code == kE2m1 ? 12 : code == 8 ? 128 : 0; }

/// The unsigned form of E2M1 codes.
inline __m128i e2m1_table() {
  return _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
}

/// Where unpack() finds the codes of a 1, 2, 3, 5 or 6 bit weight: two codes per 16-bit lane.
struct UnpackTable {
  alignas(32) int8_t bytes[32];
  alignas(32) int16_t shifts[16];
};

/// Offset, from the first byte of 32 codes, of the 8 or 16 bytes that the upper half of the vector
/// is made from. No load passes the end of the 32 codes.
constexpr int upper_offset(int bits) {
  return bits == 1 || bits == 2 ? 0 : bits == 3 ? 4 : 4 * bits - 16;
}

constexpr UnpackTable unpack_table(int bits) {
  UnpackTable table{};
  for (int lane = 0; lane < 16; ++lane) {
    const int bit = lane * 2 * bits;
    const int first = bit / 8 - (lane >= 8 ? upper_offset(bits) : 0);
    const bool straddles = bit % 8 + 2 * bits > 8;
    table.bytes[lane * 2] = static_cast<int8_t>(first);
    table.bytes[lane * 2 + 1] = static_cast<int8_t>(straddles ? first + 1 : -128);
    table.shifts[lane] = static_cast<int16_t>(1u << (16 - 2 * bits - bit % 8));
  }
  return table;
}

template <int kBits>
inline constexpr UnpackTable kUnpackTable = unpack_table(kBits);

/// 32 codes of a row, one a byte, in column order.
template <int kBits>
inline __m256i unpack(const uint8_t* p) {
  if constexpr (kBits == 8) {
    return load256(p);
  } else if constexpr (kBits == kE2m1) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(e2m1_table()), unpack<4>(p));
  } else if constexpr (kBits == 4) {
    const __m256i v = _mm256_cvtepu8_epi16(load128(p));
    return _mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi16(v, 4)), _mm256_set1_epi8(15));
  } else {
    __m256i v;
    if constexpr (kBits == 1) {
      int32_t word;
      std::memcpy(&word, p, 4);
      v = _mm256_set1_epi32(word);
    } else if constexpr (kBits == 2) {
      int64_t word;
      std::memcpy(&word, p, 8);
      v = _mm256_set1_epi64x(word);
    } else if constexpr (kBits == 3) {
      v = _mm256_set_m128i(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 4)),
                           _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    } else {
      v = _mm256_set_m128i(load128(p + upper_offset(kBits)), load128(p));
    }
    constexpr int kMask = (1 << kBits) - 1;
    v = _mm256_shuffle_epi8(v, load256(kUnpackTable<kBits>.bytes));
    v = _mm256_mullo_epi16(v, load256(kUnpackTable<kBits>.shifts));
    v = _mm256_srli_epi16(v, 16 - 2 * kBits);  // code of the odd column above that of the even one
    const __m256i odd = _mm256_slli_epi16(v, 8 - kBits);
    if constexpr (kBits <= 4) {
      return _mm256_and_si256(_mm256_or_si256(v, odd), _mm256_set1_epi8(kMask));
    } else {  // above four bits the shifted even code reaches into the low byte
      return _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi16(kMask)),
                             _mm256_and_si256(odd, _mm256_set1_epi16(kMask << 8)));
    }
  }
}

/// r[i] lane k <-> r[k] lane i, in 32-bit lanes.
inline void transpose8(__m256i* r) {
  const __m256i a0 = _mm256_unpacklo_epi32(r[0], r[1]);
  const __m256i a1 = _mm256_unpackhi_epi32(r[0], r[1]);
  const __m256i a2 = _mm256_unpacklo_epi32(r[2], r[3]);
  const __m256i a3 = _mm256_unpackhi_epi32(r[2], r[3]);
  const __m256i a4 = _mm256_unpacklo_epi32(r[4], r[5]);
  const __m256i a5 = _mm256_unpackhi_epi32(r[4], r[5]);
  const __m256i a6 = _mm256_unpacklo_epi32(r[6], r[7]);
  const __m256i a7 = _mm256_unpackhi_epi32(r[6], r[7]);
  const __m256i b0 = _mm256_unpacklo_epi64(a0, a2);
  const __m256i b1 = _mm256_unpackhi_epi64(a0, a2);
  const __m256i b2 = _mm256_unpacklo_epi64(a1, a3);
  const __m256i b3 = _mm256_unpackhi_epi64(a1, a3);
  const __m256i b4 = _mm256_unpacklo_epi64(a4, a6);
  const __m256i b5 = _mm256_unpackhi_epi64(a4, a6);
  const __m256i b6 = _mm256_unpacklo_epi64(a5, a7);
  const __m256i b7 = _mm256_unpackhi_epi64(a5, a7);
  r[0] = _mm256_permute2x128_si256(b0, b4, 0x20);
  r[1] = _mm256_permute2x128_si256(b1, b5, 0x20);
  r[2] = _mm256_permute2x128_si256(b2, b6, 0x20);
  r[3] = _mm256_permute2x128_si256(b3, b7, 0x20);
  r[4] = _mm256_permute2x128_si256(b0, b4, 0x31);
  r[5] = _mm256_permute2x128_si256(b1, b5, 0x31);
  r[6] = _mm256_permute2x128_si256(b2, b6, 0x31);
  r[7] = _mm256_permute2x128_si256(b3, b7, 0x31);
}

// --- scales ------------------------------------------------------------------------------------

/// One plane of halves of kLanes rows: eight groups from `begin` on, or four: out[g * stride +
/// row].
template <bool kEight>
DECANT_INLINE void decode_halves(const uint8_t* const* rows, DType dtype, int64_t begin, float* out,
                                 int64_t stride) {
  IntVec v[4];  // part k of v[i]: row 4 k + i
  DECANT_UNROLL
  for (int i = 0; i < 4; ++i) {
    __m128i parts[kParts];
    DECANT_UNROLL
    for (int k = 0; k < kParts; ++k) {
      const uint8_t* p = rows[4 * k + i] + begin * 2;
      parts[k] = kEight ? load128(p) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    }
    v[i] = join_parts(parts);
  }
  const IntVec a0 = low_16(v[0], v[1]), a1 = low_16(v[2], v[3]);
  const IntVec b0 = high_16(v[0], v[1]), b1 = high_16(v[2], v[3]);
  // Two groups each: four rows of one, then of the other.
  const IntVec groups[4] = {low_32(a0, a1), high_32(a0, a1), low_32(b0, b1), high_32(b0, b1)};
  DECANT_UNROLL
  for (int i = 0; i < (kEight ? 4 : 2); ++i) {
    FloatVec even, odd;
    if (dtype == DType::kF16) {
      const IntVec sorted = part_64(groups[i]);
      even = lower_halves(sorted);
      odd = upper_halves(sorted);
    } else {
      even = as_float(low_16(zero_int(), groups[i]));
      odd = as_float(high_16(zero_int(), groups[i]));
    }
    store_float_vec(out + 2 * i * stride, even);
    store_float_vec(out + (2 * i + 1) * stride, odd);
  }
}

/// One plane of scales of kLanes rows, groups [begin, begin + count): out[g * stride + row].
inline void decode_plane(const uint8_t* const* rows, DType dtype, int64_t begin, int64_t count,
                         float* out, int64_t stride) {
  int64_t g = 0;
  if (dtype != DType::kF32) {
    for (; g + 8 <= count; g += 8)
      decode_halves<true>(rows, dtype, begin + g, out + g * stride, stride);
    if (g < count && count >= 8) {  // the last eight, some of them again
      g = count - 8;
      return decode_halves<true>(rows, dtype, begin + g, out + g * stride, stride);
    }
    for (; g + 4 <= count; g += 4)
      decode_halves<false>(rows, dtype, begin + g, out + g * stride, stride);
  }
  for (; g < count; ++g)
    for (int r = 0; r < kLanes; ++r) out[g * stride + r] = load_scalar(rows[r], dtype, begin + g);
}

/// Eight E4M3 codes as floats. Shifted into halves they are 2^-8 of their value, subnormals too;
/// only NaN would be a number, and is turned into the NaN of halves.
inline __m256 widen_e4m3(__m128i codes) {  // eight bytes
  const __m128i v = _mm_cvtepi8_epi16(codes);
  const __m128i magnitude = _mm_and_si128(v, _mm_set1_epi16(0x7F));
  const __m128i nan =
      _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7F)), _mm_set1_epi16(0x4180));
  const __m128i sign = _mm_and_si128(v, _mm_set1_epi16(-0x8000));
  const __m128i half = _mm_or_si128(_mm_xor_si128(_mm_slli_epi16(magnitude, 7), nan), sign);
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

/// Eight E8M0 codes as floats; MLX's powers of two: code 0 is 2^-127, code 255 infinity.
inline __m256 widen_e8m0(__m128i codes) {
  const __m256i power = _mm256_slli_epi32(_mm256_cvtepu8_epi32(codes), 23);
  return _mm256_castsi256_ps(_mm256_max_epi32(power, _mm256_set1_epi32(0x00400000)));
}

inline float e8m0_scalar(uint8_t code) {
  const uint32_t bits = code == 0 ? 0x00400000u : static_cast<uint32_t>(code) << 23;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

/// The scale codes of a micro format, as floats.
inline __m256 widen_scales(const Planes& w, __m128i codes) {
  if (w.kind == Format::Kind::kNvfp4)
    return _mm256_mul_ps(widen_e4m3(codes), _mm256_set1_ps(w.tensor_scale));
  return widen_e8m0(codes);
}

/// The scales of a micro format of eight rows, times `factor`: out[g * stride + row].
inline void decode_micro_scales(const Planes& w, const uint8_t* const* rows, int64_t begin,
                                int64_t count, float factor, float* out, int64_t stride) {
  const __m256 times = _mm256_set1_ps(factor);
  for (int64_t g = 0; g < count; g += 8) {
    const int64_t live = smaller(8, count - g);
    __m128i v[8];
    for (int r = 0; r < 8; ++r) {
      uint64_t codes = 0;
      if (live == 8)
        std::memcpy(&codes, rows[r] + begin + g, 8);
      else
        std::memcpy(&codes, rows[r] + begin + g, static_cast<size_t>(live));
      v[r] = _mm_cvtsi64_si128(static_cast<int64_t>(codes));
    }
    __m128i a[4];
    for (int r = 0; r < 4; ++r) a[r] = _mm_unpacklo_epi8(v[2 * r], v[2 * r + 1]);
    const __m128i b[4] = {_mm_unpacklo_epi16(a[0], a[1]), _mm_unpackhi_epi16(a[0], a[1]),
                          _mm_unpacklo_epi16(a[2], a[3]), _mm_unpackhi_epi16(a[2], a[3])};
    // Each holds two groups of eight rows.
    const __m128i c[4] = {_mm_unpacklo_epi32(b[0], b[2]), _mm_unpackhi_epi32(b[0], b[2]),
                          _mm_unpacklo_epi32(b[1], b[3]), _mm_unpackhi_epi32(b[1], b[3])};
    for (int64_t k = 0; k < live; ++k) {
      const __m128i codes = k % 2 == 0 ? c[k / 2] : _mm_unpackhi_epi64(c[k / 2], c[k / 2]);
      _mm256_storeu_ps(out + (g + k) * stride, _mm256_mul_ps(widen_scales(w, codes), times));
    }
  }
}

/// Scales and biases of kLanes rows from `row` on; past the end those of the last one again. 8-bit
/// codes are taken as q - 128, which moves into the bias. E2M1 is taken doubled, so its scales are
/// halved; it has no biases.
inline void decode_scales(const Planes& w, int64_t row, int64_t end, int64_t begin, int64_t count,
                          float* scales, float* biases, int64_t stride) {
  const uint8_t* from[kLanes];
  for (int r = 0; r < kLanes; ++r)
    from[r] = w.scales + smaller(row + r, end - 1) * w.scale_row_bytes;
  if (w.kind != Format::Kind::kAffine) {
    for (int r = 0; r < kLanes; r += 8)
      decode_micro_scales(w, from + r, begin, count, 0.5f, scales + r, stride);
    return;
  }
  decode_plane(from, w.dtype, begin, count, scales, stride);
  for (int r = 0; r < kLanes; ++r)
    from[r] = w.biases + smaller(row + r, end - 1) * w.scale_row_bytes;
  decode_plane(from, w.dtype, begin, count, biases, stride);
  if (w.bits != 8) return;
  for (int64_t g = 0; g < count; ++g) {
    float* bias = biases + g * stride;
    store_float_vec(bias, fma_vec(broadcast_float(128.0f), load_float_vec(scales + g * stride),
                                  load_float_vec(bias)));
  }
}

}  // namespace
}  // namespace decant::cpu::detail
