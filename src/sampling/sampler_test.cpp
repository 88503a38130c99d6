#include "sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "sampling/token_history.h"

namespace decant {
namespace {

using Wide = long double;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

/// A row with what its lists stand for.
struct Setting {
  SamplingRow row;
  std::vector<TokenBias> bias = {};
  std::vector<int32_t> prompt = {}, answer = {};
  TokenHistory history = {};

  SamplingRow made() {
    history = {};
    history.add_prompt(prompt);
    for (int32_t token : answer) history.add_generated(token);
    row.bias = bias;
    row.history = history.counts();
    return row;
  }
};

// ---- the order of sampler.h again, dense and slow: everything is sorted, all in long double ----

std::vector<Wide> adjusted(const std::vector<float>& logits, const Setting& s) {
  std::vector<Wide> x(logits.begin(), logits.end());
  for (const auto& [id, bias] : s.bias)
    x[static_cast<size_t>(id)] =
        bias <= -100 ? -static_cast<Wide>(kInf) : x[static_cast<size_t>(id)] + bias;
  std::vector<int> in_prompt(x.size()), in_answer(x.size());
  for (int32_t token : s.prompt) ++in_prompt[static_cast<size_t>(token)];
  for (int32_t token : s.answer) ++in_answer[static_cast<size_t>(token)];
  for (size_t i = 0; i < x.size(); ++i) {
    if (in_prompt[i] + in_answer[i] > 0)
      x[i] = x[i] > 0 ? x[i] / s.row.repetition_penalty : x[i] * s.row.repetition_penalty;
    x[i] -= static_cast<Wide>(s.row.frequency_penalty) * in_answer[i];
    if (in_answer[i] > 0) x[i] -= static_cast<Wide>(s.row.presence_penalty);
  }
  return x;
}

std::vector<Wide> softmax(const std::vector<Wide>& x) {
  const Wide top = *std::max_element(x.begin(), x.end());
  std::vector<Wide> p;
  Wide total = 0;
  for (Wide each : x) p.push_back(std::exp(each - top));
  for (Wide each : p) total += each;
  for (Wide& each : p) each /= total;
  return p;
}

/// Keeps the first of `order` whose p sums up to `share`.
void keep_share(std::vector<Wide>& x, const std::vector<Wide>& p, const std::vector<size_t>& order,
                Wide share) {
  Wide sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (sum >= share && i > 0) x[order[i]] = -static_cast<Wide>(kInf);
    sum += p[order[i]];
  }
}

std::vector<Wide> distribution(const std::vector<float>& logits, const Setting& s) {
  std::vector<Wide> x = adjusted(logits, s);
  for (Wide& each : x) each /= s.row.temperature;
  const auto sorted = [&](const auto& value) {  // by this, descending; the lower id first
    std::vector<size_t> order(x.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return value(a) > value(b) || (value(a) == value(b) && a < b);
    });
    return order;
  };
  if (s.row.top_k > 0) {
    const auto order = sorted([&](size_t i) { return x[i]; });
    for (size_t i = static_cast<size_t>(s.row.top_k); i < order.size(); ++i)
      x[order[i]] = -static_cast<Wide>(kInf);
  }
  if (s.row.typical_p < 1) {
    const std::vector<Wide> p = softmax(x);
    Wide entropy = 0;
    for (Wide each : p) entropy -= each > 0 ? each * std::log(each) : 0;
    keep_share(x, p, sorted([&](size_t i) { return -std::abs(-std::log(p[i]) - entropy); }),
               s.row.typical_p);
  }
  if (s.row.top_p < 1) {
    const std::vector<Wide> p = softmax(x);
    keep_share(x, p, sorted([&](size_t i) { return p[i]; }), s.row.top_p);
  }
  if (s.row.min_p > 0) {
    const std::vector<Wide> p = softmax(x);
    const Wide best = *std::max_element(p.begin(), p.end());
    for (size_t i = 0; i < x.size(); ++i)
      if (p[i] < s.row.min_p * best) x[i] = -static_cast<Wide>(kInf);
  }
  return softmax(x);
}

// ---- chi-square ----

