// How the engine feeds the samplers: histories, biases, logprobs, seeds among neighbours.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/reference/reference_backend.h"
#include "engine/engine.h"
#include "engine/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using testing::random_tokens;
using testing::TestModel;

constexpr int32_t kVocab = 96;
constexpr int32_t kNanToken = kVocab - 1;

using BackendFactory = std::unique_ptr<Backend> (*)();
std::unique_ptr<Backend> cpu_backend() { return make_backend("cpu", {.threads = 2}); }

/// What one request saw.
struct Trace {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<TokenLogprobs> logprobs;
  RequestResult result;
};

Request traced(std::vector<int32_t> prompt, int64_t max_tokens, SamplingParams sampling,
               Trace& trace) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling = std::move(sampling);
  request.on_logits = [&](std::span<const float> logits) {
    trace.logits.emplace_back(logits.begin(), logits.end());
  };
  request.on_logprobs = [&](const TokenLogprobs& token) {
    EXPECT_EQ(trace.logprobs.size(), trace.tokens.size()) << "logprobs come before their token";
    trace.logprobs.push_back(token);
  };
  request.on_token = [&](int32_t token) {
    trace.tokens.push_back(token);
    return true;
  };
  request.on_finish = [&](const RequestResult& result) { trace.result = result; };
  return request;
}

class EngineSampling : public ::testing::TestWithParam<std::pair<const char*, BackendFactory>> {
 protected:
  std::unique_ptr<Engine> make(int max_sequences = 4) {
    EngineOptions options;
    options.ctx_size = 512;
    options.max_sequences = max_sequences;
    options.prefill_chunk = 64;
    return std::make_unique<Engine>(std::make_shared<TestModel>(), *backend_, options);
  }
  static void run_all(Engine& engine) {
    while (engine.step()) engine.check_integrity();
    engine.check_integrity();
  }
  Trace run(std::vector<int32_t> prompt, int64_t max_tokens, SamplingParams sampling) {
    auto engine = make();
    Trace trace;
    engine->submit(traced(std::move(prompt), max_tokens, std::move(sampling), trace));
    run_all(*engine);
    return trace;
  }
  std::unique_ptr<Backend> backend_ = GetParam().second();
};
INSTANTIATE_TEST_SUITE_P(
    Backends, EngineSampling,
    ::testing::Values(std::pair<const char*, BackendFactory>{"reference", &make_reference_backend},
                      std::pair<const char*, BackendFactory>{"cpu", &cpu_backend}),
    [](const auto& each) { return std::string(each.param.first); });

// Greedy tokens against dense counts of prompt and answer, in double.
TEST_P(EngineSampling, PenaltiesLookAtPromptAndAnswer) {
  const std::vector<SamplingParams> all = {
      {.repetition_penalty = 1.5f},
      {.presence_penalty = 2},
      {.frequency_penalty = 0.8f},
      {.frequency_penalty = -1},
      {.repetition_penalty = 1.2f, .presence_penalty = 0.5f, .frequency_penalty = 0.3f}};
  const std::vector<int32_t> prompt = random_tokens(90, 3);  // two chunks
  const Trace free = run(prompt, 40, {});
  for (const SamplingParams& params : all) {
    const Trace trace = run(prompt, 40, params);
    ASSERT_EQ(trace.tokens.size(), 40u);
    EXPECT_NE(trace.tokens, free.tokens) << "the penalty decides nothing";
    std::vector<int> in_prompt(kVocab), in_answer(kVocab);
    for (int32_t token : prompt) ++in_prompt[static_cast<size_t>(token)];
    for (size_t t = 0; t < trace.tokens.size(); ++t) {
      std::vector<double> x(trace.logits[t].begin(), trace.logits[t].end());
      for (size_t i = 0; i < x.size(); ++i) {
        if (in_prompt[i] + in_answer[i] > 0)
          x[i] = x[i] > 0 ? x[i] / static_cast<double>(params.repetition_penalty)
                          : x[i] * static_cast<double>(params.repetition_penalty);
        x[i] -= in_answer[i] * static_cast<double>(params.frequency_penalty);
        if (in_answer[i] > 0) x[i] -= static_cast<double>(params.presence_penalty);
      }
      const double best = *std::max_element(x.begin(), x.end());
      EXPECT_GE(x[static_cast<size_t>(trace.tokens[t])], best - 1e-5) << "token " << t;
      ++in_answer[static_cast<size_t>(trace.tokens[t])];
    }
  }
}

