#pragma once

#include "backend/cpu/kernels/linear_simd_base.h"

// The int8 product for many rows of x. A panel of weight rows by columns is unpacked once into
// scratch, rows interleaved so that one vector holds four neighbouring columns of each of its rows;
// a block of x is laid out so that a tile reads it front to back. The tile kernel multiplies two
// vectors of weight rows by four columns of four rows of x at a time, broadcast.

namespace decant::cpu::detail {
namespace {

constexpr int kTileRows = 2 * kLanes;  // weight rows of one tile
constexpr int kTileX = 4;              // rows of x of one tile
constexpr int64_t kPanelRows = 128;
constexpr int64_t kPanelCols = 512;
constexpr int64_t kPanelGroups = kPanelCols / 32;  // of x
constexpr int64_t kBlockX = 256;                   // rows of x laid out at a time

/// Eight rows of a tile: out is where the first of them goes, `groups` groups of 32 columns.
template <int kCode>
void pack_rows(const uint8_t* const* p, int64_t groups, uint8_t* out) {
  for (int64_t j = 0; j < groups; ++j) {
    const int64_t at = j * 4 * width_of(kCode);
    __m256i v[8];
    for (int r = 0; r < 8; ++r) v[r] = unpack<kCode>(p[r] + at);
    if constexpr (kCode == 8 && !kVnni)
      for (int r = 0; r < 8; ++r) v[r] = _mm256_xor_si256(v[r], _mm256_set1_epi8(-128));
    transpose8(v);
    for (int q = 0; q < 8; ++q) store256(out + (j * 8 + q) * kTileRows * 4, v[q]);
  }
}

/// Four rows of x over the columns of a panel, as a tile reads them.
struct TileInput {
  int8_t* values;   // [group of 32 columns][8][row][4 columns]
  float* scales;    // [group][row]
  float* sums;      // [group of the weight][row]
  int32_t* starts;  // [sum][row]: what an exact sum starts from, for codes with an offset
};

/// True if panels hold codes with an offset, which the sums take back.
constexpr bool has_starts(int code) { return offset_of(code) != 0 && (kVnni || code != 8); }

/// Lays out four rows of x; the last one again for those that are not there (`live` < 4).
template <int kCode, int kGroup>
void pack_x(const QuantizedRows& x, const int64_t* rows, int64_t c0, int64_t groups,
            const TileInput& out) {
  constexpr int kSumCols = kGroup < 32 ? kGroup : 32;
  const int64_t x_groups = x.cols / 32;
  for (int64_t j = 0; j < groups; ++j) {
    __m256i v[kTileX];
    for (int i = 0; i < kTileX; ++i) v[i] = load256(x.values + rows[i] * x.cols + c0 + j * 32);
    if constexpr (has_starts(kCode)) {
      for (int i = 0; i < kTileX; ++i) {
        const int8_t* values = x.values + rows[i] * x.cols + c0 + j * 32;
        for (int part = 0; part < 32 / kSumCols; ++part) {
          int32_t sum = 0;
          for (int c = 0; c < kSumCols; ++c) sum += values[part * kSumCols + c];
          out.starts[(j * 32 / kSumCols + part) * kTileX + i] = -offset_of(kCode) * sum;
        }
      }
    }
    const __m256i a0 = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i a1 = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i a2 = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i a3 = _mm256_unpackhi_epi32(v[2], v[3]);
    const __m256i b[4] = {_mm256_unpacklo_epi64(a0, a2), _mm256_unpackhi_epi64(a0, a2),
                          _mm256_unpacklo_epi64(a1, a3), _mm256_unpackhi_epi64(a1, a3)};
    int8_t* to = out.values + j * 128;
    store256(to, _mm256_permute2x128_si256(b[0], b[1], 0x20));
    store256(to + 32, _mm256_permute2x128_si256(b[2], b[3], 0x20));
    store256(to + 64, _mm256_permute2x128_si256(b[0], b[1], 0x31));
    store256(to + 96, _mm256_permute2x128_si256(b[2], b[3], 0x31));
  }
  for (int i = 0; i < kTileX; ++i) {
    const float* scales = x.scales + rows[i] * x_groups + c0 / 32;
    const float* sums = x.sums + rows[i] * x_groups + c0 / 32;
    for (int64_t j = 0; j < groups; ++j) out.scales[j * kTileX + i] = scales[j];
    if constexpr (kCode != kE2m1) {
      constexpr int kPerGroup = kGroup / 32;
      for (int64_t g = 0; g < groups / kPerGroup; ++g) {
        float sum = sums[g * kPerGroup];
        for (int n = 1; n < kPerGroup; ++n) sum += sums[g * kPerGroup + n];
        out.sums[g * kTileX + i] = sum;
      }
    }
  }
}

/// Sums of kCols columns, the whole or half of group `j` of x, for two vectors of weight rows and
/// four rows of x. `part` counts the sums before it.
///
/// Without VNNI, maddubs and 16-bit sums: a lane gathers two columns per step. Codes up to 15 stay
/// in 16 bits for the whole group, 16 * 15 * 127 = 30480; codes up to 63 for two steps,
/// 4 * 63 * 127 = 32004; 8-bit codes, as q - 128 and split into magnitude and sign, for one step,
/// 2 * 128 * 127 = 32512; E2M1, up to 24, for four steps, 8 * 24 * 127 = 24384.
template <int kCode, int kCols>
DECANT_INLINE void tile_group(const uint8_t* w, const TileInput& x, int64_t part,
                              IntVec (&sums)[kTileX][2]) {
  constexpr int kSteps = kCols / 4;
  const int8_t* values = x.values + part * kCols * kTileX;
#if defined(__AVX512VNNI__)
  DECANT_UNROLL
  for (int i = 0; i < kTileX; ++i)
    sums[i][0] = sums[i][1] =
        has_starts(kCode) ? _mm512_set1_epi32(x.starts[part * kTileX + i]) : _mm512_setzero_si512();
  DECANT_UNROLL
  for (int q = 0; q < kSteps; ++q) {
    const IntVec w0 = load_int(w + q * kTileRows * 4);
    const IntVec w1 = load_int(w + q * kTileRows * 4 + 64);
    DECANT_UNROLL
    for (int i = 0; i < kTileX; ++i) {
      const IntVec v = broadcast_int(values + q * 16 + i * 4);
      sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], w0, v);
      sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], w1, v);
    }
  }