/// The probability that chi-square with `degrees` of freedom is `statistic` or more: the upper
/// incomplete gamma function by its series and its continued fraction.
double chi_square_tail(double statistic, int degrees) {
  const double a = degrees / 2.0, x = statistic / 2;
  if (x <= 0) return 1;
  const double front = std::exp(-x + a * std::log(x) - std::lgamma(a));
  if (x < a + 1) {
    double term = 1 / a, sum = term;
    for (double n = a + 1; term > sum * 1e-16; ++n) sum += term *= x / n;
    return 1 - front * sum;
  }
  double b = x + 1 - a, c = 1e300, d = 1 / b, h = d;
  for (int i = 1; i < 10000; ++i) {
    const double an = -i * (i - a);
    b += 2;
    d = 1 / (an * d + b);
    c = b + an / c;
    h *= d * c;
    if (std::abs(d * c - 1) < 1e-15) break;
  }
  return front * h;
}

TEST(ChiSquare, HasKnownQuantiles) {
  EXPECT_NEAR(chi_square_tail(3.841, 1), 0.05, 1e-4);
  EXPECT_NEAR(chi_square_tail(18.307, 10), 0.05, 1e-4);
  EXPECT_NEAR(chi_square_tail(29.588, 10), 0.001, 1e-5);
  EXPECT_NEAR(chi_square_tail(124.342, 100), 0.05, 1e-4);
}

// With fixed seeds a test passes or fails for good; a right sampler would have failed one of about
// 60 tests with a probability of 1e-4.
constexpr double kSignificance = 1e-6;
constexpr int kDraws = 100'000;

/// Pearson's statistic of the draws; what has no mass must never be drawn, rare tokens share a bin.
void expect_distribution(const std::vector<float>& logits, Setting setting, const char* what) {
  SCOPED_TRACE(what);
  SamplingRow row = setting.made();
  const std::vector<Wide> expected = distribution(logits, setting);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) {
    row.counter = static_cast<uint64_t>(i);
    const int32_t token = sample_token(logits, row);
    ASSERT_GE(token, 0);
    ++counts[static_cast<size_t>(token)];
  }
  double statistic = 0, rare_mean = 0;
  int bins = 0, rare_count = 0;
  const auto add = [&](double mean, int count) {
    statistic += (count - mean) * (count - mean) / mean;
    ++bins;
  };
  for (size_t i = 0; i < expected.size(); ++i) {
    const double mean = kDraws * static_cast<double>(expected[i]);
    if (expected[i] == 0) {
      ASSERT_EQ(counts[i], 0) << "token " << i;
    } else if (mean < 10) {
      rare_mean += mean;
      rare_count += counts[i];
    } else {
      add(mean, counts[i]);
    }
  }
  if (rare_mean > 0) add(std::max(rare_mean, 1.0), rare_count);
  if (bins < 2) return;
  EXPECT_GT(chi_square_tail(statistic, bins - 1), kSignificance)
      << statistic << " with " << bins << " bins";
}

std::vector<float> random_logits(size_t vocab, uint64_t seed, float spread = 2.0f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& x : logits) x = normal(random);
  return logits;
}

const std::vector<float> kEight = {1.0f, 3.0f, 2.0f, 0.5f, -1.0f, 2.5f, 0.0f, 1.5f};

TEST(Sampler, EachFilterGivesItsDistribution) {
  const std::vector<std::pair<const char*, SamplingRow>> rows = {
      {"temperature 0.5", {.temperature = 0.5f}},
      {"temperature 1", {.temperature = 1}},
      {"temperature 2.5", {.temperature = 2.5f}},
      {"top_k 1", {.temperature = 1, .top_k = 1}},
      {"top_k 3", {.temperature = 1, .top_k = 3}},
      {"top_k beyond", {.temperature = 1, .top_k = 1 << 30}},
      {"top_p 0.1", {.temperature = 1, .top_p = 0.1f}},
      {"top_p 0.7", {.temperature = 1, .top_p = 0.7f}},
      {"top_p 0.99", {.temperature = 1, .top_p = 0.99f}},
      {"min_p 0.05", {.temperature = 1, .min_p = 0.05f}},
      {"min_p 0.3", {.temperature = 1.5f, .min_p = 0.3f}},
      {"min_p 1", {.temperature = 1, .min_p = 1}},
      {"typical_p 0.2", {.temperature = 1, .typical_p = 0.2f}},
      {"typical_p 0.6", {.temperature = 1, .typical_p = 0.6f}},
      {"typical_p 0.95", {.temperature = 1, .typical_p = 0.95f}},
  };
  uint64_t seed = 100;
  for (const auto& logits : {kEight, random_logits(150, 1)})
    for (auto [name, row] : rows) {
      row.seed = ++seed;
      expect_distribution(logits, {.row = row}, name);
    }
}

