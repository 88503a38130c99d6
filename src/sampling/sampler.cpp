#include "sampling/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/errors.h"

namespace decant {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;

/// Floats as integers of the same order; NaN apart. Its own inverse.
inline int32_t ordered_bits(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
inline int32_t ordered(float x) { return ordered_bits(std::bit_cast<int32_t>(x)); }
inline float from_ordered(int32_t bits) { return std::bit_cast<float>(ordered_bits(bits)); }

constexpr double kLeastExponent = -705;  // what lies below counts as nothing
constexpr double kNothing = 1e-304;      // well above exp(kLeastExponent)

/// exp(z) for kLeastExponent - 1 <= z <= 0; within 1e-12 of it. Without branches, so that a loop
/// over it is vectorised, and the same bits with every C library.
inline double exp_of(double z) {
  constexpr double kLog2e = 0x1.71547652b82fep0, kLn2High = 0x1.62e42fefa39efp-1,
                   kLn2Low = 0x1.abc9e3b39803fp-56;
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, in the low bits
  const double shifted = z * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (z - n * kLn2High) - n * kLn2Low;  // |r| <= log(2) / 2
  const double r2 = r * r, r4 = r2 * r2;
  const double low = (1 + r) + r2 * (1.0 / 2 + r * (1.0 / 6));
  const double middle = (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
  const double high = (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800);
  const double p = low + r4 * (middle + r4 * high);
  const uint64_t scale = std::bit_cast<uint64_t>(shifted) << 52;
  return std::bit_cast<double>(std::bit_cast<uint64_t>(p) + scale);
}

/// exp((x - top) / temperature), at most kNothing for what is far below.
double exp_of(float x, double top, double temperature) {
  return exp_of(std::max((static_cast<double>(x) - top) / temperature, kLeastExponent));
}
void exps_of(const float* __restrict x, size_t count, double top, double temperature,
             double* __restrict p) {
  // The bound on z as a bound on x, and that as a bound on integers: comparing floats would keep
  // the loop from being vectorised. At temperatures where floats near the largest are too coarse
  // for such a bound it is one on z.
  const double floor = top + kLeastExponent * temperature;
  const bool coarse = -kLeastExponent * temperature < 1e-3 * std::abs(top);
  if (coarse || floor < -1e30) {
    for (size_t i = 0; i < count; ++i) p[i] = exp_of(x[i], top, temperature);
    return;
  }
  const int32_t least = ordered(static_cast<float>(floor));
  const double inverse = 1 / temperature;
  for (size_t i = 0; i < count; ++i)
    p[i] =
        exp_of((static_cast<double>(from_ordered(std::max(ordered(x[i]), least))) - top) * inverse);
}

struct Top {
  float value = -kInf;
  bool nan = false;
};

Top find_top(std::span<const float> x) {
  // Integers: a maximum of floats is not vectorised because of NaN.
  int32_t top = ordered(-kInf), nan = 0;
  for (const float value : x) {
    top = std::max(top, ordered(value));
    nan |= static_cast<int32_t>((std::bit_cast<uint32_t>(value) & 0x7fffffffu) > 0x7f800000u);
  }
  return {from_ordered(top), nan != 0};
}

int32_t first_equal(std::span<const float> x, float value) {
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    bool any = false;
    for (size_t j = 0; j < kLanes; ++j) any |= x[i + j] == value;
    if (any) break;
  }
  while (x[i] != value) ++i;
  return static_cast<int32_t>(i);
}

/// The ids of the k largest logits, ascending by `before` only up to a point: the set is what
/// counts. `buffer` has room for min(x.size(), 2 k + kLanes) ids and 1 more.
size_t select_largest(std::span<const float> x, size_t k, int32_t* buffer) {
  const auto before = [&](int32_t a, int32_t b) {
    const float xa = x[static_cast<size_t>(a)], xb = x[static_cast<size_t>(b)];
    return xa > xb || (xa == xb && a < b);
  };
  const size_t room = std::min(x.size(), 2 * k + kLanes);
  size_t count = 0;
  float threshold = -kInf;  // a token must lie above it: equal ones with a lower id came before
  const auto shrink = [&] {
    std::nth_element(buffer, buffer + (k - 1), buffer + count, before);
    threshold = x[static_cast<size_t>(buffer[k - 1])];
    count = k;
  };
  const auto take = [&](size_t i) {
    if (!(x[i] > threshold)) return;
    buffer[count++] = static_cast<int32_t>(i);
    if (count == room && count > k) shrink();
  };
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    bool any = false;
    for (size_t j = 0; j < kLanes; ++j) any |= x[i + j] > threshold;
    if (!any) continue;
    for (size_t j = 0; j < kLanes; ++j) take(i + j);
  }
  for (; i < x.size(); ++i) take(i);
  if (count > k) shrink();
  return count;
}

double sum_of(const double* x, size_t count) {
  std::array<double, 4> sums{};
  size_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (size_t j = 0; j < 4; ++j) sums[j] += x[i + j];
  for (; i < count; ++i) sums[0] += x[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// What can still be drawn: ids ascending, p relative to the largest logit, all above kNothing.
struct Candidates {
  int32_t* ids = nullptr;
  double* p = nullptr;
  int32_t* list = nullptr;  // room for one index per candidate
  size_t size = 0;

  double total() const { return sum_of(p, size); }
  /// Drops those whose p is nothing.
  void compact() {
    size_t dropped = 0;
    for (size_t i = 0; i < size; ++i) dropped += p[i] > kNothing ? 0 : 1;
    if (dropped == 0) return;
    size_t kept = 0;
    for (size_t i = 0; i < size; ++i) {
      ids[kept] = ids[i];
      p[kept] = p[i];
      kept += p[i] > kNothing ? 1 : 0;
    }
    size = kept;
  }
};

/// Keeps the first candidates in ascending order of (key, id) until the sum of p reaches `target`,
/// at least one. Keys are the bits of doubles that are not negative. A histogram over their leading
/// bits finds where the sum is reached; only the tokens of that bucket are put in order.
template <typename Key>
void keep_first(Candidates& c, double target, uint64_t base, const Key& key) {
  constexpr size_t kBuckets = 1024;
  constexpr int kShift = 48;  // sixteen buckets per power of two
  const auto bucket_of = [&](size_t i) {
    const uint64_t leading = key(i) >> kShift;
    return leading <= base ? size_t{0} : std::min<size_t>(leading - base, kBuckets - 1);
  };
  std::array<double, kBuckets> sums{};
  for (size_t i = 0; i < c.size; ++i) sums[bucket_of(i)] += c.p[i];
  double reached = 0;
  size_t last = 0;
  while (last < kBuckets && reached + sums[last] < target) reached += sums[last++];
  if (last == kBuckets) return;  // the target is the whole, but for rounding

  size_t count = 0;
  for (size_t i = 0; i < c.size; ++i) {
    c.list[count] = static_cast<int32_t>(i);
    const size_t bucket = bucket_of(i);
    count += bucket == last ? 1 : 0;
    if (bucket > last) c.p[i] = 0;
  }
  const auto before = [&](int32_t a, int32_t b) {
    const uint64_t ka = key(static_cast<size_t>(a)), kb = key(static_cast<size_t>(b));
    return ka != kb ? ka < kb : a < b;
  };
  const auto p_of = [&](const int32_t* at) { return c.p[static_cast<size_t>(*at)]; };
  int32_t *begin = c.list, *end = c.list + count;
  constexpr ptrdiff_t kFew = 32;
  while (end - begin > kFew) {  // narrowed down to the run in which the sum is reached
    int32_t* middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    double half = 0;
    for (const int32_t* at = begin; at != middle; ++at) half += p_of(at);
    if (reached + half < target) {
      reached += half;
      begin = middle;
    } else {
      for (const int32_t* at = middle; at != end; ++at) c.p[static_cast<size_t>(*at)] = 0;
      end = middle;
    }
  }
  std::sort(begin, end, before);
  const bool any = last > 0 || begin != c.list;
  for (const int32_t* at = begin; at != end; ++at) {
    const bool kept = reached < target || (at == begin && !any);
    reached += p_of(at);
    if (!kept) c.p[static_cast<size_t>(*at)] = 0;
  }
  c.compact();
}

void keep_typical(Candidates& c, double typical_p, std::span<const float> x, double top,
                  double temperature) {
  const double total = c.total(), log_total = std::log(total);
  const auto surprise = [&](size_t i) {  // -log p
    return (top - static_cast<double>(x[static_cast<size_t>(c.ids[i])])) / temperature + log_total;
  };
  double entropy = 0;
  for (size_t i = 0; i < c.size; ++i) entropy += c.p[i] * surprise(i);
  entropy /= total;
  constexpr uint64_t kFinest = std::bit_cast<uint64_t>(0x1p-16) >> 48;
  keep_first(c, typical_p * total, kFinest,
             [&](size_t i) { return std::bit_cast<uint64_t>(std::abs(surprise(i) - entropy)); });
}

void keep_likeliest(Candidates& c, double top_p) {
  keep_first(c, top_p * c.total(), 0, [&](size_t i) {
    return std::bit_cast<uint64_t>(1.0) - std::bit_cast<uint64_t>(c.p[i]);
  });
}

void keep_near_best(Candidates& c, double min_p) {
  const double least = min_p * *std::max_element(c.p, c.p + c.size);
  for (size_t i = 0; i < c.size; ++i)
    if (c.p[i] < least) c.p[i] = 0;
  c.compact();
}

int32_t draw(const Candidates& c, double uniform) {
  const double target = uniform * c.total();
  constexpr size_t kBlock = 256;
  double sum = 0;
  for (size_t begin = 0; begin < c.size; begin += kBlock) {
    const size_t end = std::min(c.size, begin + kBlock);
    const double block = sum_of(c.p + begin, end - begin);
    if (sum + block <= target && end < c.size) {
      sum += block;
      continue;
    }
    for (size_t i = begin; i < end; ++i) {
      sum += c.p[i];
      if (sum > target) return c.ids[i];
    }
    return c.ids[end - 1];  // the block's sum was rounded up
  }
  return c.ids[0];
}

/// The parts of a scratch.
struct Room {
  double* p;
  float* adjusted;
  int32_t* ids;
  int32_t* list;
};
constexpr size_t kAlignment = 64;
size_t padded(size_t vocab) {  // one more for the writes that compaction makes ahead
  return (vocab + 1 + kLanes) / kLanes * kLanes;
}
Room room_in(std::span<std::byte> scratch, size_t vocab) {
  DECANT_ASSERT(scratch.size() >= sample_scratch_bytes(vocab) &&
                    reinterpret_cast<uintptr_t>(scratch.data()) % kAlignment == 0,
                "the scratch of a sampler has its size and alignment");
  const size_t n = padded(vocab);
  std::byte* at = scratch.data();
  return {reinterpret_cast<double*>(at), reinterpret_cast<float*>(at + 8 * n),
          reinterpret_cast<int32_t*>(at + 12 * n), reinterpret_cast<int32_t*>(at + 16 * n)};
}

/// The tokens that top_k leaves, with their p; those whose p is 0 are no candidates.
Candidates first_candidates(std::span<const float> x, const SamplingRow& row, double top,
                            double temperature, const Room& room) {
  Candidates c{room.ids, room.p, room.list, x.size()};
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < x.size()) {
    c.size = select_largest(x, static_cast<size_t>(row.top_k), c.ids);
    std::sort(c.ids, c.ids + c.size);
    for (size_t i = 0; i < c.size; ++i)
      c.p[i] = exp_of(x[static_cast<size_t>(c.ids[i])], top, temperature);
    c.compact();
    return c;
  }
  if (row.min_p > 0 && row.top_p >= 1 && row.typical_p >= 1) {
    // Alone, min_p is a bound on logits: most need no exponential. The exact cut comes later.
    const auto bound =
        static_cast<float>(top + (std::log(static_cast<double>(row.min_p)) - 1e-3) * temperature);
    const float below = std::nextafter(bound, -kInf);
    c.size = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      c.ids[c.size] = static_cast<int32_t>(i);
      c.size += x[i] >= below ? 1 : 0;
    }
    for (size_t i = 0; i < c.size; ++i)
      c.p[i] = exp_of(x[static_cast<size_t>(c.ids[i])], top, temperature);
  } else {
    exps_of(x.data(), x.size(), top, temperature, c.p);
    std::iota(c.ids, c.ids + c.size, 0);
  }
  c.compact();
  return c;
}

}  // namespace

