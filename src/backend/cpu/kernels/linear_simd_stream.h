#pragma once

#include "backend/cpu/kernels/linear_simd_base.h"

// The int8 product for few rows of x: kLanes weight rows at a time, each read once, front to back.

namespace decant::cpu::detail {
namespace {

constexpr int kStreamX = 4;              // rows of x one pass can take
constexpr int64_t kStreamTile = 32;      // weight rows between slices of x
constexpr int64_t kStreamBlock = 16384;  // columns between visits of y

/// How one load of a row is taken apart. Widths that divide a byte are split into planes: plane s
/// holds columns s, s + planes, ... of the load, and x is laid out to match. Others are unpacked
/// in column order, one plane.
template <int kCode>
struct Load {
  static constexpr int kBits = width_of(kCode);
  static constexpr int kPlanes = kBits == 1 ? 8 : kBits == 2 ? 4 : kBits == 4 ? 2 : 1;
  static constexpr int kCols = kVecBytes * kPlanes;
  static constexpr int kBytes = kCols * kBits / 8;
};

/// Columns of one exact sum: a group of x, or of the weight where that is smaller.
constexpr int sum_cols(int group) { return group < 32 ? group : 32; }

/// Rows of x up to which slices of them, each unpacking the weights again, are better than panels:
/// the cheaper the unpacking, the more.
template <int kCode>
constexpr int64_t kStreamRows = Load<kCode>::kPlanes == 1   ? kCode == 8 ? 6 : 4
                                : Load<kCode>::kPlanes == 8 ? 8
                                : kVnni || kCode == 2       ? 16
                                                            : 12;

/// Even and odd bytes of two vectors.
inline void split_even_odd(IntVec a, IntVec b, IntVec& even, IntVec& odd) {
  const IntVec low = broadcast_word(0xFF);
  even = part_64(pack_to_8(and_vec(a, low), and_vec(b, low)));
  odd = part_64(pack_to_8(shift_right_16(a, 8), shift_right_16(b, 8)));
}

/// v holds kCount vectors of bytes in order; out[s] becomes bytes s, s + kCount, ...
template <int kCount>
inline void to_planes(const IntVec* v, IntVec* out) {
  if constexpr (kCount == 1) {
    out[0] = v[0];
  } else {
    IntVec even[kCount / 2];
    IntVec odd[kCount / 2];
    for (int i = 0; i < kCount / 2; ++i) split_even_odd(v[2 * i], v[2 * i + 1], even[i], odd[i]);
    IntVec planes[kCount];
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
    IntVec v[L::kPlanes];
    IntVec planes[L::kPlanes];
    for (int i = 0; i < L::kPlanes; ++i) v[i] = load_int(from + i * kVecBytes);
    to_planes<L::kPlanes>(v, planes);
    for (int i = 0; i < L::kPlanes; ++i) store_int(out + c + i * kVecBytes, planes[i]);
  }
}

/// The codes of one load, a byte each, in planes. kPart: only `bytes` of the load are there, whole
/// groups of x; the rest may not be touched.
template <int kCode, bool kPart>
DECANT_INLINE void load_codes(const uint8_t* p, int64_t bytes, IntVec* planes) {
  using L = Load<kCode>;
  if constexpr (L::kPlanes > 1 || kCode == 8) {
    IntVec v = kPart ? load_words(p, bytes / 4) : load_int(p);
    if constexpr (kCode == 8) {
      planes[0] = v;
      return;
    }
    pin(v);
    const IntVec mask = broadcast_byte((1 << L::kBits) - 1);
    DECANT_UNROLL
    for (int s = 0; s < L::kPlanes; ++s) {
      planes[s] = and_vec(s == 0 ? v : shift_right_16(v, s * L::kBits), mask);
      if constexpr (kCode == kE2m1) planes[s] = look_up(broadcast_part(e2m1_table()), planes[s]);
    }
  } else {
#if defined(__AVX512VNNI__)
    const int64_t half = L::kBytes / 2;
    planes[0] =
        join_halves(kPart && bytes < half ? _mm256_setzero_si256() : unpack<kCode>(p),
                    kPart && bytes < 2 * half ? _mm256_setzero_si256() : unpack<kCode>(p + half));
#else
    planes[0] = unpack<kCode>(p);
#endif
  }
}

/// Products of one load of a weight row with kX rows of x, summed to kLanes 32-bit lanes.
///
/// Without VNNI the pairs are summed in 16 bits by maddubs, which saturates. It cannot here:
/// |x| <= 127, so one maddubs of codes up to 63 gives at most 2 * 63 * 127 = 16002, and the planes
/// of 4, 2 and 1 bits together 2 * 2 * 15 * 127 = 7620, 4 * 2 * 3 * 127 = 3048 and
/// 8 * 2 * 127 = 2032. Both planes of E2M1, up to 24: 2 * 2 * 24 * 127 = 12192. 8-bit codes as
/// q - 128 are split into magnitude (up to 128, unsigned) and sign, which goes to x:
/// 2 * 128 * 127 = 32512.
///
/// `start` takes the offset of the codes back: see dot_start.
template <int kCode, int kX, bool kPart>
DECANT_INLINE void dot_load(const uint8_t* p, int64_t bytes, const int8_t* const* x, int64_t at,
                            const IntVec* start, IntVec* out) {
  using L = Load<kCode>;
  IntVec w[L::kPlanes];
  load_codes<kCode, kPart>(p, bytes, w);
#if defined(__AVX512VNNI__)
  DECANT_UNROLL
  for (int i = 0; i < kX; ++i) {
    out[i] = start[i];
    DECANT_UNROLL
    for (int s = 0; s < L::kPlanes; ++s)
      out[i] = _mm512_dpbusd_epi32(out[i], w[s], load_int(x[i] + at + s * kVecBytes));
  }
#else
  if constexpr (kCode == 8) {
    static_cast<void>(start);
    const __m256i code = _mm256_xor_si256(w[0], _mm256_set1_epi8(-128));
    const __m256i magnitude = _mm256_abs_epi8(code);
    DECANT_UNROLL
    for (int i = 0; i < kX; ++i)
      out[i] = add_pairs_16(
          _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(load_int(x[i] + at), code)));
  } else {
    DECANT_UNROLL
    for (int i = 0; i < kX; ++i) {
      __m256i sum = _mm256_maddubs_epi16(w[0], load_int(x[i] + at));
      DECANT_UNROLL
      for (int s = 1; s < L::kPlanes; ++s)
        sum =
            _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[s], load_int(x[i] + at + s * kVecBytes)));
      if constexpr (kCode == kE2m1) sum = _mm256_add_epi16(sum, start[i]);
      out[i] = add_pairs_16(sum);
    }
  }
