#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "backend/reference/reference_backend.h"
#include "engine/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using testing::random_tokens;
using testing::TestModel;
using testing::TestModelOptions;
using testing::WatchedBackend;

using BackendFactory = std::unique_ptr<Backend> (*)();
std::unique_ptr<Backend> cpu_backend() { return make_backend("cpu", {.threads = 2}); }

using Bits = std::vector<float>;

bool same_bits(const Bits& a, const Bits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// What one request saw.
struct Trace {
  std::vector<int32_t> tokens;
  std::vector<Bits> logits;
  RequestResult result;
  bool finished = false;
};

Request traced(std::vector<int32_t> prompt, int64_t max_tokens, Trace& trace,
               SamplingParams sampling = {}) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling = sampling;
  request.on_logits = [&](std::span<const float> logits) {
    trace.logits.emplace_back(logits.begin(), logits.end());
  };
  request.on_token = [&](int32_t token) {
    trace.tokens.push_back(token);
    return true;
  };
  request.on_finish = [&](const RequestResult& result) {
    EXPECT_FALSE(trace.finished) << "a request finishes once";
    trace.result = result;
    trace.finished = true;
  };
  return request;
}

void run_all(Engine& engine) {
  for (int steps = 0; engine.step(); ++steps) {
    engine.check_integrity();
    ASSERT_LT(steps, 5000);
  }
  engine.check_integrity();
  EXPECT_EQ(engine.stats().used_pages, 0);
}

EngineOptions small(int max_sequences = 4, int prefill_chunk = 64) {
  EngineOptions options;
  options.ctx_size = 512;
  options.max_sequences = max_sequences;
  options.prefill_chunk = prefill_chunk;
  return options;
}

std::vector<Bits> score(Engine& engine, const std::vector<std::vector<int32_t>>& rows,
                        const ScoreOptions& options, size_t row = 0) {
  std::vector<Bits> out;
  engine.score(rows, options, [&](size_t r, int64_t position, std::span<const float> logits) {
    if (r != row) return;
    EXPECT_EQ(position, static_cast<int64_t>(out.size()));
    out.emplace_back(logits.begin(), logits.end());
  });
  engine.check_integrity();
  return out;
}

// The promises about results hold on every backend that makes them.
class EnginePromise : public ::testing::TestWithParam<std::pair<const char*, BackendFactory>> {
 protected:
  std::unique_ptr<Backend> backend_ = GetParam().second();
  std::unique_ptr<Engine> make(const EngineOptions& options, TestModelOptions model = {}) {
    return std::make_unique<Engine>(std::make_shared<TestModel>(model), *backend_, options);
  }
};
INSTANTIATE_TEST_SUITE_P(
    Backends, EnginePromise,
    ::testing::Values(std::pair<const char*, BackendFactory>{"reference", &make_reference_backend},
                      std::pair<const char*, BackendFactory>{"cpu", &cpu_backend}),
    [](const auto& each) { return std::string(each.param.first); });

TEST_P(EnginePromise, DecodeRowsDoNotSeeTheirNeighbours) {
  for (const Format& format : {Format::dense(DType::kF32), Format::affine(4, 64)}) {
    auto engine = make(small(64), {.format = format});
    const std::vector<int32_t> row = random_tokens(90, 1);
    const auto alone = score(*engine, {row}, {.decode_from = 70});
    ASSERT_EQ(alone.size(), 90u);
    for (const size_t neighbours : {2u, 3u, 8u, 17u, 64u}) {
      std::vector<std::vector<int32_t>> rows;
      for (size_t i = 0; i < neighbours; ++i) rows.push_back(random_tokens(75 + i % 40, 100 + i));
      const size_t mine = neighbours / 2;
      rows[mine] = row;
      const auto among = score(*engine, rows, {.decode_from = 70}, mine);
      ASSERT_EQ(among.size(), alone.size());
      for (size_t p = 0; p < alone.size(); ++p)
        ASSERT_TRUE(same_bits(alone[p], among[p]))
            << format.name() << " position " << p << " among " << neighbours;
    }
  }
}