#else
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (kCode == 8) {
    DECANT_UNROLL
    for (int q = 0; q < kSteps; ++q) {
      IntVec w0 = load_int(w + q * kTileRows * 4);
      IntVec w1 = load_int(w + q * kTileRows * 4 + 32);
      IntVec m0 = _mm256_abs_epi8(w0);
      IntVec m1 = _mm256_abs_epi8(w1);
      pin(w0), pin(w1), pin(m0), pin(m1);
      DECANT_UNROLL
      for (int i = 0; i < kTileX; ++i) {
        const IntVec v = broadcast_int(values + q * 16 + i * 4);
        const IntVec a = _mm256_madd_epi16(_mm256_maddubs_epi16(m0, _mm256_sign_epi8(v, w0)), ones);
        const IntVec b = _mm256_madd_epi16(_mm256_maddubs_epi16(m1, _mm256_sign_epi8(v, w1)), ones);
        sums[i][0] = q == 0 ? a : _mm256_add_epi32(sums[i][0], a);
        sums[i][1] = q == 0 ? b : _mm256_add_epi32(sums[i][1], b);
        pin(sums[i][0]), pin(sums[i][1]);
      }
    }
  } else if constexpr (kCode == kE2m1) {
    DECANT_UNROLL
    for (int half = 0; half < kSteps / 4; ++half) {
      IntVec pairs[kTileX][2];
      DECANT_UNROLL
      for (int q = half * 4; q < half * 4 + 4; ++q) {
        IntVec w0 = load_int(w + q * kTileRows * 4);
        IntVec w1 = load_int(w + q * kTileRows * 4 + 32);
        pin(w0), pin(w1);
        DECANT_UNROLL
        for (int i = 0; i < kTileX; ++i) {
          const IntVec v = broadcast_int(values + q * 16 + i * 4);
          const IntVec a = _mm256_maddubs_epi16(w0, v);
          const IntVec b = _mm256_maddubs_epi16(w1, v);
          pairs[i][0] = q == half * 4 ? a : _mm256_add_epi16(pairs[i][0], a);
          pairs[i][1] = q == half * 4 ? b : _mm256_add_epi16(pairs[i][1], b);
          pin(pairs[i][0]), pin(pairs[i][1]);
        }
      }
      DECANT_UNROLL
      for (int i = 0; i < kTileX; ++i) {
        const IntVec before =
            half == 0 ? _mm256_set1_epi32(x.starts[part * kTileX + i]) : _mm256_setzero_si256();
        DECANT_UNROLL
        for (int v = 0; v < 2; ++v)
          sums[i][v] = _mm256_add_epi32(half == 0 ? before : sums[i][v],
                                        _mm256_madd_epi16(pairs[i][v], ones));
      }
    }
  } else if constexpr (kCode > 4) {
    DECANT_UNROLL
    for (int q = 0; q < kSteps; q += 2) {
      const uint8_t* at = w + q * kTileRows * 4;
      DECANT_UNROLL
      for (int half = 0; half < 2; ++half) {
        IntVec w0 = load_int(at + half * 32);
        IntVec w1 = load_int(at + kTileRows * 4 + half * 32);
        pin(w0), pin(w1);
        DECANT_UNROLL
        for (int i = 0; i < kTileX; ++i) {
          const IntVec v0 = broadcast_int(values + q * 16 + i * 4);
          const IntVec v1 = broadcast_int(values + q * 16 + 16 + i * 4);
          const IntVec a = _mm256_madd_epi16(
              _mm256_add_epi16(_mm256_maddubs_epi16(w0, v0), _mm256_maddubs_epi16(w1, v1)), ones);
          sums[i][half] = q == 0 ? a : _mm256_add_epi32(sums[i][half], a);
          pin(sums[i][half]);
        }
      }
    }
  } else {
    DECANT_UNROLL
    for (int q = 0; q < kSteps; ++q) {
      IntVec w0 = load_int(w + q * kTileRows * 4);
      IntVec w1 = load_int(w + q * kTileRows * 4 + 32);
      pin(w0), pin(w1);
      DECANT_UNROLL
      for (int i = 0; i < kTileX; ++i) {
        const IntVec v = broadcast_int(values + q * 16 + i * 4);
        const IntVec a = _mm256_maddubs_epi16(w0, v);
        const IntVec b = _mm256_maddubs_epi16(w1, v);
        sums[i][0] = q == 0 ? a : _mm256_add_epi16(sums[i][0], a);
        sums[i][1] = q == 0 ? b : _mm256_add_epi16(sums[i][1], b);
        pin(sums[i][0]), pin(sums[i][1]);
      }
    }
    DECANT_UNROLL
    for (int i = 0; i < kTileX; ++i) {
      sums[i][0] = _mm256_madd_epi16(sums[i][0], ones);
      sums[i][1] = _mm256_madd_epi16(sums[i][1], ones);
    }
  }