#endif
}

/// What the sums of one load start from: minus the offset of the codes times the values of x. With
/// VNNI in 32-bit lanes, else in 16-bit ones (and nothing for 8-bit codes, which have none there).
template <int kCode, int kX>
DECANT_INLINE void dot_start(const int8_t* const* x, int64_t at, IntVec* start) {
  using L = Load<kCode>;
  DECANT_UNROLL
  for (int i = 0; i < kX; ++i) {
    start[i] = zero_int();
    if constexpr (offset_of(kCode) != 0 && (kVnni || kCode != 8)) {
      const IntVec offset = broadcast_byte(offset_of(kCode));
      IntVec sum = zero_int();
      DECANT_UNROLL
      for (int s = 0; s < L::kPlanes; ++s) {
        const IntVec value = load_int(x[i] + at + s * kVecBytes);
#if defined(__AVX512VNNI__)
        sum = _mm512_dpbusd_epi32(sum, offset, value);
#else
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(offset, value));
#endif
      }
#if defined(__AVX512VNNI__)
      start[i] = _mm512_sub_epi32(start[i], sum);
#else
      start[i] = _mm256_sub_epi16(start[i], sum);
#endif
    }
  }
}

/// Sums of neighbouring lanes: a's in the lower, b's in the upper half of each part. kFits: all
/// lanes fit 16 bits, so that the packing does not saturate; it is the cheaper form.
template <bool kFits>
DECANT_INLINE IntVec add_pairs(IntVec a, IntVec b) {
  if constexpr (kFits) {
    return add_pairs_16(pack_to_16(a, b));
  } else {
    return add_32(even_32(a, b), odd_32(a, b));
  }
}

