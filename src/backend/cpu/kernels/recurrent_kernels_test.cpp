// The gated delta rule in its two forms, over long sequences and at the ends of its gates.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/vector_kernels.h"
#include "ops/gated_delta.h"

namespace decant::cpu {
namespace {

struct Gates {
  const char* name;
  float decay;      // g = -decay * softplus(normal)
  float beta;       // fixed; negative: sigmoid(normal)
  bool correlated;  // keys that are nearly one: the triangular system is far from the identity
};
constexpr Gates kGates[] = {{"usual", 0.3f, -1, false},
                            {"forgets nothing", 0, -1, false},
                            {"forgets nothing, writes all", 0, 1, false},
                            {"forgets at once", 300, -1, false},
                            {"forgets at times", 20, -1, false},
                            {"one key, writes all", 1e-4f, 1, true},
                            {"writes nothing", 0.1f, 0, false}};

/// One head's tokens.
struct Head {
  int64_t dk, dv, count;
  std::vector<float> q, k, v, g, beta, y, state;

  Head(int64_t key_dim, int64_t value_dim, int64_t tokens, const Gates& gates)
      : dk(key_dim), dv(value_dim), count(tokens), y(static_cast<size_t>(tokens * value_dim)) {
    std::mt19937 engine(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int64_t size) {
      for (int64_t i = 0; i < size; ++i) x.push_back(normal(engine));
    };
    fill(state, dk * dv);
    fill(v, count * dv);
    const auto unit_rows = [&](std::vector<float>& x, float apart) {
      for (int64_t t = 0; t < count; ++t) {
        double squares = 0;
        const size_t first = x.size();
        for (int64_t i = 0; i < dk; ++i) {
          x.push_back(apart * normal(engine) + (apart < 1 ? 1.0f : 0.0f));
          squares += static_cast<double>(x.back()) * x.back();
        }
        for (size_t i = first; i < x.size(); ++i)
          x[i] = static_cast<float>(x[i] / std::sqrt(squares));
      }
    };
    unit_rows(q, 1);
    unit_rows(k, gates.correlated ? 1e-2f : 1.0f);
    for (int64_t t = 0; t < count; ++t) {
      g.push_back(-gates.decay * std::log1p(std::exp(normal(engine))));
      beta.push_back(gates.beta >= 0 ? gates.beta : 1 / (1 + std::exp(normal(engine))));
    }
  }
  /// The rule token by token in double; leaves this head's own state alone.
  void reference(std::vector<double>& out, std::vector<double>& s) const {
    s.assign(state.begin(), state.end());
    out.clear();
    for (int64_t t = 0; t < count; ++t) {
      const float* key = k.data() + t * dk;
      const double decay = std::exp(static_cast<double>(g[static_cast<size_t>(t)]));
      for (int64_t j = 0; j < dv; ++j) {
        double seen = 0, sum = 0;
        for (int64_t i = 0; i < dk; ++i) seen += decay * at(s, i, j) * key[i];
        const double delta =
            beta[static_cast<size_t>(t)] * (v[static_cast<size_t>(t * dv + j)] - seen);
        for (int64_t i = 0; i < dk; ++i) {
          at(s, i, j) = decay * at(s, i, j) + key[i] * delta;
          sum += at(s, i, j) * q[static_cast<size_t>(t * dk + i)];
        }
        out.push_back(sum);
      }
    }
  }
  DeltaChunk chunk(int64_t first, int64_t rows) {
    return {.q = q.data() + first * dk,
            .k = k.data() + first * dk,
            .v = v.data() + first * dv,
            .g = g.data() + first,
            .beta = beta.data() + first,
            .q_stride = dk,
            .k_stride = dk,
            .v_stride = dv,
            .g_stride = 1,
            .beta_stride = 1,
            .y = y.data() + first * dv,
            .y_stride = dv,
            .count = rows};
  }
  DeltaToken token(int64_t t) {
    return {q.data() + t * dk,
            k.data() + t * dk,
            v.data() + t * dv,
            g[static_cast<size_t>(t)],
            beta[static_cast<size_t>(t)],
            y.data() + t * dv};
  }

 private:
  double& at(std::vector<double>& s, int64_t i, int64_t j) const {
    return s[static_cast<size_t>(i * dv + j)];
  }
};

class RecurrentKernels : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!isa_available(GetParam()))
      GTEST_SKIP() << name_of(GetParam()) << " is not available on this processor";
  }
  const VectorKernels& k() const { return vector_kernels(GetParam()); }
  std::vector<float> scratch(const Head& head) const {
    const int64_t floats = std::max(head.dk * 64, delta_chunk_floats(head.dk, head.dv, kDeltaTile));
    // What scratch held before must not matter.
    return std::vector<float>(static_cast<size_t>(floats), std::numeric_limits<float>::quiet_NaN());
  }
  void run_chunks(Head& head, int64_t tile = kDeltaTile) const {
    auto room = scratch(head);
    for (int64_t t = 0; t < head.count; t += tile)
      k().delta_chunk(head.state.data(), head.dk, head.dv,
                      head.chunk(t, std::min(tile, head.count - t)), room.data());
  }
  void run_steps(Head& head) const {
    auto room = scratch(head);
    for (int64_t t = 0; t < head.count; ++t) {
      const DeltaToken token = head.token(t);
      k().delta_steps(head.state.data(), head.dk, head.dv, &token, 1, 1, room.data());
    }
  }
};

