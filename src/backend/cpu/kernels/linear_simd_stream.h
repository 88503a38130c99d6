#pragma once

#include "backend/cpu/kernels/linear_simd_base.h"

// The int8 product for few rows of x: eight weight rows at a time, each read once, front to back.

namespace decant::cpu::detail {
namespace {

constexpr int kStreamX = 4;              // rows of x one pass can take
constexpr int64_t kStreamTile = 32;      // weight rows between slices of x
constexpr int64_t kStreamBlock = 16384;  // columns between visits of y

/// How one load of a row is taken apart. Widths that divide a byte are split into planes: plane s
/// holds columns s, s + planes, ... of the load, and x is laid out to match. Others are unpacked
/// in column order, one plane of 32.
template <int kCode>
struct Load {
  static constexpr int kBits = width_of(kCode);
  static constexpr int kPlanes = kBits == 1 ? 8 : kBits == 2 ? 4 : kBits == 4 ? 2 : 1;
  static constexpr int kCols = 32 * kPlanes;
  static constexpr int kBytes = kCols * kBits / 8;
};

/// Columns of one exact sum: a group of x, or of the weight where that is smaller.
constexpr int sum_cols(int group) { return group < 32 ? group : 32; }

/// Rows of x up to which slices of them, each unpacking the weights again, are better than panels.
template <int kCode>
constexpr int64_t kStreamRows = kCode == 8 ? 6 : kStreamX;

/// Even and odd bytes of 64 bytes.
inline void split_even_odd(__m256i a, __m256i b, __m256i& even, __m256i& odd) {
  const __m256i low = _mm256_set1_epi16(0xFF);
  const __m256i e = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
  const __m256i o = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
  even = _mm256_permute4x64_epi64(e, 0xD8);
  odd = _mm256_permute4x64_epi64(o, 0xD8);
}

/// v holds 32 * kCount bytes in order; out[s] becomes bytes s, s + kCount, ...
template <int kCount>
inline void to_planes(const __m256i* v, __m256i* out) {
  if constexpr (kCount == 1) {
    out[0] = v[0];
  } else {
    __m256i even[kCount / 2];
    __m256i odd[kCount / 2];
    for (int i = 0; i < kCount / 2; ++i) split_even_odd(v[2 * i], v[2 * i + 1], even[i], odd[i]);
    __m256i planes[kCount];
    to_planes<kCount / 2>(even, planes);
    to_planes<kCount / 2>(odd, planes + kCount / 2);
    for (int i = 0; i < kCount / 2; ++i) {
      out[2 * i] = planes[i];
      out[2 * i + 1] = planes[kCount / 2 + i];
    }
  }
}

/// Values of `cols` columns as the planes of Load<kCode>; the last load is filled up with zeros.
template <int kCode>
void lay_out(const int8_t* values, int64_t cols, int8_t* out) {
  using L = Load<kCode>;
  for (int64_t c = 0; c < cols; c += L::kCols) {
    int8_t padded[L::kCols];
    const int8_t* from = values + c;
    if (cols - c < L::kCols) {
      std::memset(padded, 0, sizeof padded);
      std::memcpy(padded, from, static_cast<size_t>(cols - c));
      from = padded;
    }
    __m256i v[L::kPlanes];
    __m256i planes[L::kPlanes];
    for (int i = 0; i < L::kPlanes; ++i) v[i] = load256(from + i * 32);
    to_planes<L::kPlanes>(v, planes);
    for (int i = 0; i < L::kPlanes; ++i) store256(out + c + i * 32, planes[i]);
  }
}

/// Products of one load of a weight row with kX rows of x, summed to eight 32-bit lanes.
///
/// Without VNNI the pairs are summed in 16 bits by maddubs, which saturates. It cannot here:
/// |x| <= 127, so one maddubs of codes up to 63 gives at most 2 * 63 * 127 = 16002, and the planes
/// of 4, 2 and 1 bits together 2 * 2 * 15 * 127 = 7620, 4 * 2 * 3 * 127 = 3048 and
/// 8 * 2 * 127 = 2032. Both planes of E2M1, up to 24: 2 * 2 * 24 * 127 = 12192. 8-bit codes as
/// q - 128 are split into magnitude (up to 128, unsigned) and sign, which goes to x:
/// 2 * 128 * 127 = 32512.
///
/// `start` takes the offset of the codes back: see dot_start.
template <int kCode, int kX>
inline void dot_load(const uint8_t* p, const int8_t* const* x, int64_t at, const __m256i* start,
                     __m256i (*out)[8], int row) {
  using L = Load<kCode>;
  __m256i w[L::kPlanes];
  if constexpr (L::kPlanes == 1) {
    w[0] = unpack<kCode>(p);
  } else {
    const __m256i v = load256(p);
    const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << L::kBits) - 1));
    for (int s = 0; s < L::kPlanes; ++s) {
      w[s] = _mm256_and_si256(_mm256_srli_epi16(v, s * L::kBits), mask);
      if constexpr (kCode == kE2m1) w[s] = lift_e2m1(w[s]);
    }
  }