TEST_P(EnginePromise, ChunkCutsDoNotChangeLogits) {
  for (bool recurrent : {false, true}) {
    auto engine = make(small(2, 256), {.recurrent = recurrent});
    const std::vector<int32_t> row = random_tokens(300, 2);
    const auto whole = score(*engine, {row}, {.chunk = 256});
    for (int chunk : {1, 7, 63, 64, 65, 200}) {
      const auto cut = score(*engine, {row}, {.chunk = chunk});
      ASSERT_EQ(cut.size(), whole.size());
      for (size_t p = 0; p < whole.size(); ++p)
        ASSERT_TRUE(same_bits(whole[p], cut[p])) << "chunk " << chunk << " position " << p;
    }
  }
}

TEST_P(EnginePromise, PackedPromptsDecodeAsAlone) {
  for (bool recurrent : {false, true}) {
    const SamplingParams sampling{.temperature = 1.5f, .seed = 5};
    std::vector<Trace> alone(6), together(6);
    for (int chunk : {64, 100, 512}) {
      auto engine = make(small(6, chunk), {.recurrent = recurrent});
      for (size_t i = 0; i < 6; ++i) {
        alone[i] = {};
        engine->submit(traced(random_tokens(30 + 37 * i, i), 20, alone[i], sampling));
        run_all(*engine);
      }
      for (size_t i = 0; i < 6; ++i) {
        together[i] = {};
        engine->submit(traced(random_tokens(30 + 37 * i, i), 20, together[i], sampling));
        if (i % 2 == 0) engine->step();
      }
      run_all(*engine);
      for (size_t i = 0; i < 6; ++i) {
        ASSERT_EQ(alone[i].tokens.size(), 20u);
        EXPECT_EQ(alone[i].tokens, together[i].tokens);
        for (size_t t = 0; t < alone[i].logits.size(); ++t)
          ASSERT_TRUE(same_bits(alone[i].logits[t], together[i].logits[t]))
              << "request " << i << " token " << t << " chunk " << chunk;
      }
    }
  }
}

TEST_P(EnginePromise, RecyclingAWindowChangesNothing) {
  const std::vector<int32_t> row = random_tokens(330, 3);
  EngineOptions options = small(2, 64);
  auto recycling = make(options);
  options.recycle_windows = false;
  auto keeping = make(options);
  const auto a = score(*recycling, {row}, {.decode_from = 150});
  const auto b = score(*keeping, {row}, {.decode_from = 150});
  ASSERT_EQ(a.size(), b.size());
  for (size_t p = 0; p < a.size(); ++p) ASSERT_TRUE(same_bits(a[p], b[p])) << p;
  // The window of 40 needs at most 3 pages where the whole sequence needs 6.
  EXPECT_LT(recycling->stats().peak_used_pages, keeping->stats().peak_used_pages);
}

TEST_P(EnginePromise, RequestsGiveWhatScoringGives) {
  for (bool recurrent : {false, true}) {
    auto engine = make(small(), {.recurrent = recurrent});
    Trace trace;
    const std::vector<int32_t> prompt = random_tokens(75, 4);
    engine->submit(traced(prompt, 30, trace));
    run_all(*engine);
    ASSERT_EQ(trace.tokens.size(), 30u);
    std::vector<int32_t> row = prompt;
    row.insert(row.end(), trace.tokens.begin(), trace.tokens.end());
    const auto scored = score(*engine, {row}, {.decode_from = 75});
    for (size_t t = 0; t < 30; ++t) {
      ASSERT_TRUE(same_bits(trace.logits[t], scored[prompt.size() - 1 + t])) << t;
      const auto& l = trace.logits[t];
      EXPECT_EQ(trace.tokens[t], std::max_element(l.begin(), l.end()) - l.begin());
    }
  }
}