// Every backend's token is the host reference's on the same logits, token t at counter t, in every
// row of a large step.
TEST_P(EngineSampling, TokensAreTheHostReferences) {
  const std::vector<TokenBias> bias = {{5, 2}, {9, -100}};
  const auto params = [&](uint64_t seed) {
    return SamplingParams{.temperature = 1.2f,
                          .top_k = 60,
                          .top_p = 0.97f,
                          .min_p = 0.001f,
                          .typical_p = 0.97f,
                          .seed = seed,
                          .logit_bias = bias};
  };
  auto engine = make(40);
  std::vector<Trace> traces(40);
  for (uint64_t i = 0; i < 40; ++i)
    engine->submit(traced(random_tokens(5 + i, i), 12, params(i), traces[i]));
  run_all(*engine);
  EXPECT_EQ(engine->stats().peak_running, 40);
  for (uint64_t i = 0; i < 40; ++i) {
    const SamplingParams s = params(i);
    SamplingRow row{.temperature = s.temperature,
                    .top_k = s.top_k,
                    .top_p = s.top_p,
                    .min_p = s.min_p,
                    .typical_p = s.typical_p,
                    .seed = i,
                    .bias = bias};
    ASSERT_EQ(traces[i].tokens.size(), 12u);
    for (; row.counter < 12; ++row.counter)
      EXPECT_EQ(traces[i].tokens[row.counter], sample_token(traces[i].logits[row.counter], row))
          << "row " << i;
  }
}

TEST_P(EngineSampling, BiasBansAndForces) {
  const std::vector<int32_t> prompt = random_tokens(20, 4);
  const Trace free = run(prompt, 10, {});
  const int32_t first = free.tokens[0];
  for (int32_t token : run(prompt, 10, {.logit_bias = {{first, -100}}}).tokens)
    EXPECT_NE(token, first);
  for (int32_t token : run(prompt, 10, {.temperature = 1, .logit_bias = {{17, 100}}}).tokens)
    EXPECT_EQ(token, 17);
}

TEST_P(EngineSampling, FailuresNameTheirCause) {
  SamplingParams none;
  for (int32_t id = 0; id < kVocab; ++id) none.logit_bias.push_back({id, -100});
  const Trace banned = run({1, 2, 3}, 10, none);
  EXPECT_EQ(banned.result.reason, FinishReason::kError);
  EXPECT_THAT(banned.result.error, HasSubstr("logit_bias"));
  EXPECT_THAT(banned.result.error, HasSubstr("banned"));
  const Trace nan = run({1, kNanToken}, 10, none);
  EXPECT_EQ(nan.result.reason, FinishReason::kError);
  EXPECT_THAT(nan.result.error, HasSubstr("logits of token 0: expected finite numbers, got NaN"));
  EXPECT_THAT(nan.result.error, ::testing::Not(HasSubstr("banned")));
}

TEST_P(EngineSampling, LogprobsAreTheModelsOwn) {
  const std::vector<SamplingParams> all = {
      {.logprobs = 0},
      {.temperature = 1.5f, .top_k = 3, .seed = 2, .logprobs = 5},
      {.temperature = 1,
       .repetition_penalty = 1.5f,
       .seed = 3,
       .logprobs = 20,
       .logit_bias = {{8, 5}}}};
  for (const SamplingParams& params : all) {
    const Trace trace = run(random_tokens(30, 5), 15, params);
    ASSERT_EQ(trace.tokens.size(), 15u);
    ASSERT_EQ(trace.logprobs.size(), 15u);
    ASSERT_EQ(trace.result.logprobs.size(), 15u);
    for (size_t t = 0; t < 15; ++t) {
      const std::vector<float>& x = trace.logits[t];
      double total = 0;
      for (float each : x) total += std::exp(static_cast<double>(each));
      const auto expected = [&](int32_t id) {
        return static_cast<double>(x[static_cast<size_t>(id)]) - std::log(total);
      };
      const TokenLogprobs& got = trace.result.logprobs[t];
      EXPECT_EQ(got.token, trace.tokens[t]);
      EXPECT_EQ(trace.logprobs[t].logprob, got.logprob);
      EXPECT_NEAR(got.logprob, expected(got.token), 1e-6);
      ASSERT_EQ(got.top.size(), static_cast<size_t>(*params.logprobs));
      std::vector<float> sorted = x;
      std::sort(sorted.rbegin(), sorted.rend());
      for (size_t i = 0; i < got.top.size(); ++i) {
        EXPECT_EQ(x[static_cast<size_t>(got.top[i].first)], sorted[i]);
        EXPECT_NEAR(got.top[i].second, expected(got.top[i].first), 1e-6);
      }
    }
  }
  EXPECT_TRUE(run({1, 2}, 5, {}).result.logprobs.empty());
}

