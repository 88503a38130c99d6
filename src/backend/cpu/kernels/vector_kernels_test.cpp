#include "backend/cpu/kernels/vector_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

namespace decant::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kSizes[] = {1, 7, 8, 31, 64, 100, 4096};

using Row = std::vector<float>;

Row random_row(int64_t size, uint32_t seed, float deviation = 1.0f, float centre = 0.0f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(centre, deviation);
  Row row(static_cast<size_t>(size));
  for (float& v : row) v = normal(engine);
  return row;
}

bool same_bits(const Row& a, const Row& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Equal up to `relative` of the wanted value and a few of the smallest subnormals; infinities and
// NaN must match.
testing::AssertionResult near(float got, double want, double relative, double absolute = 0) {
  const auto rounded = static_cast<float>(want);
  if (std::isnan(rounded) ? std::isnan(got) : got == rounded) return testing::AssertionSuccess();
  const double allowed = relative * std::abs(want) + absolute + 0x1p-148;
  if (std::abs(got - want) <= allowed) return testing::AssertionSuccess();
  // Just below the largest float a rounding may give infinity.
  if (std::isinf(got) && std::abs(want) * (1 + relative) > std::numeric_limits<float>::max() &&
      (got > 0) == (want > 0))
    return testing::AssertionSuccess();
  return testing::AssertionFailure() << "got " << got << ", want " << want << ", off by "
                                     << std::abs(got - want) << ", allowed " << allowed;
}

class VectorKernelsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!isa_available(GetParam()))
      GTEST_SKIP() << name_of(GetParam()) << " is not available on this processor";
  }
  const VectorKernels& k() const { return vector_kernels(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(EveryIsa, VectorKernelsTest,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(VectorKernelsTest, TableNamesItsIsa) { EXPECT_EQ(k().isa, GetParam()); }

double mean_square(const Row& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return sum / static_cast<double>(x.size());
}

void expect_rms_norm(const VectorKernels& k, const Row& x, const Row* w, float eps) {
  const auto size = static_cast<int64_t>(x.size());
  Row y(x.size());
  k.rms_norm(x.data(), w != nullptr ? w->data() : nullptr, eps, size, y.data());
  const double inverse = 1 / std::sqrt(mean_square(x) + static_cast<double>(eps));
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_TRUE(near(y[i], x[i] * inverse * (w != nullptr ? (*w)[i] : 1.0), 3e-7))
        << size << " at " << i;
  Row in_place = x;
  k.rms_norm(in_place.data(), w != nullptr ? w->data() : nullptr, eps, size, in_place.data());
  EXPECT_TRUE(same_bits(in_place, y));
}

TEST_P(VectorKernelsTest, RmsNorm) {
  for (const int64_t size : kSizes) {
    const Row w = random_row(size, 2, 0.3f, 1.0f);
    expect_rms_norm(k(), random_row(size, 1, 3.0f), &w, 1e-6f);
    expect_rms_norm(k(), random_row(size, 1, 3.0f), nullptr, 1e-5f);
  }
}

TEST_P(VectorKernelsTest, RmsNormOfExtremeRows) {
  for (const float magnitude : {1e-38f, 1e-30f, 1e-15f, 1e15f, 1e19f, 1e25f, 1e37f})
    for (const int64_t size : {7, 100})
      for (const float eps : {0.0f, 1e-6f}) {
        const Row w = random_row(size, 2, 0.3f, 1.0f);
        expect_rms_norm(k(), random_row(size, 5, magnitude), &w, eps);
      }
  Row y(33, 1.0f);
  k().rms_norm(Row(33, 0.0f).data(), nullptr, 1e-6f, 33, y.data());
  EXPECT_EQ(y, Row(33, 0.0f));
  Row spoiled(100, 1.0f), z(100);
  spoiled[99] = kNan;
  k().rms_norm(spoiled.data(), nullptr, 1e-6f, 100, z.data());
  for (const float v : z) EXPECT_TRUE(std::isnan(v));
}

TEST_P(VectorKernelsTest, AddRmsNorm) {
  for (const int64_t size : kSizes) {
    const Row a = random_row(size, 1), b = random_row(size, 2), w = random_row(size, 3);
    Row sum(a.size()), y(a.size()), added(a.size()), normed(a.size());
    k().add_rms_norm(a.data(), b.data(), w.data(), 1e-6f, size, sum.data(), y.data());
    k().binary(Binary::kAdd, a.data(), b.data(), size, added.data());
    k().rms_norm(added.data(), w.data(), 1e-6f, size, normed.data());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(sum[i], a[i] + b[i]);
    EXPECT_TRUE(same_bits(y, normed));
  }
}

TEST_P(VectorKernelsTest, MatchMagnitude) {
  for (const int64_t size : kSizes)
    for (const float magnitude : {1e-4f, 3.0f, 1e22f}) {
      const Row u = random_row(size, 1, magnitude), ref = random_row(size, 2);
      const double factor =
          std::sqrt(mean_square(ref)) / std::sqrt(std::max(mean_square(u), 1e-5 * 1.0));
      Row y(u.size());
      k().match_magnitude(u.data(), ref.data(), 1e-5f, size, y.data());
      for (size_t i = 0; i < u.size(); ++i) EXPECT_TRUE(near(y[i], u[i] * factor, 3e-7));
    }
}

TEST_P(VectorKernelsTest, Angles) {
  std::vector<float> positions = {0, 1, 2, 63, 64, 4095, 30011, 131071, 1048575, 1048576};
  for (int i = 0; i < 400; ++i) positions.push_back(static_cast<float>(i * 2621 + 17));
  for (const int64_t half : {1, 7, 8, 31, 64, 128}) {
    Row inv_freq, c(static_cast<size_t>(half)), s(static_cast<size_t>(half));
    for (int64_t i = 0; i < half; ++i)
      inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
    for (const float position : positions)
      for (const float factor : {1.0f, 1.3f}) {
        k().angles(position, inv_freq.data(), factor, half, c.data(), s.data());
        for (size_t i = 0; i < c.size(); ++i) {
          const double angle = static_cast<double>(position * inv_freq[i]);
          ASSERT_TRUE(near(c[i], std::cos(angle) * factor, 0, 8e-8)) << angle;
          ASSERT_TRUE(near(s[i], std::sin(angle) * factor, 0, 8e-8)) << angle;
        }
      }
  }
}

TEST_P(VectorKernelsTest, Rotate) {
  for (const bool interleaved : {false, true})
    for (const int64_t half : {1, 3, 4, 8, 13, 16, 32, 37, 64})
      for (const int64_t rest : {0, 1, 16, 53}) {
        const int64_t dim = 2 * half + rest;
        const Row x = random_row(dim, 1), c = random_row(half, 2), s = random_row(half, 3);
        Row y(x.size()), in_place = x;
        k().rotate(x.data(), c.data(), s.data(), half, dim, interleaved, y.data());
        for (int64_t i = 0; i < half; ++i) {
          const auto a = static_cast<size_t>(interleaved ? 2 * i : i);
          const auto b = static_cast<size_t>(interleaved ? 2 * i + 1 : i + half);
          const double cd = c[static_cast<size_t>(i)], sd = s[static_cast<size_t>(i)];
          const double size = std::abs(x[a]) + std::abs(x[b]);
          const double bound = 1.2e-7 * size * (std::abs(cd) + std::abs(sd));
          EXPECT_TRUE(near(y[a], x[a] * cd - x[b] * sd, 0, bound));
          EXPECT_TRUE(near(y[b], x[b] * cd + x[a] * sd, 0, bound));
        }
        for (auto i = static_cast<size_t>(2 * half); i < x.size(); ++i) EXPECT_EQ(y[i], x[i]);
        k().rotate(in_place.data(), c.data(), s.data(), half, dim, interleaved, in_place.data());
        EXPECT_TRUE(same_bits(in_place, y));
      }
}

constexpr Unary kUnaries[] = {Unary::kSilu,     Unary::kGeluTanh, Unary::kGeluErf, Unary::kSigmoid,
                              Unary::kTanh,     Unary::kRelu,     Unary::kExp,     Unary::kSqrt,
                              Unary::kSoftplus, Unary::kSoftcap,  Unary::kClamp,   Unary::kScale};

// As apply(), but exact where its formula cancels (gelu of negative values) or has no limit.
double wanted(Unary kind, double x, double constant) {
  if (std::isnan(x)) return x;
  const double inner = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  const bool gate = kind == Unary::kSilu || kind == Unary::kGeluTanh || kind == Unary::kGeluErf;
  if (gate && x == -std::numeric_limits<double>::infinity()) return -0.0;
  if (kind == Unary::kGeluTanh) return x / (1 + std::exp(-2 * inner));
  if (kind == Unary::kGeluErf) return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
  return apply(kind, x, constant);
}

// Relative bound. The tails of gelu magnify the rounding of the exponent, which no float32 formula
// avoids: by |x gelu'(x) / gelu(x)|, about the exponent. That of gelu_erf is counted in
// vector_math.inc.
double bound(Unary kind, double x) {
  switch (kind) {
    case Unary::kExp:
      return 2e-7;
    case Unary::kGeluTanh: {
      const double twice = 1.5957691216 * (x + 0.044715 * x * x * x);
      return x < 0 ? 3e-7 * std::max(1.0, -twice) : 3e-7;
    }
    case Unary::kGeluErf:
      return x < -1 ? 1.5e-7 + (7 + x * x / 2) * 0x1p-24 : 3e-7;
    case Unary::kRelu:
    case Unary::kClamp:
      return 0;
    case Unary::kSqrt:
    case Unary::kScale:
      return 6e-8;
    default:
      return 3e-7;
  }
}

// All magnitudes of floats, both signs, densely where functions bend.
Row sweep() {
  Row all;
  for (uint32_t word = 0; word < 0x7F800000u; word += 40009) {
    all.push_back(std::bit_cast<float>(word));
    all.push_back(-std::bit_cast<float>(word));
  }
  for (float x = -110; x < 95; x += 0.00173f) all.push_back(x);
  for (float x = -1; x < 1; x += 0.000031f) all.push_back(x);
  for (float x = -14; x < -1; x += 0.000013f) all.push_back(x);
  for (const float x : {0.0f, -0.0f, kInf, -kInf, kNan, std::numeric_limits<float>::max(),
                        std::numeric_limits<float>::lowest(), std::numeric_limits<float>::min(),
                        std::numeric_limits<float>::denorm_min(), 88.72283f, 88.722839f, 88.7229f,
                        -87.33654f, -103.9720f, -103.9721f, -104.0f, 20.0f, 20.000002f})
    all.push_back(x);
  return all;
}

TEST_P(VectorKernelsTest, UnaryIsAccurateEverywhere) {
  const Row x = sweep();
  Row y(x.size());
  const auto size = static_cast<int64_t>(x.size());
  for (const Unary kind : kUnaries)
    for (const float constant : {3.5f, 50.0f}) {
      k().unary(kind, x.data(), constant, size, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double want = wanted(kind, x[i], constant);
        // A factor that underflows leaves the product that many smallest subnormals of error.
        const bool product = kind == Unary::kSilu || kind == Unary::kGeluTanh ||
                             kind == Unary::kGeluErf || kind == Unary::kSoftcap;
        const double underflow =
            product ? 0x1p-148 * (constant + std::min(150.0f, std::abs(x[i]))) : 0.0;
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(y[i])) << name_of(kind) << " of " << x[i];
          continue;
        }
        ASSERT_TRUE(near(y[i], want, bound(kind, x[i]), underflow))
            << name_of(kind) << " of " << x[i];
      }
    }
}

TEST_P(VectorKernelsTest, UnaryOfSpecialValues) {
  const auto one = [&](Unary kind, float x) {
    k().unary(kind, &x, 2.0f, 1, &x);
    return x;
  };
  EXPECT_EQ(one(Unary::kExp, 0.0f), 1.0f);
  EXPECT_EQ(one(Unary::kExp, -kInf), 0.0f);
  EXPECT_EQ(one(Unary::kExp, 89.0f), kInf);
  EXPECT_TRUE(std::signbit(one(Unary::kTanh, -0.0f)));
  EXPECT_EQ(one(Unary::kTanh, kInf), 1.0f);
  EXPECT_EQ(one(Unary::kTanh, -kInf), -1.0f);
  EXPECT_EQ(one(Unary::kSoftcap, kInf), 2.0f);
  EXPECT_EQ(one(Unary::kSigmoid, -kInf), 0.0f);
  EXPECT_EQ(one(Unary::kSoftplus, kInf), kInf);
  for (const Unary kind : {Unary::kSilu, Unary::kGeluTanh, Unary::kGeluErf}) {
    EXPECT_EQ(one(kind, -kInf), 0.0f) << name_of(kind);
    EXPECT_EQ(one(kind, kInf), kInf) << name_of(kind);
  }
  for (const Unary kind : kUnaries) EXPECT_TRUE(std::isnan(one(kind, kNan))) << name_of(kind);
}

TEST_P(VectorKernelsTest, ElementsDoNotDependOnTheirPlace) {
  const Row x = random_row(131, 9, 6.0f), up = random_row(131, 10);
  for (const Unary kind : kUnaries) {
    Row whole(x.size()), alone(x.size()), in_place = x, gated(x.size()), gated_alone(x.size());
    k().unary(kind, x.data(), 3.0f, 131, whole.data());
    k().unary(kind, in_place.data(), 3.0f, 131, in_place.data());
    k().act_mul(kind, x.data(), up.data(), 131, gated.data());
    for (size_t i = 0; i < x.size(); ++i) {
      k().unary(kind, &x[i], 3.0f, 1, &alone[i]);
      k().act_mul(kind, &x[i], &up[i], 1, &gated_alone[i]);
    }
    EXPECT_TRUE(same_bits(whole, alone)) << name_of(kind);
    EXPECT_TRUE(same_bits(whole, in_place)) << name_of(kind);
    EXPECT_TRUE(same_bits(gated, gated_alone)) << name_of(kind);
  }
}

TEST_P(VectorKernelsTest, Binary) {
  for (const int64_t size : kSizes) {
    const Row a = random_row(size, 1), b = random_row(size, 2);
    for (const Binary kind : {Binary::kAdd, Binary::kSub, Binary::kMul}) {
      const auto want = [kind](float u, float v) {
        return kind == Binary::kAdd ? u + v : kind == Binary::kSub ? u - v : u * v;
      };
      Row y(a.size()), z(a.size()), in_place = b;
      k().binary(kind, a.data(), b.data(), size, y.data());
      k().binary_scalar(kind, a.data(), 1.7f, size, z.data());
      k().binary(kind, a.data(), in_place.data(), size, in_place.data());
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(y[i], want(a[i], b[i]));
        EXPECT_EQ(z[i], want(a[i], 1.7f));
      }
      EXPECT_TRUE(same_bits(in_place, y));
    }
  }
}

