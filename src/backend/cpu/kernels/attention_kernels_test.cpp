#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/vector_kernels.h"
#include "ops/attention.h"

namespace decant::cpu {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kSplitKeys = int64_t{kAttentionSplit} * kPageSize;

struct Setting {
  int kv_heads = 2;
  int dim = 64;
  int window = 0;
  DType dtype = DType::kBF16;
  float softcap = 0;
  int64_t length = 1;  // positions stored
};

// A pool whose pages lie in random order, with NaN in every slot that holds no position and in
// every page that belongs to nobody.
class Cache {
 public:
  Cache(const VectorKernels& kernels, const Setting& s, uint32_t seed)
      : setting_(s), random_(seed) {
    const int64_t used = (s.length + kPageSize - 1) / kPageSize;
    pool_.spec = {s.kv_heads, s.dim, s.window, 0};
    pool_.dtype = s.dtype;
    pool_.pages = used + 3;
    const auto bytes =
        static_cast<size_t>(pool_.pages * s.kv_heads * pool_.head_elements() * size_of(s.dtype));
    keys_ = std::make_unique<std::byte[]>(bytes);
    values_ = std::make_unique<std::byte[]>(bytes);
    std::memset(keys_.get(), 0xFF, bytes);
    std::memset(values_.get(), 0xFF, bytes);
    pool_.keys = keys_.get();
    pool_.values = values_.get();
    std::vector<int32_t> order(static_cast<size_t>(pool_.pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    table_.assign(order.begin(), order.begin() + used);
    std::vector<float> k, v;
    for (int64_t position = 0; position < s.length; ++position)
      for (int head = 0; head < s.kv_heads; ++head) {
        k = row(), v = row();
        kernels.kv_store(pool_, table_[static_cast<size_t>(position / kPageSize)],
                         static_cast<int>(position % kPageSize), head, k.data(), v.data());
      }
  }

  std::vector<float> row(float deviation = 1.0f) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> out(static_cast<size_t>(setting_.dim));
    for (float& x : out) x = normal(random_);
    return out;
  }
  double key(int64_t position, int head, int d) const {
    const int32_t page = table_[static_cast<size_t>(position / kPageSize)];
    return load_float(pool_.keys, pool_.dtype,
                      pool_.key_index(page, head, static_cast<int>(position % kPageSize), d));
  }
  double value(int64_t position, int head, int d) const {
    const int32_t page = table_[static_cast<size_t>(position / kPageSize)];
    return load_float(pool_.values, pool_.dtype,
                      pool_.value_index(page, head, static_cast<int>(position % kPageSize), d));
  }
  // Pages no query from `position` on can see become -1, as the engine leaves them.
  void forget_before(int64_t position) {
    for (int64_t page = 0; (page + 1) * kPageSize <= position; ++page)
      table_[static_cast<size_t>(page)] = -1;
  }
  const KvPool& pool() const { return pool_; }
  const int32_t* pages() const { return table_.data(); }
  const Setting& setting() const { return setting_; }
  int64_t first_seen(int64_t position) const {
    return setting_.window > 0 ? std::max<int64_t>(0, position - setting_.window + 1) : 0;
  }

 private:
  Setting setting_;
  std::mt19937 random_;
  KvPool pool_;
  std::unique_ptr<std::byte[]> keys_, values_;
  std::vector<int32_t> table_;
};

struct Partial {
  double top = -kInf, sum = 0;
  std::vector<double> values;
};

Partial reference(const Cache& cache, int head, const AttentionQuery& query, float scale,
                  int64_t begin, int64_t end) {
  const Setting& s = cache.setting();
  begin = std::max(begin, cache.first_seen(query.position));
  end = std::min(end, query.last + 1);
  Partial out;
  out.values.assign(static_cast<size_t>(s.dim), 0.0);
  std::vector<double> scores;
  for (int64_t j = begin; j < end; ++j) {
    double score = 0;
    for (int d = 0; d < s.dim; ++d)
      score += static_cast<double>(query.q[d]) * cache.key(j, head, d);
    score *= static_cast<double>(scale);
    if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
    scores.push_back(score);
    out.top = std::max(out.top, score);
  }
  for (int64_t j = begin; j < end; ++j) {
    const double p = std::exp(scores[static_cast<size_t>(j - begin)] - out.top);
    out.sum += p;
    for (int d = 0; d < s.dim; ++d)
      out.values[static_cast<size_t>(d)] += p * cache.value(j, head, d);
  }
  return out;
}

class AttentionKernelsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!isa_available(GetParam()))
      GTEST_SKIP() << name_of(GetParam()) << " is not available on this processor";
  }
  const VectorKernels& k() const { return vector_kernels(GetParam()); }

  // `positions`, each with `group` heads, against the reference, and each alone against the group.
  void check(const Setting& s, const std::vector<int64_t>& positions, int group, uint32_t seed,
             int64_t ahead = 0) {
    SCOPED_TRACE(testing::Message()
                 << "dim " << s.dim << " window " << s.window << " cap " << s.softcap << " "
                 << name_of(s.dtype) << " length " << s.length << " group " << group << " tokens "
                 << positions.size() << " from " << positions.front());
    Cache cache(k(), s, seed);
    const float scale = 1.5f / std::sqrt(static_cast<float>(s.dim));
    const int head = static_cast<int>(seed) % s.kv_heads;
    std::vector<std::vector<float>> q;
    std::vector<AttentionQuery> queries;
    for (const int64_t position : positions)
      for (int g = 0; g < group; ++g) {
        q.push_back(cache.row());
        queries.push_back({nullptr, position, std::min(s.length - 1, position + ahead)});
      }
    for (size_t i = 0; i < q.size(); ++i) queries[i].q = q[i].data();
    std::vector<Partial> want_splits, want;
    const int64_t splits = (s.length + kSplitKeys - 1) / kSplitKeys;
    for (const AttentionQuery& query : queries) {
      for (int64_t split = 0; split < splits; ++split)
        want_splits.push_back(
            reference(cache, head, query, scale, split * kSplitKeys, (split + 1) * kSplitKeys));
      want.push_back(reference(cache, head, query, scale, 0, s.length));
    }
    cache.forget_before(cache.first_seen(*std::min_element(positions.begin(), positions.end())));

    const auto stride = static_cast<int64_t>(s.dim) + 2;
    const auto count = static_cast<int64_t>(queries.size());
    std::vector<float> partial(static_cast<size_t>(splits * count * stride), NAN);
    std::vector<float> alone(static_cast<size_t>(stride), NAN);
    for (int64_t split = 0; split < splits; ++split) {
      float* out = partial.data() + split * count * stride;
      k().attention_split(cache.pool(), cache.pages(), head, split, queries.data(), count, scale,
                          s.softcap, out);
      for (int64_t i = 0; i < count; ++i) {
        const float* got = out + i * stride;
        k().attention_split(cache.pool(), cache.pages(), head, split,
                            &queries[static_cast<size_t>(i)], 1, scale, s.softcap, alone.data());
        ASSERT_EQ(std::memcmp(alone.data(), got, alone.size() * sizeof(float)), 0)
            << "query " << i << " alone, split " << split;
        const Partial& ref = want_splits[static_cast<size_t>(i * splits + split)];
        if (ref.sum == 0) {
          ASSERT_EQ(got[0], -std::numeric_limits<float>::infinity());
          for (int64_t d = 1; d < stride; ++d) ASSERT_EQ(got[d], 0.0f);
          continue;
        }
        ASSERT_NEAR(got[0], ref.top, 3e-6);
        ASSERT_NEAR(got[1] / ref.sum, 1, 4e-6);
      }
    }
    std::vector<float> y(static_cast<size_t>(s.dim)), single(y.size());
    for (int64_t i = 0; i < count; ++i) {
      k().attention_merge(partial.data() + i * stride, count * stride, splits, s.dim, y.data());
      const Partial& ref = want[static_cast<size_t>(i)];
      for (size_t d = 0; d < y.size(); ++d)
        ASSERT_NEAR(y[d], ref.values[d] / ref.sum, 4e-6) << "query " << i << " dim " << d;
    }
  }

  static std::vector<int64_t> run_of(int64_t first, int64_t count) {
    std::vector<int64_t> out(static_cast<size_t>(count));
    std::iota(out.begin(), out.end(), first);
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(EveryIsa, AttentionKernelsTest,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(AttentionKernelsTest, DecodeAroundBorders) {
  uint32_t seed = 1;
  for (const DType dtype : {DType::kBF16, DType::kF32})
    for (const int64_t position : {0, 1, 62, 63, 64, 65, 127, 1022, 1023, 1024, 1025, 2111})
      for (const int group : {1, 2, 5, 8})
        check({2, 64, 0, dtype, 0, position + 1}, {position}, group, ++seed);
}

TEST_P(AttentionKernelsTest, HeadDimensions) {
  uint32_t seed = 100;
  for (const int dim : {16, 17, 20, 24, 40, 64, 72, 80, 96, 100, 128, 192, 256, 300, 512, 576})
    for (const DType dtype : {DType::kBF16, DType::kF32})
      for (const int group : {1, 2, 3, 4, 7})
        check({1, dim, 0, dtype, 0, 131}, {130}, group, ++seed);
}

TEST_P(AttentionKernelsTest, PromptBlocks) {
  uint32_t seed = 200;
  for (const int64_t first : {0, 30, 64, 1000})
    for (const int64_t count : {2, 3, 17, 64, 70})
      for (const int group : {1, 3, 8})
        check({2, 32, 0, DType::kBF16, 0, first + count}, run_of(first, count), group, ++seed);
}

TEST_P(AttentionKernelsTest, Windows) {
  uint32_t seed = 300;
  for (const int window : {1, 2, 16, 63, 64, 65, 128, 1024})
    for (const int64_t first : {0, 60, 700, 1500})
      for (const int64_t count : {1, 40})
        check({1, 48, window, DType::kF32, 0, first + count}, run_of(first, count), 2, ++seed);
}

TEST_P(AttentionKernelsTest, Softcap) {
  uint32_t seed = 400;
  for (const float cap : {0.5f, 5.0f, 50.0f})
    for (const int window : {0, 100})
      check({2, 64, window, DType::kBF16, cap, 333}, run_of(320, 13), 3, ++seed);
}

TEST_P(AttentionKernelsTest, SeesAheadOfItsPositionInASpan) {
  uint32_t seed = 500;
  for (const int window : {0, 40})
    for (const int dim : {64, 72})
      for (const int64_t ahead : {1, 37, 64, 1100})
        check({2, dim, window, DType::kF32, 0, 1400}, run_of(100, 29), 2, ++seed, ahead);
}

TEST_P(AttentionKernelsTest, UnrelatedPositionsInOneCall) {
  for (uint32_t seed = 500; seed < 520; ++seed) {
    std::mt19937 random(seed);
    const int64_t length = 1 + static_cast<int64_t>(random() % 2500);
    std::vector<int64_t> positions(1 + random() % 9);
    for (int64_t& p : positions) p = static_cast<int64_t>(random()) % length;
    const int window = random() % 2 == 0 ? 0 : static_cast<int>(1 + random() % 400);
    check({2, 24, window, random() % 2 == 0 ? DType::kBF16 : DType::kF32, 0, length}, positions, 1,
          seed);
  }
}

TEST_P(AttentionKernelsTest, SpoiltValuesReachOnlyTheQueriesThatSeeThem) {
  Setting s{1, 40, 0, DType::kF32, 0, 8};
  Cache cache(k(), s, 7);
  const std::vector<float> k_row = cache.row(), bad(40, std::numeric_limits<float>::infinity());
  k().kv_store(cache.pool(), cache.pages()[0], 6, 0, k_row.data(), bad.data());
  const std::vector<float> q = cache.row();
  std::vector<AttentionQuery> queries;
  for (int64_t p = 4; p < 8; ++p) queries.push_back({q.data(), p, p});
  std::vector<float> partial(4 * 42), y(40);
  k().attention_split(cache.pool(), cache.pages(), 0, 0, queries.data(), 4, 0.1f, 0,
                      partial.data());
  for (int i = 0; i < 4; ++i) {
    k().attention_merge(partial.data() + i * 42, 42, 1, 40, y.data());
    for (const float v : y) EXPECT_EQ(std::isfinite(v), i < 2) << i;
  }
}

TEST_P(AttentionKernelsTest, ExtremeScores) {
  for (const float magnitude : {1e-20f, 100.0f, 1e6f, 1e15f}) {
    Setting s{1, 16, 0, DType::kF32, 0, 200};
    Cache cache(k(), s, 11);
    const std::vector<float> q = cache.row(magnitude);
    const AttentionQuery query{q.data(), 199, 199};
    std::vector<float> partial(18), y(16);
    k().attention_split(cache.pool(), cache.pages(), 0, 0, &query, 1, 1.0f, 0, partial.data());
    k().attention_merge(partial.data(), 18, 1, 16, y.data());
    for (const float v : y) {
      EXPECT_TRUE(std::isfinite(v)) << magnitude;
      EXPECT_LT(std::abs(v), 6.0f);
    }
  }
}

TEST_P(AttentionKernelsTest, QueryWithoutKeys) {
  Setting s{1, 24, 0, DType::kBF16, 0, 10};
  Cache cache(k(), s, 3);
  const std::vector<float> q = cache.row();
  const AttentionQuery queries[] = {{q.data(), -1, -1}, {q.data(), 9, 9}};
  std::vector<float> partial(2 * 26, NAN), y(24, NAN);
  k().attention_split(cache.pool(), cache.pages(), 0, 0, queries, 2, 1.0f, 0, partial.data());
  EXPECT_EQ(partial[0], -std::numeric_limits<float>::infinity());
  for (size_t d = 1; d < 26; ++d) EXPECT_EQ(partial[d], 0.0f);
  EXPECT_GT(partial[27], 0.0f);
  k().attention_merge(partial.data(), 26, 1, 24, y.data());
  EXPECT_EQ(y, std::vector<float>(24, 0.0f));
}

TEST_P(AttentionKernelsTest, MergeFollowsTheDefinition) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const int dim : {16, 50, 576})
    for (const int64_t count : {1, 2, 9}) {
      const int64_t stride = dim + 2 + 7;
      std::vector<float> partials(static_cast<size_t>(count * stride));
      for (float& v : partials) v = normal(random);
      for (int64_t i = 0; i < count; ++i) {
        float* p = partials.data() + i * stride;
        p[0] *= 20;
        p[1] = 1 + std::abs(p[1]);
        if (i == 1) std::fill(p, p + dim + 2, 0.0f), p[0] = -std::numeric_limits<float>::infinity();
      }
      std::vector<float> y(static_cast<size_t>(dim));
      k().attention_merge(partials.data(), stride, count, dim, y.data());
      double top = -kInf, total = 0;
      for (int64_t i = 0; i < count; ++i)
        top = std::max<double>(top, partials[static_cast<size_t>(i * stride)]);
      std::vector<double> want(y.size(), 0.0);
      for (int64_t i = 0; i < count; ++i) {
        const float* p = partials.data() + i * stride;
        const double weight = std::exp(p[0] - top);
        total += weight * p[1];
        for (size_t d = 0; d < y.size(); ++d) want[d] += weight * p[2 + d];
      }
      for (size_t d = 0; d < y.size(); ++d) EXPECT_NEAR(y[d], want[d] / total, 2e-6);
    }
}

