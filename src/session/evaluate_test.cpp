#include "session/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/errors.h"
#include "engine/testing.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_tokens;
using testing::TestModel;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Evaluate, WindowsScoreEveryTokenOnce) {
  for (int64_t tokens : {0, 1, 2, 5, 16, 17, 100})
    for (int64_t context : {2, 3, 8, 16, 200})
      for (const bool bos : {false, true}) {
        const int64_t size = context - (bos ? 1 : 0);
        for (int64_t stride = 1; stride <= size; stride += std::max<int64_t>(1, size / 3)) {
          std::vector<int> times(static_cast<size_t>(tokens));
          for (const EvalWindow& window : eval_windows(tokens, context, stride, bos)) {
            EXPECT_LE(window.end - window.begin, size);
            EXPECT_GE(window.score_from, window.begin + (bos ? 0 : 1));
            EXPECT_EQ(window.begin % stride, 0);
            for (int64_t i = window.score_from; i < window.end; ++i)
              ++times[static_cast<size_t>(i)];
          }
          for (int64_t i = 0; i < tokens; ++i) {
            const bool first = !bos && (i == 0 || (stride == size && i % stride == 0));
            EXPECT_EQ(times[static_cast<size_t>(i)], first ? 0 : 1)
                << tokens << " " << context << " " << stride << " " << bos << " at " << i;
          }
        }
      }
}

TEST(Evaluate, ScoresAPosition) {
  const std::vector<float> p = {0, std::log(2.0f), std::log(3.0f)};  // 1/6, 2/6, 3/6
  const std::vector<float> q = {1, 1, 1};
  PositionScore score = score_position(p, 1);
  EXPECT_NEAR(score.nll, std::log(3.0), 1e-7);
  EXPECT_EQ(score.top, 2);
  score = score_position(q, 0, p);  // KL(p || uniform) = ln 3 - H(p)
  const double entropy = std::log(6.0) / 6 + std::log(3.0) / 3 + std::log(2.0) / 2;
  EXPECT_NEAR(score.kl, std::log(3.0) - entropy, 1e-7);
  EXPECT_NEAR(score.nll, std::log(3.0), 1e-12);
  EXPECT_EQ(score.top, 0);  // the lowest of equals
  EXPECT_EQ(score_position(p, 0, p).kl, 0);
  // Shifting all logits changes nothing; large ones do not overflow.
  std::vector<float> far = p;
  for (float& x : far) x += 1e4f;
  EXPECT_NEAR(score_position(q, 0, far).kl, std::log(3.0) - entropy, 1e-3);
  // What the reference forbids does not count; what only the model forbids is infinitely wrong.
  const std::vector<float> forbidden = {-kInfinity, 0, 0};
  EXPECT_NEAR(score_position(q, 1, forbidden).kl, std::log(1.5), 1e-12);
  EXPECT_EQ(score_position(forbidden, 1, q).kl, std::numeric_limits<double>::infinity());
  for (const float bad : {std::nanf(""), kInfinity})
    EXPECT_THROW(score_position(std::vector<float>{0, bad}, 0), RuntimeError);
  EXPECT_THROW(score_position(std::vector<float>{-kInfinity, -kInfinity}, 0), RuntimeError);
}

TEST(Evaluate, Quantiles) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_EQ(quantile(values, 0), 1);
  EXPECT_EQ(quantile(values, 1), 8);
  EXPECT_EQ(quantile(values, 0.5), 3);
  EXPECT_NEAR(quantile(values, 0.9), 4 + 0.7 * 4, 1e-12);
  EXPECT_EQ(quantile(std::vector<double>{7}, 0.999), 7);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(quantile(std::vector<double>{0, infinity, infinity}, 0.75), infinity);
}

TEST(Evaluate, RowsInPiecesEqualWholeRows) {
  const auto backend = make_backend("cpu", {.threads = 2});
  for (const bool recurrent : {false, true}) {
    testing::TestModelOptions model;
    model.recurrent = recurrent;
    EngineOptions options;
    options.ctx_size = 512;
    options.max_sequences = 2;
    options.prefill_chunk = 64;
    Engine engine(std::make_shared<TestModel>(model), *backend, options);
    const std::vector<int32_t> first = random_tokens(150, 1);
    const std::vector<int32_t> second = random_tokens(131, 2);
    std::vector<std::vector<std::vector<float>>> want(2);
    engine.score(std::vector{first, second}, {},
                 [&](size_t row, int64_t, std::span<const float> logits) {
                   want[row].emplace_back(logits.begin(), logits.end());
                 });
    // Two rows of one engine in turn.
    std::vector<std::vector<std::vector<float>>> got(2);
    {
      RowScoring a(engine, first);
      RowScoring b(engine, second);
      EXPECT_EQ(a.chunk(), 64);
      while (!a.done() || !b.done())
        for (int r : {0, 1}) {
          RowScoring& row = r == 0 ? a : b;
          if (row.done()) continue;
          row.advance([&](int64_t position, std::span<const float> logits) {
            EXPECT_EQ(position, std::ssize(got[static_cast<size_t>(r)]));
            got[static_cast<size_t>(r)].emplace_back(logits.begin(), logits.end());
          });
        }
    }
    EXPECT_EQ(got, want);
    EXPECT_THROW(RowScoring(engine, random_tokens(513, 3)), RequestError);
    EXPECT_THROW(RowScoring(engine, {-1}), RequestError);
    engine.check_integrity();
  }
}

TEST(Evaluate, FewTokensAndOtherModelsAreRefused) {
  const fs::path demo = fs::path(DECANT_TEST_DATA) / "demo/gemma3n";
  EvalModel model(demo, {.threads = 1, .context = 64});
  const EvalText text = eval_text(model.tokenizer(), "The opposite of hot is cold.");
  EXPECT_GT(text.ids.size(), 3u);
  const Evaluation same = evaluate(model, nullptr, text, 64, 32);
  EXPECT_EQ(same.model.tokens, std::ssize(text.ids) - (text.bos ? 0 : 1));
  EXPECT_GT(same.model.value(), 1);
  EXPECT_FALSE(same.divergence);
  EXPECT_THROW(evaluate(model, nullptr, {{}, {}}, 64, 32), RequestError);
  EXPECT_THROW(EvalModel(demo, {.threads = 1, .context = 1 << 20}), UsageError);
  EvalModel twin(demo, {.threads = 1, .exact = true, .context = 64});
  EXPECT_NO_THROW(check_same_tokens(model, twin, "Hello there"));
  const Evaluation routes = evaluate(model, &twin, text, 64, 32);
  EXPECT_EQ(routes.model.nll, same.model.nll);
  EXPECT_GT(routes.divergence->max, 0) << "both routes gave the same bits";
  EXPECT_NEAR(routes.divergence->nll_difference, routes.model.nll - routes.reference->nll, 1e-12);
}

}  // namespace
}  // namespace decant