TEST_P(EnginePromise, ClassesAgreeClosely) {
  for (bool recurrent : {false, true}) {
    EngineOptions options = small();
    options.exact = true;
    auto engine = make(options, {.recurrent = recurrent});
    const std::vector<int32_t> row = random_tokens(150, 5);
    const auto prefill = score(*engine, {row}, {});
    const auto decode = score(*engine, {row}, {.decode_from = 3});
    for (size_t p = 0; p < row.size(); ++p)
      for (size_t i = 0; i < prefill[p].size(); ++i)
        ASSERT_NEAR(prefill[p][i], decode[p][i], 2e-3f) << p;
  }
}

TEST_P(EnginePromise, NaNFailsItsRequestAndLeavesNothingBehind) {
  EngineOptions options = small(2);
  auto engine = make(options);
  Trace before, bad, beside, after;
  engine->submit(traced(random_tokens(200, 6), 10, before));
  run_all(*engine);
  std::vector<int32_t> poisoned = random_tokens(300, 7);
  poisoned[250] = 95;
  for (int32_t& token : poisoned) token = token == 94 ? 95 : token;
  engine->submit(traced(poisoned, 10, bad));
  engine->submit(traced(random_tokens(200, 6), 10, beside));
  run_all(*engine);
  EXPECT_EQ(bad.result.reason, FinishReason::kError);
  EXPECT_THAT(bad.result.error, HasSubstr("NaN"));
  EXPECT_TRUE(bad.tokens.empty());
  // Pages that hold NaN go to the next request, which writes only a part of them.
  engine->submit(traced(random_tokens(200, 6), 10, after));
  run_all(*engine);
  EXPECT_EQ(before.result.reason, FinishReason::kLength);
  EXPECT_EQ(before.tokens, beside.tokens);
  EXPECT_EQ(before.tokens, after.tokens);
}

TEST_P(EnginePromise, SeedsDecideWhateverTheNeighbours) {
  auto engine = make(small(64));
  const SamplingParams sampling{
      .temperature = 1.0f, .top_k = 40, .top_p = 0.95f, .min_p = 0.01f, .seed = 42};
  Trace alone, among, other_seed;
  engine->submit(traced(random_tokens(20, 8), 25, alone, sampling));
  run_all(*engine);
  std::vector<Trace> neighbours(30);
  for (size_t i = 0; i < neighbours.size(); ++i)
    engine->submit(traced(random_tokens(5 + i, 50 + i), 5 + static_cast<int64_t>(i), neighbours[i],
                          {.temperature = 0.9f, .seed = i}));
  engine->submit(traced(random_tokens(20, 8), 25, among, sampling));
  SamplingParams other = sampling;
  other.seed = 43;
  engine->submit(traced(random_tokens(20, 8), 25, other_seed, other));
  run_all(*engine);
  EXPECT_EQ(alone.tokens.size(), 25u);
  EXPECT_EQ(alone.tokens, among.tokens);
  EXPECT_NE(alone.tokens, other_seed.tokens);
}

// What follows is about the engine alone.
class EngineTest : public ::testing::Test {
 protected:
  WatchedBackend backend_{make_reference_backend()};
  std::unique_ptr<Engine> make(const EngineOptions& options, TestModelOptions model = {}) {
    return std::make_unique<Engine>(std::make_shared<TestModel>(model), backend_, options);
  }
};