#endif
}

/// Which codes share a tile kernel: what differs is how products are summed.
constexpr int tile_code(int code) { return code >= 8 ? code : code > 4 ? 6 : 4; }

/// out[i][0 .. kTileRows) += panel of `groups` weight groups times row i; from zero if `first`.
template <int kCode, int kGroup>
void tile(const uint8_t* panel, const float* scales, const float* biases, int64_t groups,
          const TileInput& x, bool first, float* const* out) {
  constexpr int kSumCols = kGroup < 32 ? kGroup : 32;
  constexpr int kPerX = 32 / kSumCols;
  constexpr int kPerGroup = kGroup / kSumCols;
  FloatVec acc[kTileX][2];
  DECANT_UNROLL
  for (int i = 0; i < kTileX; ++i) {
    acc[i][0] = first ? broadcast_float(0.0f) : load_float_vec(out[i]);
    acc[i][1] = first ? broadcast_float(0.0f) : load_float_vec(out[i] + kLanes);
  }
  for (int64_t g = 0; g < groups; ++g) {
    FloatVec p[kTileX][2];
    DECANT_UNROLL
    for (int n = 0; n < kPerGroup; ++n) {
      const int64_t part = g * kPerGroup + n;
      IntVec sums[kTileX][2];
      tile_group<kCode, kSumCols>(panel + part * kTileRows * kSumCols, x, part, sums);
      DECANT_UNROLL
      for (int i = 0; i < kTileX; ++i) {
        const FloatVec s = broadcast_float(x.scales[part / kPerX * kTileX + i]);
        DECANT_UNROLL
        for (int v = 0; v < 2; ++v)
          p[i][v] =
              n == 0 ? mul_vec(to_float(sums[i][v]), s) : fma_vec(to_float(sums[i][v]), s, p[i][v]);
      }
    }
    DECANT_UNROLL
    for (int v = 0; v < 2; ++v) {
      const FloatVec scale = load_float_vec(scales + g * kTileRows + v * kLanes);
      DECANT_UNROLL
      for (int i = 0; i < kTileX; ++i) acc[i][v] = fma_vec(p[i][v], scale, acc[i][v]);
      if constexpr (kCode != kE2m1) {
        const FloatVec bias = load_float_vec(biases + g * kTileRows + v * kLanes);
        DECANT_UNROLL
        for (int i = 0; i < kTileX; ++i)
          acc[i][v] = fma_vec(broadcast_float(x.sums[g * kTileX + i]), bias, acc[i][v]);
      }
    }
  }
  DECANT_UNROLL
  for (int i = 0; i < kTileX; ++i) {
    store_float_vec(out[i], acc[i][0]);
    store_float_vec(out[i] + kLanes, acc[i][1]);
  }
}