/// Sums of neighbouring lanes of a load, kSums for each of kLanes rows, as vectors of one lane per
/// row: first within the parts, four rows at a time, then across parts.
template <int kCode, int kSums>
struct Fold {
  // A lane is the sum of four columns of each plane, the offset of the codes taken back. 8-bit
  // codes always take the wide form.
  static constexpr int kLargest = kCode == 8 ? 255 : most_of(kCode) - offset_of(kCode);
  static constexpr int kMost = 4 * Load<kCode>::kPlanes * kLargest * 127;
  static constexpr bool kTwoParts = kSums < kParts;  // a sum takes the lanes of two
  static constexpr int kPerPart = kTwoParts ? 1 : kSums / kParts;
  static_assert(kTwoParts ? 2 * kSums == kParts : kPerPart <= 4);

  /// r: four rows; out[j] has the j-th sums of each part, row by row.
  static DECANT_INLINE void four_rows(const IntVec* r, IntVec* out) {
    if constexpr (kPerPart == 4) {
      const IntVec a0 = low_32(r[0], r[1]), a1 = low_32(r[2], r[3]);
      const IntVec b0 = high_32(r[0], r[1]), b1 = high_32(r[2], r[3]);
      out[0] = low_64(a0, a1);
      out[1] = high_64(a0, a1);
      out[2] = low_64(b0, b1);
      out[3] = high_64(b0, b1);
    } else {
      const IntVec a = add_pairs<(kMost <= 32767)>(r[0], r[1]);
      const IntVec b = add_pairs<(kMost <= 32767)>(r[2], r[3]);
      if constexpr (kPerPart == 2) {
        out[0] = even_32(a, b);
        out[1] = odd_32(a, b);
      } else {
        out[0] = add_pairs<(2 * kMost <= 32767)>(a, b);
      }
    }
  }

  /// quarters[j][k]: what four_rows left of rows 4 k on; out[i]: the i-th sums of all rows.
  static DECANT_INLINE void all_rows(IntVec (&quarters)[kPerPart][kParts], FloatVec* out) {
    DECANT_UNROLL
    for (int j = 0; j < kPerPart; ++j) {
      if constexpr (kTwoParts)
        add_parts(quarters[j]);
      else
        transpose_parts(quarters[j]);
      DECANT_UNROLL
      for (int k = 0; k < kSums / kPerPart; ++k) out[k * kPerPart + j] = to_float(quarters[j][k]);
    }
  }
};

/// What the rows of x are while a block of columns is streamed.
template <int kX>
struct StreamInput {
  const int8_t* values[kX];     // planes
  const float* scales[kX];      // of the block's first group of x on
  const float* group_sums[kX];  // one per group of the weight
};

/// kLanes rows of the weight where a step begins.
struct StreamRows {
  const uint8_t* codes;  // of the first row
  int64_t stride;        // bytes to the next
  const float* scales;   // [group of the weight][row]
  const float* biases;
};

/// One step covers whole groups of x and of the weight, and whole loads: kStep groups of x.
template <int kCode, int kGroup, int kX>
struct StreamStep {
  using L = Load<kCode>;
  static constexpr int kSumCols = sum_cols(kGroup);
  static constexpr int kPerX = 32 / kSumCols;          // sums of a group of x
  static constexpr int kPerGroup = kGroup / kSumCols;  // and of a group of the weight
  static constexpr int kStep = (L::kCols > kGroup ? L::kCols : kGroup) / 32;
  static constexpr int kGroups = kStep * 32 / kGroup;  // of the weight
  static constexpr int kLoads = kStep * 32 / L::kCols;
  static constexpr int kStepBytes = kLoads * L::kBytes;
  static constexpr int kLoadSums = L::kCols / kSumCols;