TEST_F(EngineTest, MixesDecodeAndPrefillInAStep) {
  auto engine = make(small(4, 64));
  std::vector<std::string> runs;
  backend_.before_run = [&](const Capacity& capacity, const Batch& batch) {
    EXPECT_LE(batch.num_tokens(), capacity.tokens);
    EXPECT_LE(batch.num_sequences(), capacity.sequences);
    EXPECT_EQ(batch.sampling.size(), batch.outputs.size());
    runs.push_back(fmt::format("{}{}/{}", capacity.phase == Phase::kDecode ? "d" : "p",
                               batch.num_tokens(), batch.num_outputs()));
  };
  Trace a, b;
  engine->submit(traced(random_tokens(10, 1), 4, a));
  engine->step();
  engine->submit(traced(random_tokens(100, 2), 2, b));
  run_all(*engine);
  EXPECT_EQ(runs, (std::vector<std::string>{"p10/1", "d1/1", "p64/0", "d1/1", "p36/1", "d2/2"}));
  EXPECT_EQ(engine->stats().steps, 4);
  EXPECT_EQ(engine->stats().prompt_tokens, 110);
  EXPECT_EQ(engine->stats().completion_tokens, 6);
}

TEST_F(EngineTest, RunsMoreThan64RowsInSlices) {
  auto engine = make(small(80, 256));
  int64_t largest = 0;
  backend_.before_run = [&](const Capacity& capacity, const Batch& batch) {
    if (capacity.phase == Phase::kDecode) largest = std::max(largest, batch.num_tokens());
  };
  std::vector<Trace> traces(80);
  for (size_t i = 0; i < traces.size(); ++i)
    engine->submit(traced(random_tokens(3, i), 15, traces[i]));
  run_all(*engine);
  EXPECT_EQ(largest, 64);
  EXPECT_EQ(engine->stats().peak_running, 80);
  for (const Trace& trace : traces) EXPECT_EQ(trace.tokens.size(), 15u);
}

TEST_F(EngineTest, StopsAtStopIdsAndLength) {
  auto engine = make(small());
  Trace all;
  engine->submit(traced(random_tokens(20, 9), 12, all));
  run_all(*engine);
  EXPECT_EQ(all.result.reason, FinishReason::kLength);
  const int32_t stop = all.tokens[5];
  const auto first = static_cast<size_t>(std::find(all.tokens.begin(), all.tokens.end(), stop) -
                                         all.tokens.begin());
  Trace stopped;
  Request request = traced(random_tokens(20, 9), 12, stopped);
  request.stop_ids = {1000, stop};
  engine->submit(std::move(request));
  run_all(*engine);
  EXPECT_EQ(stopped.result.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.result.stop_id, stop);
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(all.tokens.begin(),
                                                 all.tokens.begin() + static_cast<long>(first)));
  EXPECT_EQ(stopped.result.tokens, stopped.tokens);
  EXPECT_EQ(stopped.result.stats.completion_tokens, static_cast<int64_t>(first) + 1);
}

TEST_F(EngineTest, FillsTheContextExactly) {
  EngineOptions options = small(1);
  options.ctx_size = 100;
  auto engine = make(options);
  Trace trace, one;
  engine->submit(traced(random_tokens(60, 1), 0, trace));
  engine->submit(traced(random_tokens(99, 1), 50, one));
  run_all(*engine);
  EXPECT_EQ(trace.tokens.size(), 40u);
  EXPECT_EQ(one.tokens.size(), 1u);
  EXPECT_EQ(one.result.reason, FinishReason::kLength);
}