TEST(Sampler, BiasAndPenaltiesGiveTheirDistribution) {
  const std::vector<TokenBias> bias = {{1, -2.0f}, {4, 3.0f}, {2, -100}, {7, 0.5f}};
  const std::vector<int32_t> prompt = {1, 5, 5, 4}, answer = {0, 0, 0, 5, 7, 4};
  const auto with = [&](SamplingRow row, bool biased) {
    row.temperature = 1;
    row.seed = 77;
    return Setting{row, biased ? bias : std::vector<TokenBias>{}, prompt, answer, {}};
  };
  expect_distribution(kEight, with({}, true), "bias");
  expect_distribution(kEight, with({.repetition_penalty = 1.4f}, false), "repetition");
  expect_distribution(kEight, with({.repetition_penalty = 0.7f}, false), "repetition below 1");
  expect_distribution(kEight, with({.presence_penalty = 1.5f}, false), "presence");
  expect_distribution(kEight, with({.frequency_penalty = 0.6f}, false), "frequency");
  expect_distribution(kEight, with({.frequency_penalty = -0.6f}, false), "frequency below 0");
  expect_distribution(
      kEight,
      with({.repetition_penalty = 1.2f, .presence_penalty = 0.4f, .frequency_penalty = 0.3f}, true),
      "all of them");
}