  /// j: groups of x before the step. kPart: `live` rows are there, of which the last is taken
  /// again for the others, and `left` groups of x.
  template <bool kPart>
  static DECANT_INLINE void multiply(const StreamRows& w, const StreamInput<kX>& x, int64_t j,
                                     int64_t live, int64_t left, FloatVec* acc) {
    using F = Fold<kCode, kLoadSums>;
    FloatVec sums[kX][kLoads * kLoadSums];
    DECANT_UNROLL
    for (int load = 0; load < kLoads; ++load) {
      const int64_t at = j * 32 + load * L::kCols;
      IntVec start[kX];
      dot_start<kCode, kX>(x.values, at, start);
      IntVec quarters[kX][F::kPerPart][kParts];
      DECANT_UNROLL
      for (int quarter = 0; quarter < kParts; ++quarter) {
        IntVec dots[kX][4];
        DECANT_UNROLL
        for (int r = 0; r < 4; ++r) {
          const int64_t row = kPart ? smaller(quarter * 4 + r, live - 1) : quarter * 4 + r;
          const int64_t bytes = left * 4 * L::kBits - load * L::kBytes;
          IntVec dot[kX];
          dot_load<kCode, kX, kPart>(w.codes + row * w.stride + load * L::kBytes, bytes, x.values,
                                     at, start, dot);
          DECANT_UNROLL
          for (int i = 0; i < kX; ++i) dots[i][r] = dot[i];
        }
        DECANT_UNROLL
        for (int i = 0; i < kX; ++i) {
          IntVec four[F::kPerPart];
          F::four_rows(dots[i], four);
          DECANT_UNROLL
          for (int n = 0; n < F::kPerPart; ++n) quarters[i][n][quarter] = four[n];
        }
      }
      DECANT_UNROLL
      for (int i = 0; i < kX; ++i) F::all_rows(quarters[i], sums[i] + load * kLoadSums);
    }
    const int64_t g = j * 32 / kGroup;
    DECANT_UNROLL
    for (int k = 0; k < kGroups; ++k) {
      if (kPart && k * kGroup >= left * 32) break;
      const FloatVec scale = load_float_vec(w.scales + k * kLanes);
      DECANT_UNROLL
      for (int i = 0; i < kX; ++i) {
        const float* s = x.scales[i] + j + k * kPerGroup / kPerX;
        FloatVec product = mul_vec(sums[i][k * kPerGroup], broadcast_float(s[0]));
        DECANT_UNROLL
        for (int n = 1; n < kPerGroup; ++n)
          product = fma_vec(sums[i][k * kPerGroup + n], broadcast_float(s[n]), product);
        acc[i] = fma_vec(product, scale, acc[i]);
        if constexpr (kCode != kE2m1)
          acc[i] = fma_vec(broadcast_float(x.group_sums[i][g + k]),
                           load_float_vec(w.biases + k * kLanes), acc[i]);
      }
    }
  }

  static DECANT_INLINE void run(const StreamRows& w, const StreamInput<kX>& x, int64_t j,
                                FloatVec* acc) {
    multiply<false>(w, x, j, kLanes, kStep, acc);
  }
  static __attribute__((noinline)) void run_part(const StreamRows& w, const StreamInput<kX>& x,
                                                 int64_t j, int64_t live, int64_t left,
                                                 FloatVec* acc) {
    multiply<true>(w, x, j, live, left, acc);
  }
};

/// Bytes between what is worked on and what is asked for: enough for the latency of memory.
constexpr int64_t kStreamAhead = 8 << 10;

/// Asks for bytes [begin, end) of a plane.
inline void prefetch(const uint8_t* plane, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += 64) prefetch(plane + at);
}