std::string request_error(const Engine& engine, Request request) {
  try {
    engine.check(request);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST_F(EngineTest, RefusesWhatCanNeverRun) {
  EngineOptions options = small(1);
  options.ctx_size = 100;
  auto engine = make(options);
  Request request;
  EXPECT_THAT(request_error(*engine, request), HasSubstr("at least 1 token, got 0"));
  request.prompt = random_tokens(100, 1);
  EXPECT_THAT(request_error(*engine, request),
              HasSubstr("at most 99 tokens (context of 100, one of them for the answer), got 100"));
  request.prompt = {1, 2, 96};
  EXPECT_THAT(request_error(*engine, request),
              HasSubstr("prompt[2]: expected a token id of 0 to 95, got 96"));
  request.prompt = {1, -1};
  EXPECT_THAT(request_error(*engine, request), HasSubstr("got -1"));
  request.prompt = {1};
  request.max_tokens = -1;
  request.sampling = {.temperature = NAN, .top_k = -2, .top_p = 0, .min_p = 2};
  const std::string error = request_error(*engine, request);
  for (const char* field : {"max_tokens", "temperature", "top_k", "top_p", "min_p"})
    EXPECT_THAT(error, HasSubstr(field));
  EXPECT_THROW(engine->submit(request), RequestError);
  EXPECT_TRUE(engine->idle());
  request.max_tokens = std::numeric_limits<int64_t>::max();  // clipped, not summed
  request.sampling = {};
  EXPECT_EQ(request_error(*engine, request), "");
}

TEST_F(EngineTest, BoundsItsQueue) {
  EngineOptions options = small(1);
  options.queue_limit = 2;
  auto engine = make(options);
  Trace a, b, c;
  engine->submit(traced({1}, 5, a));
  engine->step();
  engine->submit(traced({1}, 5, b));
  engine->submit(traced({1}, 5, c));
  EXPECT_THROW(engine->submit(traced({1}, 5, a)), QueueFullError);
  run_all(*engine);
  EXPECT_TRUE(a.finished && b.finished && c.finished);
}

TEST_F(EngineTest, AdmitsByMemoryAndMakesOthersWait) {
  EngineOptions options = small(4);
  options.ctx_size = 256;
  auto roomy = make(options);
  // 4 sequences of 4 pages, and of the 3 pages that the window needs at most.
  const int64_t page = roomy->memory().kv / (4 * 4 + 4 * 3);
  options.memory_budget_bytes = roomy->memory().arena + 12 * page;  // 6 of either kind
  auto engine = make(options);
  EXPECT_EQ(engine->memory().kv_tokens, 384);
  EXPECT_LE(engine->memory().needed(), options.memory_budget_bytes);
  std::vector<Trace> traces(3);
  engine->submit(traced(random_tokens(100, 1), 150, traces[0]));  // 4 pages
  engine->submit(traced(random_tokens(100, 2), 100, traces[1]));  // 4 pages: waits
  engine->submit(traced(random_tokens(10, 3), 10, traces[2]));    // 1 page: waits behind it
  engine->step();
  EXPECT_EQ(engine->stats().running, 1);
  EXPECT_EQ(engine->stats().waiting, 2);
  run_all(*engine);
  EXPECT_EQ(engine->stats().peak_running, 2);
  EXPECT_GT(traces[1].result.stats.queue_seconds, 0);
  Trace alone;
  roomy->submit(traced(random_tokens(100, 2), 100, alone));
  run_all(*roomy);
  EXPECT_EQ(traces[1].tokens, alone.tokens);
}

TEST_F(EngineTest, LeavesMappedWeightsTheirMemory) {
  const EngineOptions options = small(1);
  const int64_t weights = make(options)->memory().weights;
  ASSERT_GT(weights, 0);
  constexpr int64_t kRoom = 64 << 20;
  backend_.free = weights + kRoom;
  const int64_t apart = make(options)->memory().budget;
  backend_.maps = true;
  EXPECT_EQ(make(options)->memory().budget, apart - weights);

  backend_.free = weights;
  EngineOptions given = options;
  given.memory_budget_bytes = kRoom;
  EXPECT_NO_THROW(make(given));
  try {
    make(options);
    FAIL() << "weights that do not fit were taken";
  } catch (const MemoryError& error) {
    EXPECT_NE(std::string(error.what()).find("[memory] weights: expected at most"),
              std::string::npos);
    EXPECT_NE(std::string(error.what()).find("KV cache"), std::string::npos);
  }
  EngineOptions from_disk = options;
  from_disk.weights_from_disk = true;
  try {
    EXPECT_EQ(make(from_disk)->memory().budget, weights * 9 / 10 / 2);
  } catch (const MemoryError& error) {  // this tiny memory may be too small for the caches
    EXPECT_EQ(std::string(error.what()).find("[memory] weights"), std::string::npos);
  }
}

TEST_F(EngineTest, CancelsWithinOneStep) {
  auto engine = make(small(2, 64));
  int64_t runs = 0;
  backend_.before_run = [&](const Capacity&, const Batch&) { ++runs; };
  Trace decoding, prefilling, waiting;
  const RequestId a = engine->submit(traced(random_tokens(10, 1), 100, decoding));
  engine->step();
  const RequestId b = engine->submit(traced(random_tokens(300, 2), 100, prefilling));
  const RequestId c = engine->submit(traced(random_tokens(10, 3), 100, waiting));
  engine->step();
  EXPECT_FALSE(decoding.finished || prefilling.finished || waiting.finished);
  engine->cancel(a);
  engine->cancel(a);
  engine->cancel(b);
  engine->cancel(c);
  engine->cancel(12345);
  const int64_t before = runs;
  EXPECT_FALSE(engine->step());
  EXPECT_EQ(runs, before) << "nothing runs for cancelled requests";
  for (const Trace* trace : {&decoding, &prefilling, &waiting}) {
    EXPECT_TRUE(trace->finished);
    EXPECT_EQ(trace->result.reason, FinishReason::kCancelled);
  }
  EXPECT_EQ(decoding.result.tokens.size(), 2u);
  EXPECT_EQ(engine->stats().used_pages, 0);
  engine->check_integrity();
}

TEST_F(EngineTest, CallbacksMayCancelSubmitAndThrow) {
  auto engine = make(small(4));
  Trace cancelled, stopped, throwing, beside, follow_up;
  Request request = traced({1, 2}, 50, cancelled);
  RequestId id = 0;
  request.on_token = [&](int32_t) {
    engine->cancel(id);
    return true;
  };
  id = engine->submit(std::move(request));
  request = traced({1, 3}, 50, stopped);
  request.on_token = [&](int32_t token) {
    stopped.tokens.push_back(token);
    return stopped.tokens.size() < 7;
  };
  request.on_finish = [&](const RequestResult& result) {
    stopped.result = result;
    engine->submit(traced({4}, 3, follow_up));
    throw std::runtime_error("nobody's business");
  };
  engine->submit(std::move(request));
  request = traced({1, 4}, 50, throwing);
  request.on_token = [](int32_t) -> bool { throw RequestError("[test] broken callback"); };
  engine->submit(std::move(request));
  engine->submit(traced({1, 5}, 20, beside));
  run_all(*engine);
  EXPECT_EQ(cancelled.result.reason, FinishReason::kCancelled);
  EXPECT_EQ(stopped.result.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.result.tokens.size(), 7u);
  EXPECT_EQ(throwing.result.reason, FinishReason::kError);
  EXPECT_EQ(throwing.result.error, "[test] broken callback");
  EXPECT_EQ(throwing.result.error_kind, ErrorKind::kRequest);
  EXPECT_EQ(beside.tokens.size(), 20u);
  EXPECT_EQ(follow_up.tokens.size(), 3u);
}

TEST_F(EngineTest, AFailingStepFailsItsSequencesOnly) {
  auto engine = make(small(4, 64));
  Trace decoding, failing, later, calm;
  engine->submit(traced(random_tokens(20, 1), 10, calm));
  run_all(*engine);
  engine->submit(traced(random_tokens(20, 1), 10, decoding));
  engine->step();
  bool fail = true;
  backend_.before_run = [&](const Capacity& capacity, const Batch&) {
    if (fail && capacity.phase == Phase::kPrefill) throw RuntimeError("[test] device lost");
  };
  engine->submit(traced(random_tokens(20, 2), 10, failing));
  engine->step();
  EXPECT_EQ(failing.result.reason, FinishReason::kError);
  EXPECT_EQ(failing.result.error, "[test] device lost");
  EXPECT_FALSE(decoding.finished);
  fail = false;
  engine->submit(traced(random_tokens(20, 1), 10, later));
  run_all(*engine);
  EXPECT_EQ(decoding.tokens, calm.tokens);
  EXPECT_EQ(later.tokens, calm.tokens);
  EXPECT_EQ(engine->stats().failed_steps, 1);
}

TEST_F(EngineTest, CountsTimesOverIntervals) {
  auto engine = make(small());
  Trace trace, single;
  engine->submit(traced(random_tokens(30, 1), 11, trace));
  run_all(*engine);
  const RequestStats& stats = trace.result.stats;
  EXPECT_EQ(stats.prompt_tokens, 30);
  EXPECT_EQ(stats.completion_tokens, 11);
  EXPECT_GT(stats.ttft_seconds, 0);
  EXPECT_GE(stats.ttft_seconds, stats.prefill_seconds);
  EXPECT_DOUBLE_EQ(stats.decode_tokens_per_second(), 10 / stats.decode_seconds);
  EXPECT_DOUBLE_EQ(stats.prefill_tokens_per_second(), 30 / stats.prefill_seconds);
  engine->submit(traced(random_tokens(30, 1), 1, single));
  run_all(*engine);
  EXPECT_EQ(single.result.stats.decode_tokens_per_second(), 0);
  EXPECT_GT(engine->stats().peak_process_bytes, 1 << 20);
}

TEST_F(EngineTest, RefusesMemoryItDoesNotHave) {
  EngineOptions options = small(2);
  auto roomy = make(options);
  const int64_t kv_of_one = roomy->memory().kv / 2;
  backend_.free = roomy->memory().arena + kv_of_one / 2;
  try {
    make(options);
    FAIL() << "expected a MemoryError";
  } catch (const MemoryError& error) {
    EXPECT_THAT(error.what(), HasSubstr("context of 512 tokens"));
    EXPECT_THAT(error.what(), HasSubstr("largest context that fits is"));
    EXPECT_THAT(error.what(), HasSubstr("arena"));
  }
  // Without a wish of the user's the context is cut to what fits.
  options.ctx_size = 0;
  backend_.free = roomy->memory().arena * 2 + kv_of_one;
  auto fitted = make(options);
  EXPECT_GE(fitted->memory().ctx_size, 256);
  EXPECT_LE(fitted->memory().ctx_size, 1024);
  EXPECT_LE(fitted->memory().needed(), backend_.free);
  EXPECT_GT(fitted->memory().weights, 0);
  options.ctx_size = 2000;
  EXPECT_THROW(make(options), UsageError);
  options = small(0);
  EXPECT_THROW(make(options), UsageError);
  options = small(1, 0);
  EXPECT_THROW(make(options), UsageError);
}

TEST_F(EngineTest, ScoringGivesBackWhatItHolds) {
  auto engine = make(small(2));
  const ScoreOptions options{.decode_from = 2};
  const auto ignore = [](size_t, int64_t, std::span<const float>) {};
  const std::vector<std::vector<int32_t>> rows(2, random_tokens(400, 1));
  EXPECT_THROW(engine->score(std::vector<std::vector<int32_t>>(3, rows[0]), options, ignore),
               RequestError);
  EXPECT_THROW(engine->score(std::vector<std::vector<int32_t>>{{1, 99}}, options, ignore),
               RequestError);
  EXPECT_THROW(
      engine->score(std::vector<std::vector<int32_t>>{random_tokens(513, 1)}, options, ignore),
      RequestError);
  backend_.before_run = [](const Capacity&, const Batch&) { throw RuntimeError("[test] lost"); };
  EXPECT_THROW(engine->score(rows, options, ignore), RuntimeError);
  backend_.before_run = nullptr;
  EXPECT_EQ(engine->stats().used_pages, 0);
  engine->check_integrity();
}

}  // namespace
}  // namespace decant