TEST_P(VectorKernelsTest, ActMul) {
  for (const int64_t size : kSizes)
    for (const Unary act : {Unary::kSilu, Unary::kGeluTanh, Unary::kGeluErf, Unary::kRelu}) {
      const Row gate = random_row(size, 1, 3.0f), up = random_row(size, 2);
      Row y(gate.size());
      k().act_mul(act, gate.data(), up.data(), size, y.data());
      for (size_t i = 0; i < gate.size(); ++i)
        EXPECT_TRUE(near(y[i], wanted(act, gate[i], 0) * up[i], bound(act, gate[i]) + 1e-7));
    }
}

double row_mean(const Row& x) {
  double sum = 0;
  for (const float v : x) sum += v;
  return sum / static_cast<double>(x.size());
}
double row_variance(const Row& x) {
  double sum = 0;
  for (const float v : x) sum += (v - row_mean(x)) * (v - row_mean(x));
  return sum / static_cast<double>(x.size());
}

TEST_P(VectorKernelsTest, MeanAndVariance) {
  for (const int64_t size : kSizes)
    for (const float centre : {0.0f, 1000.0f, -1e5f}) {
      const Row x = random_row(size, 4, 1.0f, centre);
      EXPECT_TRUE(near(k().mean(x.data(), size), row_mean(x), 2e-7, 2e-7)) << size;
      EXPECT_TRUE(near(k().variance(x.data(), size), row_variance(x), 1e-6)) << size << centre;
    }
  const Row huge(100, 3e38f);
  EXPECT_TRUE(near(k().mean(huge.data(), 100), row_mean(huge), 2e-7));
  EXPECT_EQ(k().variance(huge.data(), 100), 0.0f);
}