#if defined(__AVX512VNNI__)
  for (int i = 0; i < kX; ++i) {
    __m256i sum = start[i];
    for (int s = 0; s < L::kPlanes; ++s)
      sum = _mm256_dpbusd_epi32(sum, w[s], load256(x[i] + at + s * 32));
    out[i][row] = sum;
  }
#else
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (kCode == 8) {
    static_cast<void>(start);
    const __m256i code = _mm256_xor_si256(w[0], _mm256_set1_epi8(-128));
    const __m256i magnitude = _mm256_abs_epi8(code);
    for (int i = 0; i < kX; ++i) {
      const __m256i value = _mm256_sign_epi8(load256(x[i] + at), code);
      out[i][row] = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, value), ones);
    }
  } else {
    for (int i = 0; i < kX; ++i) {
      __m256i sum = _mm256_maddubs_epi16(w[0], load256(x[i] + at));
      for (int s = 1; s < L::kPlanes; ++s)
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[s], load256(x[i] + at + s * 32)));
      if constexpr (kCode == kE2m1) sum = _mm256_add_epi16(sum, start[i]);
      out[i][row] = _mm256_madd_epi16(sum, ones);
    }
  }
#endif
}

/// What the sums of one load start from: minus the offset of the codes times the values of x. With
/// VNNI in 32-bit lanes, else in 16-bit ones (and nothing for 8-bit codes, which have none there).
template <int kCode, int kX>
inline void dot_start(const int8_t* const* x, int64_t at, __m256i* start) {
  using L = Load<kCode>;
  for (int i = 0; i < kX; ++i) {
    start[i] = _mm256_setzero_si256();
    if constexpr (offset_of(kCode) != 0 && (kVnni || kCode != 8)) {
      const __m256i offset = _mm256_set1_epi8(static_cast<char>(offset_of(kCode)));
      __m256i sum = _mm256_setzero_si256();
      for (int s = 0; s < L::kPlanes; ++s) {
        const __m256i value = load256(x[i] + at + s * 32);
#if defined(__AVX512VNNI__)
        sum = _mm256_dpbusd_epi32(sum, offset, value);
#else
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(offset, value));
#endif
      }
#if defined(__AVX512VNNI__)
      start[i] = _mm256_sub_epi32(start[i], sum);
#else
      start[i] = _mm256_sub_epi16(start[i], sum);
#endif
    }
  }
}

inline __m256i shuffle_lanes(__m256i a, __m256i b, bool odd) {
  const __m256 x = _mm256_castsi256_ps(a);
  const __m256 y = _mm256_castsi256_ps(b);
  return _mm256_castps_si256(odd ? _mm256_shuffle_ps(x, y, 0xDD) : _mm256_shuffle_ps(x, y, 0x88));
}

/// Sums of neighbouring lanes: a's in the lower, b's in the upper part of each half. kFits: all
/// lanes fit 16 bits, so that the packing does not saturate; it is the cheaper form.
template <bool kFits>
inline __m256i add_pairs(__m256i a, __m256i b) {
  if constexpr (kFits) {
    return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
  } else {
    return _mm256_add_epi32(shuffle_lanes(a, b, false), shuffle_lanes(a, b, true));
  }
}

/// r[row] holds kSums sums of 8 / kSums neighbouring lanes each; out[j] the j-th sums of the eight
/// rows.
template <int kCode, int kSums>
inline void fold(__m256i* r, __m256* out) {
  // A lane is the sum of four columns of each plane, the offset of the codes taken back. 8-bit
  // codes always take the wide form.
  constexpr int kLargest = kCode == 8 ? 255 : most_of(kCode) - offset_of(kCode);
  constexpr int kMost = 4 * Load<kCode>::kPlanes * kLargest * 127;
  if constexpr (kSums == 8) {
    transpose8(r);
    for (int j = 0; j < 8; ++j) out[j] = _mm256_cvtepi32_ps(r[j]);
  } else {
    __m256i h[4];
    for (int i = 0; i < 4; ++i) h[i] = add_pairs<(kMost <= 32767)>(r[2 * i], r[2 * i + 1]);
    if constexpr (kSums == 4) {
      for (int odd = 0; odd < 2; ++odd) {
        const __m256i a = shuffle_lanes(h[0], h[1], odd != 0);
        const __m256i b = shuffle_lanes(h[2], h[3], odd != 0);
        out[odd] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(a, b, 0x20));
        out[odd + 2] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(a, b, 0x31));
      }
    } else {
      const __m256i a = add_pairs<(2 * kMost <= 32767)>(h[0], h[1]);
      const __m256i b = add_pairs<(2 * kMost <= 32767)>(h[2], h[3]);
      const __m256i low = _mm256_permute2x128_si256(a, b, 0x20);
      const __m256i high = _mm256_permute2x128_si256(a, b, 0x31);
      if constexpr (kSums == 2) {
        out[0] = _mm256_cvtepi32_ps(low);
        out[1] = _mm256_cvtepi32_ps(high);
      } else {
        out[0] = _mm256_cvtepi32_ps(_mm256_add_epi32(low, high));
      }
    }
  }
}