INSTANTIATE_TEST_SUITE_P(EveryIsa, RecurrentKernels,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& param) { return std::string(name_of(param.param)); });

/// Largest difference over the largest wanted magnitude; infinite where a value is not finite.
double relative_difference(const std::vector<float>& got, const std::vector<double>& want) {
  double top = 1e-30, worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    top = std::max(top, std::abs(want[i]));
    worst = std::max(worst, std::abs(got[i] - want[i]));
  }
  return worst / top;
}

TEST_P(RecurrentKernels, BothFormsFollowTheRule) {
  for (const Gates& gates : kGates)
    for (const auto& [dk, dv] : {std::pair{128, 128}, {32, 32}, {20, 36}, {7, 5}})
      for (const int64_t count : {1, 2, 63, 64, 65, 127, 200}) {
        SCOPED_TRACE(std::string(gates.name) + " " + std::to_string(dk) + "x" + std::to_string(dv) +
                     ", " + std::to_string(count) + " tokens");
        Head steps(dk, dv, count, gates), chunks = steps;
        std::vector<double> y, state;
        steps.reference(y, state);
        run_steps(steps);
        run_chunks(chunks);
        EXPECT_LE(relative_difference(steps.y, y), 1e-5);
        EXPECT_LE(relative_difference(steps.state, state), 1e-5);
        EXPECT_LE(relative_difference(chunks.y, y), 1e-4);
        EXPECT_LE(relative_difference(chunks.state, state), 1e-4);
      }
}

TEST_P(RecurrentKernels, StaysFiniteAndRepeatableOverLongSequences) {
  for (const Gates& gates : kGates) {
    SCOPED_TRACE(gates.name);
    Head steps(64, 64, 4096, gates), chunks = steps, again = steps;
    std::vector<double> y, state;
    steps.reference(y, state);
    run_steps(steps);
    run_chunks(chunks);
    run_chunks(again);
    EXPECT_LE(relative_difference(steps.y, y), 1e-4);
    EXPECT_LE(relative_difference(steps.state, state), 1e-4);
    EXPECT_LE(relative_difference(chunks.y, y), 1e-4);
    EXPECT_LE(relative_difference(chunks.state, state), 1e-4);
    EXPECT_EQ(std::memcmp(chunks.y.data(), again.y.data(), again.y.size() * 4), 0);
    EXPECT_EQ(std::memcmp(chunks.state.data(), again.state.data(), again.state.size() * 4), 0);
  }
}

// A row of a tile has the bits it has as the tile's last, whatever follows it: NaN too.
TEST_P(RecurrentKernels, RowsDoNotDependOnWhatFollows) {
  for (const auto& [dk, dv] : {std::pair{128, 128}, {20, 36}}) {
    Head whole(dk, dv, 64, kGates[0]);
    const Head start = whole;
    run_chunks(whole);
    for (const int64_t count : {1, 2, 5, 31, 62}) {
      Head part = start;
      part.v[static_cast<size_t>(count * dv)] = std::numeric_limits<float>::quiet_NaN();
      auto room = scratch(part);
      k().delta_chunk(part.state.data(), dk, dv, part.chunk(0, 64), room.data());
      EXPECT_EQ(std::memcmp(part.y.data(), whole.y.data(), static_cast<size_t>(count * dv) * 4), 0)
          << count;
      Head shorter = start;
      k().delta_chunk(shorter.state.data(), dk, dv, shorter.chunk(0, count), room.data());
      EXPECT_EQ(std::memcmp(shorter.y.data(), whole.y.data(), static_cast<size_t>(count * dv) * 4),
                0)
          << count;
    }
  }
}

// Tokens that are only answered leave the state as the stored ones made it, and are answered with
// the bits they have when they are stored.
TEST_P(RecurrentKernels, AnswersWithoutStoring) {
  for (const auto& [dk, dv] : {std::pair{128, 128}, {20, 36}})
    for (const int64_t stored : {0, 1, 3, 5}) {
      Head one_by_one(dk, dv, 5, kGates[0]);
      Head together = one_by_one, prefix = one_by_one;
      run_steps(one_by_one);
      prefix.count = stored;
      run_steps(prefix);
      std::vector<DeltaToken> tokens;
      for (int64_t t = 0; t < 5; ++t) tokens.push_back(together.token(t));
      auto room = scratch(together);
      k().delta_steps(together.state.data(), dk, dv, tokens.data(), stored, 5, room.data());
      EXPECT_EQ(std::memcmp(together.y.data(), one_by_one.y.data(), together.y.size() * 4), 0);
      EXPECT_EQ(together.state, prefix.state);
    }
}

}  // namespace
}  // namespace decant::cpu