TEST_P(VectorKernelsTest, SumsStayAccurateOverLongRows) {
  // One running sum would be off by about 1e-4 here.
  const Row x(int64_t{1} << 20, 0.1f);
  const auto size = static_cast<int64_t>(x.size());
  EXPECT_TRUE(near(k().mean(x.data(), size), static_cast<double>(0.1f), 4e-6));
  const Row y = random_row(1 << 20, 3, 1.0f, 1.0f);
  EXPECT_TRUE(near(k().mean(y.data(), size), row_mean(y), 2e-6));
}

TEST_P(VectorKernelsTest, GeluTopk) {
  for (const int64_t size : kSizes) {
    const Row gate = random_row(size, 1, 2.0f, 0.3f), up = random_row(size, 2);
    const double cut = row_mean(gate) + std::sqrt(row_variance(gate)) * 1.6448536f;
    Row y(gate.size());
    k().gelu_topk(gate.data(), up.data(), 1.6448536f, size, y.data());
    int64_t kept = 0;
    for (size_t i = 0; i < gate.size(); ++i) {
      const double over = std::max(0.0, gate[i] - cut);
      EXPECT_TRUE(
          near(y[i], wanted(Unary::kGeluTanh, over, 0) * up[i], 1e-6, 2e-6 * std::abs(up[i])));
      kept += y[i] != 0;
    }
    if (size == 4096) {
      EXPECT_NEAR(static_cast<double>(kept) / 4096, 0.05, 0.015);
    }
  }
}