/// What the rows of x are while a block of columns is streamed.
template <int kX>
struct StreamInput {
  const int8_t* values[kX];     // planes
  const float* scales[kX];      // of the block's first group of x on
  const float* group_sums[kX];  // one per group of the weight
};

/// One step covers whole groups of x and of the weight, and whole loads: kStep groups of x.
template <int kCode, int kGroup, int kX>
struct StreamStep {
  using L = Load<kCode>;
  static constexpr int kSumCols = sum_cols(kGroup);
  static constexpr int kPerX = 32 / kSumCols;          // sums of a group of x
  static constexpr int kPerGroup = kGroup / kSumCols;  // and of a group of the weight
  static constexpr int kStep = (L::kCols > kGroup ? L::kCols : kGroup) / 32;
  static constexpr int kLoads = kStep * 32 / L::kCols;
  static constexpr int kStepBytes = kLoads * L::kBytes;
  static constexpr int kLoadSums = L::kCols / kSumCols;

  /// p: eight rows at this step; j, g: groups of x and of the weight before it; `groups` of the
  /// weight are there.
  static inline void run(const uint8_t* const* p, const StreamInput<kX>& x, int64_t j, int64_t g,
                         int groups, const float* scales, const float* biases, __m256* acc) {
    __m256 sums[kX][kLoads * kLoadSums];
    for (int load = 0; load < kLoads; ++load) {
      const int64_t at = j * 32 + load * L::kCols;
      __m256i start[kX];
      dot_start<kCode, kX>(x.values, at, start);
      __m256i dots[kX][8];
      for (int r = 0; r < 8; ++r)
        dot_load<kCode, kX>(p[r] + load * L::kBytes, x.values, at, start, dots, r);
      for (int i = 0; i < kX; ++i) fold<kCode, kLoadSums>(dots[i], sums[i] + load * kLoadSums);
    }
    for (int k = 0; k < groups; ++k) {
      const __m256 scale = _mm256_loadu_ps(scales + (g + k) * 8);
      for (int i = 0; i < kX; ++i) {
        const float* s = x.scales[i] + j + k * kPerGroup / kPerX;
        __m256 product = _mm256_mul_ps(sums[i][k * kPerGroup], _mm256_set1_ps(s[0]));
        for (int n = 1; n < kPerGroup; ++n)
          product = _mm256_fmadd_ps(sums[i][k * kPerGroup + n], _mm256_set1_ps(s[n]), product);
        acc[i] = _mm256_fmadd_ps(product, scale, acc[i]);
        if constexpr (kCode != kE2m1)
          acc[i] = _mm256_fmadd_ps(_mm256_set1_ps(x.group_sums[i][g + k]),
                                   _mm256_loadu_ps(biases + (g + k) * 8), acc[i]);
      }
    }
  }
};

/// Bytes between what is worked on and what is asked for: enough for the latency of memory.
constexpr int64_t kStreamAhead = 10 << 10;

/// Asks for a plane of `count` rows from `row` on, as far as the second level of the cache: the
/// first has room for few lines that are still on their way, and waits when it is full.
inline void prefetch_rows(const uint8_t* plane, int64_t row_bytes, int64_t row, int64_t count,
                          int64_t end) {
  const int64_t last = smaller(row + count, end) * row_bytes;
  for (int64_t at = row * row_bytes; at < last; at += 64)
    _mm_prefetch(reinterpret_cast<const char*>(plane + at), _MM_HINT_T1);
}