double uniform_at(uint64_t seed, uint64_t counter) {
  std::array<uint32_t, 4> block = {static_cast<uint32_t>(counter),
                                   static_cast<uint32_t>(counter >> 32), 0, 0};
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * block[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * block[2];
    block = {static_cast<uint32_t>(b >> 32) ^ block[1] ^ key0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ block[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const uint64_t bits = static_cast<uint64_t>(block[0]) << 32 | block[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

bool adjusts_logits(const SamplingRow& row) {
  return !row.bias.empty() ||
         (!row.history.empty() &&
          (row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0));
}

void adjust_logits(std::span<float> logits, const SamplingRow& row) {
  for (const auto& [id, bias] : row.bias) {
    float& x = logits[static_cast<size_t>(id)];
    x = bias <= kBannedBias ? -kInf : x + bias;
  }
  if (row.repetition_penalty == 1 && row.presence_penalty == 0 && row.frequency_penalty == 0)
    return;
  constexpr double kMost = std::numeric_limits<float>::max();
  for (const TokenCount& token : row.history) {
    float& x = logits[static_cast<size_t>(token.id)];
    if (!std::isfinite(x)) continue;
    double value = static_cast<double>(x);
    const double repetition = static_cast<double>(row.repetition_penalty);
    value = value > 0 ? value / repetition : value * repetition;
    if (token.generated > 0)
      value -= static_cast<double>(row.frequency_penalty) * token.generated +
               static_cast<double>(row.presence_penalty);
    x = static_cast<float>(std::clamp(value, -kMost, kMost));
  }
}

size_t sample_scratch_bytes(size_t vocab) { return 20 * padded(vocab); }

int32_t sample_token(std::span<const float> logits, const SamplingRow& row,
                     std::span<std::byte> scratch) {
  std::span<const float> x = logits;
  Top top = find_top(x);
  if (top.nan) return kNanLogits;
  if (!std::isfinite(top.value)) return kInfiniteLogits;
  const Room room = room_in(scratch, x.size());
  if (adjusts_logits(row)) {
    std::copy(x.begin(), x.end(), room.adjusted);
    const std::span<float> adjusted(room.adjusted, x.size());
    adjust_logits(adjusted, row);
    x = adjusted;
    top = find_top(x);
    if (top.value == -kInf) return kAllBanned;
  }
  if (row.temperature <= 0) return first_equal(x, top.value);

  const double largest = top.value, temperature = row.temperature;
  Candidates c = first_candidates(x, row, largest, temperature, room);
  if (row.typical_p < 1)
    keep_typical(c, static_cast<double>(row.typical_p), x, largest, temperature);
  if (row.top_p < 1) keep_likeliest(c, static_cast<double>(row.top_p));
  if (row.min_p > 0) keep_near_best(c, static_cast<double>(row.min_p));
  return draw(c, uniform_at(row.seed, row.counter));
}

int32_t sample_token(std::span<const float> logits, const SamplingRow& row) {
  thread_local std::vector<std::byte> memory;
  const size_t bytes = sample_scratch_bytes(logits.size());
  if (memory.size() < bytes + kAlignment) memory.resize(bytes + kAlignment);
  const auto misaligned = reinterpret_cast<uintptr_t>(memory.data()) % kAlignment;
  const size_t skipped = misaligned == 0 ? 0 : kAlignment - misaligned;
  return sample_token(logits, row, std::span(memory).subspan(skipped, bytes));
}

TokenLogprobs token_logprobs(std::span<const float> logits, int32_t token, int32_t n) {
  const Top top = find_top(logits);
  DECANT_ASSERT(!top.nan && std::isfinite(top.value) && token >= 0 &&
                    static_cast<size_t>(token) < logits.size() && n >= 0,
                "a token was chosen from these logits");
  const double largest = top.value;
  double total = 0;
  constexpr size_t kBlock = 256;
  std::array<double, kBlock> part;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block =
        logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    exps_of(block.data(), block.size(), largest, 1, part.data());
    total += sum_of(part.data(), block.size());
  }
  const double log_total = largest + std::log(total);
  const auto logprob = [&](int32_t id) {
    return static_cast<double>(logits[static_cast<size_t>(id)]) - log_total;
  };
  TokenLogprobs out{token, logprob(token), {}};
  if (n == 0) return out;
  std::vector<int32_t> ids(std::min(logits.size(), 2 * static_cast<size_t>(n) + kLanes) + 1);
  ids.resize(select_largest(logits, static_cast<size_t>(n), ids.data()));
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const float xa = logits[static_cast<size_t>(a)], xb = logits[static_cast<size_t>(b)];
    return xa > xb || (xa == xb && a < b);
  });
  for (int32_t id : ids) out.top.emplace_back(id, logprob(id));
  return out;
}

}  // namespace decant