/// Scratch of one product, carved from the caller's.
struct BlockScratch {
  static constexpr int64_t kPanelSums = 2 * kPanelGroups;  // in columns, at most
  static constexpr int64_t kScales = kPanelRows * kPanelSums;
  static constexpr int64_t kXScales = kBlockX * kPanelGroups;
  static constexpr int64_t kStarts = kBlockX * kPanelSums;
  uint8_t* panel;  // [tile][group][8][row][4 columns]
  int8_t* values;  // of TileInput, tile after tile; so are the next four
  float* scales;
  float* biases;
  float* x_scales;
  float* x_sums;
  int32_t* starts;
  float* edge;  // [kTileX, kTileRows]

  explicit BlockScratch(const Scratch& scratch) {
    constexpr int64_t kFloats = 2 * kScales + 2 * kXScales + kStarts + kTileX * kTileRows;
    static_assert((kPanelRows + kBlockX) * kPanelCols + kFloats * 4 <= Scratch::kBytes);
    panel = reinterpret_cast<uint8_t*>(scratch.data);
    values = reinterpret_cast<int8_t*>(panel + kPanelRows * kPanelCols);
    scales = reinterpret_cast<float*>(values + kBlockX * kPanelCols);
    biases = scales + kScales;
    x_scales = biases + kScales;
    x_sums = x_scales + kXScales;
    starts = reinterpret_cast<int32_t*>(x_sums + kXScales);
    edge = reinterpret_cast<float*>(starts + kStarts);
  }
  TileInput input(int64_t tile) const {
    const int64_t at = tile * kTileX * kPanelGroups;
    return {values + at * 32, x_scales + at, x_sums + at, starts + 2 * at};
  }
};