TEST_P(AttentionKernelsTest, StoreRoundsToNearestEven) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    constexpr int kDim = 19;
    KvPool pool;
    pool.spec = {3, kDim, 0, 0};
    pool.dtype = dtype;
    pool.pages = 2;
    const auto bytes = static_cast<size_t>(2 * 3 * pool.head_elements() * size_of(dtype));
    std::vector<std::byte> keys(bytes), values(bytes), want_keys(bytes), want_values(bytes);
    pool.keys = keys.data(), pool.values = values.data();
    std::vector<float> k_row(kDim), v_row(kDim);
    std::mt19937 random(8);
    std::normal_distribution<float> normal;
    for (int d = 0; d < kDim; ++d) {
      k_row[static_cast<size_t>(d)] = normal(random);
      v_row[static_cast<size_t>(d)] = normal(random);
    }
    k_row[0] = std::bit_cast<float>(0x3F808000u);  // ties: down to even, up to even
    k_row[1] = std::bit_cast<float>(0x3F818000u);
    k_row[2] = std::numeric_limits<float>::infinity();
    k_row[3] = std::bit_cast<float>(0x7F800001u);  // a NaN whose upper half is an infinity's
    k_row[4] = std::numeric_limits<float>::max();
    v_row[5] = -0.0f;
    k().kv_store(pool, 1, 63, 2, k_row.data(), v_row.data());
    const auto put = [&](std::byte* to, int64_t index, float v) {
      const uint16_t half = float_to_bf16(v);
      if (dtype == DType::kF32)
        std::memcpy(to + index * 4, &v, 4);
      else
        std::memcpy(to + index * 2, &half, 2);
    };
    for (int d = 0; d < kDim; ++d) {
      put(want_keys.data(), pool.key_index(1, 2, 63, d), k_row[static_cast<size_t>(d)]);
      put(want_values.data(), pool.value_index(1, 2, 63, d), v_row[static_cast<size_t>(d)]);
    }
    EXPECT_EQ(keys, want_keys);
    EXPECT_EQ(values, want_values);
  }
}

}  // namespace
}  // namespace decant::cpu