template <int kCode, int kGroup, int kX>
void stream(const Planes& w, const QuantizedRows& x, const RowMap& map, int64_t first, float* y,
            int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  using Step = StreamStep<kCode, kGroup, kX>;
  constexpr int64_t kMaxGroups = kStreamBlock / sum_cols(kGroup);
  static_assert(kX * kStreamBlock + (kX + 16) * kMaxGroups * int64_t{sizeof(float)} <=
                Scratch::kBytes);
  auto* planes = reinterpret_cast<int8_t*>(scratch.data);
  auto* group_sums = reinterpret_cast<float*>(planes + kX * kStreamBlock);
  float* scales = group_sums + kX * kMaxGroups;
  float* biases = scales + 8 * kMaxGroups;
  float* out[kX];
  for (int i = 0; i < kX; ++i)
    out[i] = y + (map.y_rows != nullptr ? map.y_rows[first + i] : first + i) * y_stride;

  // Short rows: several times eight of them ahead.
  const int64_t ahead = 8 * ((kStreamAhead + 8 * w.row_bytes - 1) / (8 * w.row_bytes));
  // On their way while x is laid out.
  prefetch_rows(w.data, w.row_bytes, row_begin, ahead, row_end);
  prefetch_rows(w.scales, w.scale_row_bytes, row_begin, ahead, row_end);
  if constexpr (kCode != kE2m1)
    prefetch_rows(w.biases, w.scale_row_bytes, row_begin, ahead, row_end);
  for (int64_t c0 = 0; c0 < w.cols; c0 += kStreamBlock) {
    const int64_t cols = smaller(kStreamBlock, w.cols - c0);
    const int64_t x_groups = cols / 32;
    const int64_t groups = cols / kGroup;
    StreamInput<kX> in;
    for (int i = 0; i < kX; ++i) {
      const int64_t row = map.x_rows != nullptr ? map.x_rows[first + i] : first + i;
      int8_t* values = planes + i * kStreamBlock;
      lay_out<kCode>(x.values + row * x.cols + c0, cols, values);
      const float* sums = x.sums + (row * x.cols + c0) / 32;
      float* to = group_sums + i * kMaxGroups;
      if constexpr (kCode != kE2m1) {
        constexpr int kPerGroup = Step::kPerGroup;
        for (int64_t g = 0; g < groups; ++g) {
          float sum = sums[g * kPerGroup];
          for (int n = 1; n < kPerGroup; ++n) sum += sums[g * kPerGroup + n];
          to[g] = sum;
        }
      }
      in.values[i] = values;
      in.scales[i] = x.scales + (row * x.cols + c0) / 32;
      in.group_sums[i] = to;
    }
    for (int64_t r0 = row_begin; r0 < row_end; r0 += 8) {
      int64_t rows[8];
      rows_from(r0, row_end, rows);
      decode_scales(w, rows, c0 / w.group, groups, scales, biases, 8);
      prefetch_rows(w.scales, w.scale_row_bytes, r0 + ahead, 8, row_end);
      if constexpr (kCode != kE2m1)
        prefetch_rows(w.biases, w.scale_row_bytes, r0 + ahead, 8, row_end);
      const uint8_t* p[8];
      for (int r = 0; r < 8; ++r) p[r] = w.data + rows[r] * w.row_bytes + c0 * width_of(kCode) / 8;
      const int live = static_cast<int>(smaller(8, row_end - r0));
      __m256 acc[kX];
      float edge[8];
      for (int i = 0; i < kX; ++i) {
        acc[i] = _mm256_setzero_ps();
        if (c0 == 0) continue;
        for (int r = 0; r < 8; ++r) edge[r] = r < live ? out[i][r0 + r] : 0.0f;
        acc[i] = _mm256_loadu_ps(edge);
      }
      // Eight streams that end with their row are too much for the processor's prefetcher. The rows
      // to come are asked for in the order of their addresses, which it recognises and runs ahead
      // of.
      const uint8_t* next = p[0] + ahead * w.row_bytes;
      int64_t j = 0;
      for (; j + Step::kStep <= x_groups; j += Step::kStep) {
        Step::run(p, in, j, j * 32 / kGroup, Step::kStep * 32 / kGroup, scales, biases, acc);
        for (int at = 0; at < 8 * Step::kStepBytes; at += 64)
          _mm_prefetch(reinterpret_cast<const char*>(next + at), _MM_HINT_T1);
        next += 8 * Step::kStepBytes;
        for (int r = 0; r < 8; ++r) p[r] += Step::kStepBytes;
      }
      if (j < x_groups) {
        alignas(32) uint8_t rest[8][Step::kStepBytes] = {};
        const int64_t bytes = (x_groups - j) * 4 * width_of(kCode);
        for (int r = 0; r < 8; ++r) {
          std::memcpy(rest[r], p[r], static_cast<size_t>(bytes));
          p[r] = rest[r];
        }
        Step::run(p, in, j, j * 32 / kGroup, static_cast<int>((x_groups - j) * 32 / kGroup), scales,
                  biases, acc);
      }
      for (int i = 0; i < kX; ++i) {
        if (live == 8) {
          _mm256_storeu_ps(out[i] + r0, acc[i]);
        } else {
          _mm256_storeu_ps(edge, acc[i]);
          std::memcpy(out[i] + r0, edge, static_cast<size_t>(live) * sizeof(float));
        }
      }
    }
  }
}

}  // namespace
}  // namespace decant::cpu::detail