/// One panel of weights, already unpacked, times the rows of x from i0 on that are laid out.
template <int kCode, int kGroup>
void multiply_block(const BlockScratch& s, const RowMap& map, int64_t i0, int64_t i1, int64_t r0,
                    int64_t r1, int64_t groups, bool first, float* y, int64_t y_stride) {
  for (int64_t r = r0; r < r1; r += kTileRows) {
    const int64_t t = (r - r0) / kTileRows;
    const uint8_t* panel = s.panel + t * kTileRows * kPanelCols;
    const float* scales = s.scales + t * kTileRows * BlockScratch::kPanelSums;
    const float* biases = s.biases + t * kTileRows * BlockScratch::kPanelSums;
    const auto tile_rows = static_cast<size_t>(smaller(kTileRows, r1 - r));
    for (int64_t i = i0; i < i1; i += kTileX) {
      float* to[kTileX];
      float* out[kTileX];
      const int live = static_cast<int>(smaller(kTileX, i1 - i));
      for (int k = 0; k < kTileX; ++k) {
        const int64_t row = map.y_rows != nullptr && k < live ? map.y_rows[i + k] : i + k;
        to[k] = y + row * y_stride + r;
        const bool whole = k < live && tile_rows == kTileRows;
        out[k] = whole ? to[k] : s.edge + k * kTileRows;
        if (!whole && k < live && !first) std::memcpy(out[k], to[k], tile_rows * sizeof(float));
      }
      tile<tile_code(kCode), kGroup>(panel, scales, biases, groups, s.input((i - i0) / kTileX),
                                     first, out);
      for (int k = 0; k < live; ++k)
        if (out[k] != to[k]) std::memcpy(to[k], out[k], tile_rows * sizeof(float));
    }
  }
}

template <int kCode, int kGroup>
void blocked(const Planes& w, const QuantizedRows& x, const RowMap& map, float* y, int64_t y_stride,
             int64_t row_begin, int64_t row_end, Scratch& scratch) {
  const BlockScratch s(scratch);
  for (int64_t r0 = row_begin; r0 < row_end; r0 += kPanelRows) {
    const int64_t r1 = smaller(r0 + kPanelRows, row_end);
    for (int64_t c0 = 0; c0 < w.cols; c0 += kPanelCols) {
      const int64_t cols = smaller(kPanelCols, w.cols - c0);
      const int64_t groups = cols / kGroup;
      for (int64_t r = r0; r < r1; r += 8) {
        const int64_t t = (r - r0) / kTileRows, part = (r - r0) % kTileRows;
        // Past the end the last row again, so that every load is of bytes that exist.
        const uint8_t* p[8];
        for (int k = 0; k < 8; ++k)
          p[k] = w.data + smaller(r + k, r1 - 1) * w.row_bytes + c0 * width_of(kCode) / 8;
        pack_rows<kCode>(p, cols / 32, s.panel + t * kTileRows * kPanelCols + part * 4);
        if (part % kLanes != 0) continue;
        const int64_t at = t * kTileRows * BlockScratch::kPanelSums + part;
        decode_scales(w, r, r1, c0 / kGroup, groups, s.scales + at, s.biases + at, kTileRows);
      }
      for (int64_t i0 = 0; i0 < map.count; i0 += kBlockX) {
        const int64_t i1 = smaller(i0 + kBlockX, map.count);
        for (int64_t i = i0; i < i1; i += kTileX) {
          int64_t rows[kTileX];
          for (int k = 0; k < kTileX; ++k) {
            const int64_t row = smaller(i + k, i1 - 1);
            rows[k] = map.x_rows != nullptr ? map.x_rows[row] : row;
          }
          pack_x<kCode, kGroup>(x, rows, c0, cols / 32, s.input((i - i0) / kTileX));
        }
        multiply_block<kCode, kGroup>(s, map, i0, i1, r0, r1, groups, c0 == 0, y, y_stride);
      }
    }
  }
}

}  // namespace
}  // namespace decant::cpu::detail