template <int kCode, int kGroup, int kX>
void stream(const Planes& w, const QuantizedRows& x, const RowMap& map, int64_t first, float* y,
            int64_t y_stride, int64_t row_begin, int64_t row_end, Scratch& scratch) {
  using Step = StreamStep<kCode, kGroup, kX>;
  constexpr int64_t kMaxGroups = kStreamBlock / kGroup;
  static_assert(kX * kStreamBlock + (kX + 2 * kLanes) * kMaxGroups * int64_t{sizeof(float)} <=
                Scratch::kBytes);
  auto* planes = reinterpret_cast<int8_t*>(scratch.data);
  auto* group_sums = reinterpret_cast<float*>(planes + kX * kStreamBlock);
  float* scales = group_sums + kX * kMaxGroups;
  float* biases = scales + kLanes * kMaxGroups;
  float* out[kX];
  for (int i = 0; i < kX; ++i)
    out[i] = y + (map.y_rows != nullptr ? map.y_rows[first + i] : first + i) * y_stride;

  const auto prefetch_rows = [&](int64_t begin, int64_t end) {
    prefetch(w.scales, begin * w.scale_row_bytes, end * w.scale_row_bytes);
    if constexpr (kCode != kE2m1)
      prefetch(w.biases, begin * w.scale_row_bytes, end * w.scale_row_bytes);
  };
  // Short rows: several times kLanes of them ahead.
  const int64_t tile_bytes = kLanes * w.row_bytes;
  const int64_t ahead = kLanes * ((kStreamAhead + tile_bytes - 1) / tile_bytes);
  // On their way while x is laid out.
  const int64_t asked = smaller(row_begin + ahead, row_end);
  prefetch(w.data, row_begin * w.row_bytes, asked * w.row_bytes);
  prefetch_rows(row_begin, asked);
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
    for (int64_t r0 = row_begin; r0 < row_end; r0 += kLanes) {
      const int64_t live = smaller(kLanes, row_end - r0);
      decode_scales(w, r0, row_end, c0 / w.group, groups, scales, biases, kLanes);
      const bool more = r0 + ahead < row_end;
      if (more) prefetch_rows(r0 + ahead, smaller(r0 + ahead + kLanes, row_end));
      StreamRows at{w.data + r0 * w.row_bytes + c0 * width_of(kCode) / 8, w.row_bytes, scales,
                    biases};
      FloatVec acc[kX];
      float edge[kLanes] = {};
      for (int i = 0; i < kX; ++i) {
        if (c0 != 0) std::memcpy(edge, out[i] + r0, static_cast<size_t>(live) * sizeof(float));
        acc[i] = load_float_vec(edge);
      }
      int64_t j = 0;
      const auto advance = [&] {
        j += Step::kStep;
        at.codes += Step::kStepBytes;
        at.scales += Step::kGroups * kLanes;
        at.biases += Step::kGroups * kLanes;
      };
      while (live == kLanes && j + Step::kStep <= x_groups) {
        // Streams that end with their row are too much for the processor's prefetcher.
        if (more && j * 4 * width_of(kCode) % 64 < Step::kStepBytes) {
          const uint8_t* next = at.codes + ahead * w.row_bytes;
          DECANT_UNROLL
          for (int r = 0; r < kLanes; ++r) prefetch(next + r * w.row_bytes, 0, Step::kStepBytes);
        }
        Step::run(at, in, j, acc);
        advance();
      }
      while (j < x_groups) {
        // One row of x at a time: parts are rare, and every kX would be more code.
        for (int i = 0; i < kX; ++i)
          StreamStep<kCode, kGroup, 1>::run_part(
              at, {{in.values[i]}, {in.scales[i]}, {in.group_sums[i]}}, j, live,
              smaller(x_groups - j, Step::kStep), acc + i);
        advance();
      }
      for (int i = 0; i < kX; ++i) {
        if (live == kLanes) {
          store_float_vec(out[i] + r0, acc[i]);
        } else {
          store_float_vec(edge, acc[i]);
          std::memcpy(out[i] + r0, edge, static_cast<size_t>(live) * sizeof(float));
        }
      }
    }
  }
}

}  // namespace
}  // namespace decant::cpu::detail