Setting random_setting(size_t vocab, std::mt19937_64& random) {
  const auto number = [&](float low, float high) {
    return low + (high - low) * static_cast<float>(random() % 10'000) / 10'000;
  };
  const auto often = [&] { return random() % 2 == 0; };
  const auto token = [&] { return static_cast<int32_t>(random() % vocab); };
  Setting s;
  s.row.temperature = number(0.3f, 3);
  s.row.seed = random();
  if (often()) s.row.top_k = 1 + static_cast<int32_t>(random() % (vocab + 1));
  if (often()) s.row.typical_p = number(0.05f, 0.999f);
  if (often()) s.row.top_p = number(0.05f, 0.999f);
  if (often()) s.row.min_p = number(0, 0.4f);
  if (often()) s.row.repetition_penalty = number(0.6f, 1.8f);
  if (often()) s.row.presence_penalty = number(-1, 2);
  if (often()) s.row.frequency_penalty = number(-0.5f, 1);
  std::map<int32_t, float> bias;
  for (size_t i = random() % 6; i > 0; --i)
    bias[token()] = random() % 4 == 0 ? -100.0f : number(-5, 5);
  if (bias.size() < vocab)  // something is left
    for (const auto& [id, value] : bias) s.bias.push_back({id, value});
  for (size_t i = random() % 12; i > 0; --i) s.prompt.push_back(token());
  for (size_t i = random() % 12; i > 0; --i) s.answer.push_back(token());
  return s;
}

TEST(Sampler, CombinationsApplyInTheStatedOrder) {
  // All filters bite, and another order would give another set.
  expect_distribution(kEight,
                      {.row = {.temperature = 1.3f,
                               .top_k = 6,
                               .top_p = 0.8f,
                               .min_p = 0.2f,
                               .typical_p = 0.9f,
                               .seed = 3}},
                      "all filters");
  std::mt19937_64 random(42);
  for (int i = 0; i < 12; ++i)
    expect_distribution(random_logits(60, 50 + static_cast<uint64_t>(i)),
                        random_setting(60, random), "a random combination");
}

// Token by token: the inverse of the naive cumulative distribution at the same number, over
// vocabularies that take every path through the selection, with and without equal logits.
TEST(Sampler, DrawsWhatTheNaiveDistributionDraws) {
  std::mt19937_64 random(7);
  int64_t compared = 0;
  for (size_t vocab : {1u, 2u, 17u, 300u, 5'000u})
    for (int i = 0; i < (vocab > 1000 ? 60 : 150); ++i) {
      std::vector<float> logits = random_logits(vocab, random(), i % 3 == 0 ? 0.5f : 4.0f);
      if (i % 4 == 0)
        for (float& x : logits) x = std::round(x * 2) / 2;
      if (i % 5 == 0)
        for (size_t j = 1; j < vocab; j += 3) logits[j] = -kInf;
      Setting setting = random_setting(vocab, random);
      if (vocab < 3) setting.bias.clear();
      if (i % 5 == 0) setting.bias.clear();
      SamplingRow row = setting.made();
      const std::vector<Wide> p = distribution(logits, setting);
      for (uint64_t counter = 0; counter < 20; ++counter) {
        row.counter = counter;
        const Wide uniform = uniform_at(row.seed, counter);
        Wide sum = 0;
        int32_t expected = -1;
        bool close = false;
        for (size_t t = 0; t < vocab; ++t) {
          if (p[t] == 0) continue;
          if (sum <= uniform) expected = static_cast<int32_t>(t);
          sum += p[t];
          close = close || std::abs(sum - uniform) < 1e-6L;
        }
        if (close) continue;
        ++compared;
        ASSERT_EQ(sample_token(logits, row), expected)
            << "vocab " << vocab << " setting " << i << " counter " << counter;
      }
    }
  EXPECT_GT(compared, 12'000);
}

TEST(Sampler, Greedy) {
  EXPECT_EQ(sample_token(kEight, {}), 1);
  EXPECT_EQ(sample_token(std::vector<float>{2, 5, 5}, {}), 1);
  EXPECT_EQ(sample_token(std::vector<float>{-0.0f, 0.0f}, {}), 0);
  std::mt19937_64 random(9);
  for (size_t vocab : {1u, 15u, 16u, 17u, 31u, 1000u})
    for (int i = 0; i < 20; ++i) {
      std::vector<float> logits = random_logits(vocab, random());
      if (i % 2 == 0)
        for (float& x : logits) x = std::round(x);
      EXPECT_EQ(sample_token(logits, {}),
                std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
  Setting setting;
  setting.bias = {{1, -100}, {6, 4}};
  EXPECT_EQ(sample_token(kEight, setting.made()), 6);
  setting.row.repetition_penalty = 4;
  setting.prompt = {6};
  EXPECT_EQ(sample_token(kEight, setting.made()), 5);
}

TEST(Sampler, FailuresHaveACause) {
  for (float temperature : {0.0f, 1.0f}) {
    SamplingRow row{.temperature = temperature};
    EXPECT_EQ(sample_token(std::vector<float>{1, kNan, 0}, row), kNanLogits);
    EXPECT_EQ(sample_token(std::vector<float>{1, -kNan, 0}, row), kNanLogits);
    EXPECT_EQ(sample_token(std::vector<float>{kInf, kNan, 0}, row), kNanLogits);
    EXPECT_EQ(sample_token(std::vector<float>{-kInf, -kInf}, row), kInfiniteLogits);
    EXPECT_EQ(sample_token(std::vector<float>{kInf, 0}, row), kInfiniteLogits);
    EXPECT_EQ(sample_token(std::vector<float>{-kInf, 0}, row), 1);
    const std::vector<TokenBias> ban = {{0, -100}, {1, -100}};
    row.bias = ban;
    EXPECT_EQ(sample_token(std::vector<float>{3, 4}, row), kAllBanned);
    EXPECT_EQ(sample_token(std::vector<float>{3, 4, -kInf}, row), kAllBanned);
    EXPECT_EQ(sample_token(std::vector<float>{3, 4, -50}, row), 2);
    // A ban does not hide what is wrong with the model.
    EXPECT_EQ(sample_token(std::vector<float>{kNan, 4, 1}, row), kNanLogits);
  }
}

TEST(Sampler, BansHoldUnderAnythingElse) {
  SamplingRow row{.temperature = 100, .repetition_penalty = 0.01f, .seed = 1};
  const std::vector<TokenBias> ban = {{1, -100}, {5, -100}}, force = {{4, 100}};
  TokenHistory history;
  history.add_prompt(std::vector<int32_t>{1, 5});
  row.history = history.counts();
  row.bias = ban;
  for (row.counter = 0; row.counter < 2000; ++row.counter) {
    const int32_t token = sample_token(kEight, row);
    ASSERT_TRUE(token != 1 && token != 5);
  }
  row = {.temperature = 1, .seed = 1, .bias = force};
  for (row.counter = 0; row.counter < 2000; ++row.counter) ASSERT_EQ(sample_token(kEight, row), 4);
}

TEST(Sampler, ExtremeNumbersLeaveAToken) {
  const std::vector<float> wide = {-3e38f, 3e38f, 2.9e38f, 0, 1};
  for (float temperature : {1e-45f, 1e-30f, 1e-6f, 1.0f, 100.0f})
    for (const SamplingRow& row : {SamplingRow{}, SamplingRow{.top_k = 2},
                                   SamplingRow{.top_p = 1e-30f}, SamplingRow{.typical_p = 1e-30f},
                                   SamplingRow{.min_p = 1e-30f}, SamplingRow{.min_p = 1}}) {
      SamplingRow tried = row;
      tried.temperature = temperature;
      EXPECT_EQ(sample_token(wide, tried), 1);
      EXPECT_EQ(sample_token(std::vector<float>{4, 4.5f, -2}, tried) >= 0, true);
    }
  // At a temperature this low nothing but the largest is left.
  EXPECT_EQ(sample_token(std::vector<float>{1000, 1000.25f, 1}, {.temperature = 1e-6f}), 1);
  Setting huge;
  huge.row = {.temperature = 1, .repetition_penalty = 1e-3f};
  huge.prompt = {1};
  EXPECT_EQ(sample_token(wide, huge.made()), 1);
}

TEST(Sampler, PenaltiesEqualADenseImplementation) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 300; ++i) {
    const size_t vocab = 1 + random() % 200;
    const std::vector<float> logits = random_logits(vocab, random(), 5);
    Setting setting = random_setting(vocab, random);
    const std::vector<Wide> expected = adjusted(logits, setting);
    std::vector<float> got = logits;
    adjust_logits(got, setting.made());
    for (size_t t = 0; t < vocab; ++t) {
      if (std::isinf(expected[t]))
        ASSERT_EQ(got[t], -kInf);
      else
        ASSERT_NEAR(got[t], static_cast<double>(expected[t]), 1e-5) << i << " token " << t;
    }
  }
}

TEST(Sampler, LogprobsEqualADoubleReference) {
  std::mt19937_64 random(13);
  for (size_t vocab : {1u, 5u, 300u, 20'001u})
    for (int i = 0; i < 10; ++i) {
      std::vector<float> logits = random_logits(vocab, random(), i % 2 == 0 ? 1.0f : 12.0f);
      if (i % 3 == 0)
        for (float& x : logits) x = std::round(x);  // equals
      if (i % 4 == 0 && vocab > 2) logits[1] = -kInf;
      std::vector<Wide> expected = softmax({logits.begin(), logits.end()});
      for (Wide& p : expected) p = std::log(p);
      std::vector<size_t> order(vocab);
      std::iota(order.begin(), order.end(), size_t{0});
      std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
      });
      while (logits[order.back()] == -kInf) order.pop_back();
      for (int32_t n : {0, 1, 5, 20}) {
        const auto token = static_cast<int32_t>(order[random() % order.size()]);
        const TokenLogprobs got = token_logprobs(logits, token, n);
        EXPECT_EQ(got.token, token);
        EXPECT_NEAR(got.logprob, static_cast<double>(expected[static_cast<size_t>(token)]), 1e-9);
        ASSERT_EQ(got.top.size(), std::min(order.size(), static_cast<size_t>(n)));
        for (size_t t = 0; t < got.top.size(); ++t) {
          EXPECT_EQ(got.top[t].first, static_cast<int32_t>(order[t]));
          EXPECT_NEAR(got.top[t].second, static_cast<double>(expected[order[t]]), 1e-9);
        }
      }
    }
}

TEST(Sampler, WhatLiesInTheScratchDoesNotMatter) {
  const std::vector<float> logits = random_logits(777, 3);
  const size_t bytes = sample_scratch_bytes(logits.size());
  std::vector<std::byte> memory(bytes + 128);
  const size_t skipped = (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  const std::span<std::byte> scratch(memory.data() + skipped, bytes);
  std::mt19937_64 random(5);
  for (int i = 0; i < 50; ++i) {
    Setting setting = random_setting(logits.size(), random);
    const SamplingRow row = setting.made();
    const int32_t expected = sample_token(logits, row);
    for (int fill : {0, 0x7f, 0xff}) {
      std::memset(memory.data(), fill, memory.size());
      EXPECT_EQ(sample_token(logits, row, scratch), expected);
      // Nothing is written beside it.
      for (size_t at = skipped + bytes; at < memory.size(); ++at)
        ASSERT_EQ(static_cast<int>(memory[at]), fill);
    }
  }
}

TEST(Sampler, NumbersDependOnSeedAndCounterOnly) {
  EXPECT_EQ(uniform_at(1, 2), uniform_at(1, 2));
  EXPECT_NE(uniform_at(1, 2), uniform_at(1, 3));
  EXPECT_NE(uniform_at(1, 2), uniform_at(2, 2));
  // Philox4x32-10 of an all-zero counter and key starts 6627e8d5 e169c58d (the paper's known
  // answer).
  EXPECT_EQ(uniform_at(0, 0), static_cast<double>(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
}

}  // namespace
}  // namespace decant