TEST_P(EngineSampling, StopIdsHaveNoLogprobs) {
  const std::vector<int32_t> prompt = random_tokens(20, 6);
  const Trace whole = run(prompt, 12, {});
  auto engine = make();
  Trace stopped;
  Request request = traced(prompt, 12, {.logprobs = 2}, stopped);
  request.stop_ids = {whole.tokens[5]};
  engine->submit(std::move(request));
  run_all(*engine);
  EXPECT_EQ(stopped.result.stop_id, whole.tokens[5]);
  EXPECT_EQ(stopped.result.logprobs.size(), stopped.result.tokens.size());
}

// The same tokens and the same logprobs, bit for bit: alone, and among 16 neighbours of which every
// few steps one joins, one ends and one is cancelled.
TEST_P(EngineSampling, SeedsDecideWhateverTheNeighbours) {
  const std::vector<SamplingParams> all = {
      {.temperature = 1, .seed = 1, .logprobs = 3},
      {.temperature = 1, .top_k = 20, .seed = 2, .logprobs = 3},
      {.temperature = 1, .top_p = 0.9f, .seed = 3, .logprobs = 3},
      {.temperature = 1, .min_p = 0.02f, .seed = 4, .logprobs = 3},
      {.temperature = 1, .typical_p = 0.8f, .seed = 5, .logprobs = 3},
      {.temperature = 0.9f,
       .top_k = 50,
       .top_p = 0.95f,
       .min_p = 0.01f,
       .typical_p = 0.95f,
       .repetition_penalty = 1.2f,
       .presence_penalty = 0.2f,
       .frequency_penalty = 0.1f,
       .seed = 6,
       .logprobs = 3,
       .logit_bias = {{5, 2}, {9, -100}}}};
  for (const SamplingParams& params : all) {
    const std::vector<int32_t> prompt = random_tokens(70, params.seed);
    const Trace alone = run(prompt, 40, params);
    ASSERT_EQ(alone.tokens.size(), 40u);

    auto engine = make(17);
    std::vector<std::unique_ptr<Trace>> neighbours;
    std::vector<RequestId> ids;
    const auto join = [&] {
      const size_t i = neighbours.size();
      neighbours.push_back(std::make_unique<Trace>());
      SamplingParams other = all[i % all.size()];
      other.seed = 100 + i;
      ids.push_back(
          engine->submit(traced(random_tokens(3 + i * 5 % 90, 40 + i),
                                5 + static_cast<int64_t>(i % 20), other, *neighbours[i])));
    };
    for (int i = 0; i < 9; ++i) join();
    Trace among;
    engine->submit(traced(prompt, 40, params, among));
    for (int i = 0; i < 7; ++i) join();
    for (size_t step = 0; engine->step(); ++step) {
      if (among.tokens.size() < 38 && step % 2 == 0) join();
      if (step % 5 == 4) engine->cancel(ids[step / 2 % ids.size()]);
    }
    EXPECT_EQ(engine->stats().peak_running, 17);
    EXPECT_GT(neighbours.size(), 30u);
    ASSERT_EQ(among.tokens, alone.tokens) << "seed " << params.seed;
    for (size_t t = 0; t < alone.logprobs.size(); ++t) {
      EXPECT_EQ(among.logprobs[t].logprob, alone.logprobs[t].logprob);
      EXPECT_EQ(among.logprobs[t].top, alone.logprobs[t].top);
    }
    SamplingParams other = params;
    other.seed += 1000;
    EXPECT_NE(run(prompt, 40, other).tokens, alone.tokens);
  }
}

TEST_P(EngineSampling, RefusesBadValuesAllAtOnce) {
  auto engine = make();
  Request request;
  request.prompt = {1};
  request.max_tokens = -1;
  request.sampling = {.temperature = NAN,
                      .top_k = -1,
                      .top_p = 1.5f,
                      .min_p = -0.1f,
                      .typical_p = 0,
                      .repetition_penalty = INFINITY,
                      .presence_penalty = 2.5f,
                      .frequency_penalty = NAN,
                      .logprobs = 21,
                      .logit_bias = {{kVocab, 1}}};
  try {
    engine->submit(request);
    FAIL() << "expected an error";
  } catch (const RequestError& error) {
    for (const char* line :
         {"max_tokens: expected 0 or more, got -1",
          "temperature: expected a number from 0 to 100, got nan",
          "top_k: ", "top_p: expected a number above 0 and at most 1, got 1.5", "min_p: ",
          "typical_p: ", "repetition_penalty: expected a number above 0 and at most 100, got inf",
          "presence_penalty: ", "frequency_penalty: ", "logprobs: ",
          "logit_bias: expected token ids from 0 to 95, got 96"})
      EXPECT_THAT(error.what(), HasSubstr(line));
  }
  EXPECT_TRUE(engine->idle());
}

}  // namespace
}  // namespace decant