TEST_P(VectorKernelsTest, WeightedSum) {
  for (const int64_t size : kSizes)
    for (const int64_t count : {0, 1, 3, 8})
      for (const bool with_x : {false, true}) {
        const int64_t stride = size + 5;
        const Row x = random_row(size, 1), c = random_row(8, 2), rows = random_row(8 * stride, 3);
        Row y(x.size()), in_place = x;
        k().weighted_sum(with_x ? x.data() : nullptr, c.data(), rows.data(), stride, count, size,
                         y.data());
        for (size_t i = 0; i < x.size(); ++i) {
          float want = with_x ? x[i] : 0.0f;
          for (int64_t r = 0; r < count; ++r)
            want = std::fma(c[static_cast<size_t>(r)], rows[static_cast<size_t>(r * stride) + i],
                            want);
          EXPECT_EQ(y[i], want);
        }
        if (!with_x) continue;
        k().weighted_sum(in_place.data(), c.data(), rows.data(), stride, count, size,
                         in_place.data());
        EXPECT_TRUE(same_bits(in_place, y));
      }
}

TEST_P(VectorKernelsTest, SoftmaxExp) {
  for (const int64_t size : kSizes)
    for (const float centre : {0.0f, 200.0f, -300.0f}) {
      const Row x = random_row(size, 1, 5.0f, centre);
      const float top = *std::max_element(x.begin(), x.end());
      Row y(x.size());
      const float sum = k().softmax_exp(x.data(), size, y.data());
      double want = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        // The difference is rounded once: half an ulp of an exponent up to about 50.
        EXPECT_TRUE(near(y[i], std::exp(static_cast<double>(x[i] - top)), 2e-7));
        want += static_cast<double>(y[i]);
      }
      EXPECT_TRUE(near(sum, want, 1e-6));
    }
  Row y(9);
  EXPECT_EQ(k().softmax_exp(Row(9, -kInf).data(), 9, y.data()), 0.0f);
  EXPECT_EQ(y, Row(9, 0.0f));
  Row masked(9, -kInf);
  masked[8] = 3.0f;
  EXPECT_EQ(k().softmax_exp(masked.data(), 9, y.data()), 1.0f);
}

}  // namespace
}  // namespace decant::cpu
