#pragma once

// Shared by linear_avx2.cpp and linear_avx512.cpp only, which are compiled for different
// processors. Everything here is in an anonymous namespace, and nothing inline from another header
// is called: a shared inline function would be kept once by the linker, perhaps with instructions
// the processor lacks.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "backend/cpu/kernels/unroll.h"

namespace decant::cpu::detail {
namespace {

// The widest vector of the set: one 32-bit lane for each of kLanes weight rows, in kParts parts of
// 128 bits. Shuffles stay within a part unless they say otherwise.
#if defined(__AVX512VNNI__)
constexpr bool kVnni = true;
using IntVec = __m512i;
using FloatVec = __m512;
constexpr int kLanes = 16;
inline IntVec zero_int() { return _mm512_setzero_si512(); }
inline IntVec load_int(const void* p) { return _mm512_loadu_si512(p); }
/// The first `count` words, at most kLanes, then zeros.
inline IntVec load_words(const void* p, int64_t count) {
  const uint32_t live = count >= kLanes ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1;
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(live), p);
}
inline void store_int(void* p, IntVec v) { _mm512_storeu_si512(p, v); }
inline IntVec broadcast_int(const void* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
inline IntVec broadcast_byte(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
inline IntVec broadcast_word(int v) { return _mm512_set1_epi16(static_cast<int16_t>(v)); }
inline IntVec broadcast_part(__m128i v) { return _mm512_broadcast_i32x4(v); }
inline IntVec and_vec(IntVec a, IntVec b) { return _mm512_and_si512(a, b); }
inline IntVec shift_right_16(IntVec v, int count) {
  return _mm512_srli_epi16(v, static_cast<unsigned>(count));
}
inline IntVec look_up(IntVec table, IntVec at) { return _mm512_shuffle_epi8(table, at); }
inline IntVec most_u8(IntVec a, IntVec b) { return _mm512_max_epu8(a, b); }
inline bool any_equal_8(IntVec a, IntVec b) { return _mm512_cmpeq_epi8_mask(a, b) != 0; }
inline IntVec add_32(IntVec a, IntVec b) { return _mm512_add_epi32(a, b); }
inline IntVec sub_32(IntVec a, IntVec b) { return _mm512_sub_epi32(a, b); }
inline IntVec pack_to_8(IntVec a, IntVec b) { return _mm512_packus_epi16(a, b); }
inline IntVec pack_to_16(IntVec a, IntVec b) { return _mm512_packs_epi32(a, b); }
inline IntVec add_pairs_16(IntVec v) { return _mm512_madd_epi16(v, _mm512_set1_epi16(1)); }
inline IntVec low_16(IntVec a, IntVec b) { return _mm512_unpacklo_epi16(a, b); }
inline IntVec high_16(IntVec a, IntVec b) { return _mm512_unpackhi_epi16(a, b); }
inline IntVec low_32(IntVec a, IntVec b) { return _mm512_unpacklo_epi32(a, b); }
inline IntVec high_32(IntVec a, IntVec b) { return _mm512_unpackhi_epi32(a, b); }
inline IntVec low_64(IntVec a, IntVec b) { return _mm512_unpacklo_epi64(a, b); }
inline IntVec high_64(IntVec a, IntVec b) { return _mm512_unpackhi_epi64(a, b); }
/// Even lanes of a, then of b; odd lanes.
inline IntVec even_32(IntVec a, IntVec b) {
  return _mm512_castps_si512(
      _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0x88));
}
inline IntVec odd_32(IntVec a, IntVec b) {
  return _mm512_castps_si512(
      _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0xDD));
}
/// Even 64-bit lanes of the whole vector in its lower half, odd ones in its upper.
inline IntVec part_64(IntVec v) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), v);
}
inline IntVec join_halves(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
/// Part k of the result is parts[k].
inline IntVec join_parts(const __m128i* parts) {
  return join_halves(_mm256_set_m128i(parts[1], parts[0]), _mm256_set_m128i(parts[3], parts[2]));
}
/// Part i of v[k] <-> part k of v[i].
inline void transpose_parts(IntVec* v) {
  const IntVec a = _mm512_shuffle_i32x4(v[0], v[1], 0x88);
  const IntVec b = _mm512_shuffle_i32x4(v[0], v[1], 0xDD);
  const IntVec c = _mm512_shuffle_i32x4(v[2], v[3], 0x88);
  const IntVec d = _mm512_shuffle_i32x4(v[2], v[3], 0xDD);
  v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
  v[1] = _mm512_shuffle_i32x4(b, d, 0x88);
  v[2] = _mm512_shuffle_i32x4(a, c, 0xDD);
  v[3] = _mm512_shuffle_i32x4(b, d, 0xDD);
}
/// Parts 2 j and 2 j + 1 of v[i] added become part i of v[j].
inline void add_parts(IntVec* v) {
  const IntVec a =
      add_32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xDD));
  const IntVec b =
      add_32(_mm512_shuffle_i32x4(v[2], v[3], 0x88), _mm512_shuffle_i32x4(v[2], v[3], 0xDD));
  v[0] = _mm512_shuffle_i32x4(a, b, 0x88);
  v[1] = _mm512_shuffle_i32x4(a, b, 0xDD);
}
inline FloatVec to_float(IntVec v) { return _mm512_cvtepi32_ps(v); }
inline FloatVec as_float(IntVec v) { return _mm512_castsi512_ps(v); }
inline FloatVec lower_halves(IntVec v) { return _mm512_cvtph_ps(_mm512_castsi512_si256(v)); }
inline FloatVec upper_halves(IntVec v) { return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1)); }
inline FloatVec load_float_vec(const float* p) { return _mm512_loadu_ps(p); }
inline void store_float_vec(float* p, FloatVec v) { _mm512_storeu_ps(p, v); }
inline FloatVec broadcast_float(float v) { return _mm512_set1_ps(v); }
inline FloatVec fma_vec(FloatVec a, FloatVec b, FloatVec c) { return _mm512_fmadd_ps(a, b, c); }
inline FloatVec mul_vec(FloatVec a, FloatVec b) { return _mm512_mul_ps(a, b); }
#else
constexpr bool kVnni = false;
using IntVec = __m256i;
using FloatVec = __m256;
constexpr int kLanes = 8;
inline IntVec zero_int() { return _mm256_setzero_si256(); }
inline IntVec load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline IntVec load_words(const void* p, int64_t count) {
  const int live = count >= kLanes ? kLanes : count <= 0 ? 0 : static_cast<int>(count);
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_epi32(static_cast<const int*>(p),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(live), index));
}
inline void store_int(void* p, IntVec v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline IntVec broadcast_int(const void* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
inline IntVec broadcast_byte(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
inline IntVec broadcast_word(int v) { return _mm256_set1_epi16(static_cast<int16_t>(v)); }
inline IntVec broadcast_part(__m128i v) { return _mm256_broadcastsi128_si256(v); }
inline IntVec and_vec(IntVec a, IntVec b) { return _mm256_and_si256(a, b); }
inline IntVec shift_right_16(IntVec v, int count) { return _mm256_srli_epi16(v, count); }
inline IntVec look_up(IntVec table, IntVec at) { return _mm256_shuffle_epi8(table, at); }
inline IntVec most_u8(IntVec a, IntVec b) { return _mm256_max_epu8(a, b); }
inline bool any_equal_8(IntVec a, IntVec b) {
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)) != 0;
}
inline IntVec add_32(IntVec a, IntVec b) { return _mm256_add_epi32(a, b); }
inline IntVec sub_32(IntVec a, IntVec b) { return _mm256_sub_epi32(a, b); }
inline IntVec pack_to_8(IntVec a, IntVec b) { return _mm256_packus_epi16(a, b); }
inline IntVec pack_to_16(IntVec a, IntVec b) { return _mm256_packs_epi32(a, b); }
inline IntVec add_pairs_16(IntVec v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }
inline IntVec low_16(IntVec a, IntVec b) { return _mm256_unpacklo_epi16(a, b); }
inline IntVec high_16(IntVec a, IntVec b) { return _mm256_unpackhi_epi16(a, b); }
inline IntVec low_32(IntVec a, IntVec b) { return _mm256_unpacklo_epi32(a, b); }
inline IntVec high_32(IntVec a, IntVec b) { return _mm256_unpackhi_epi32(a, b); }
inline IntVec low_64(IntVec a, IntVec b) { return _mm256_unpacklo_epi64(a, b); }
inline IntVec high_64(IntVec a, IntVec b) { return _mm256_unpackhi_epi64(a, b); }
inline IntVec even_32(IntVec a, IntVec b) {
  return _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
inline IntVec odd_32(IntVec a, IntVec b) {
  return _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xDD));
}
inline IntVec part_64(IntVec v) { return _mm256_permute4x64_epi64(v, 0xD8); }
inline IntVec join_parts(const __m128i* parts) { return _mm256_set_m128i(parts[1], parts[0]); }
inline void transpose_parts(IntVec* v) {
  const IntVec a = _mm256_permute2x128_si256(v[0], v[1], 0x20);
  v[1] = _mm256_permute2x128_si256(v[0], v[1], 0x31);
  v[0] = a;
}
inline void add_parts(IntVec* v) {
  v[0] = add_32(_mm256_permute2x128_si256(v[0], v[1], 0x20),
                _mm256_permute2x128_si256(v[0], v[1], 0x31));
}
inline FloatVec to_float(IntVec v) { return _mm256_cvtepi32_ps(v); }
inline FloatVec as_float(IntVec v) { return _mm256_castsi256_ps(v); }
inline FloatVec lower_halves(IntVec v) { return _mm256_cvtph_ps(_mm256_castsi256_si128(v)); }
inline FloatVec upper_halves(IntVec v) { return _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)); }
inline FloatVec load_float_vec(const float* p) { return _mm256_loadu_ps(p); }
inline void store_float_vec(float* p, FloatVec v) { _mm256_storeu_ps(p, v); }
inline FloatVec broadcast_float(float v) { return _mm256_set1_ps(v); }
inline FloatVec fma_vec(FloatVec a, FloatVec b, FloatVec c) { return _mm256_fmadd_ps(a, b, c); }
inline FloatVec mul_vec(FloatVec a, FloatVec b) { return _mm256_mul_ps(a, b); }
#endif
constexpr int kParts = kLanes / 4;
constexpr int kVecBytes = 4 * kLanes;

/// The value as it stands, in a register: GCC would load it again for every use, or compute other
/// values of its kind first and spill them.
DECANT_INLINE void pin(IntVec& v) { asm("" : "+v"(v)); }
DECANT_INLINE void pin(FloatVec& v) { asm("" : "+v"(v)); }

inline FloatVec load_float_vec(const float* p, int64_t count) {
  return as_float(load_words(p, count));
}

}  // namespace
}  // namespace decant::cpu::detail
