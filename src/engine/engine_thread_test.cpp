#include "engine/engine_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "backend/reference/reference_backend.h"
#include "engine/testing.h"

namespace decant {
namespace {

using testing::random_tokens;
using testing::TestModel;

class EngineThreadTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = make_reference_backend();
  std::unique_ptr<EngineThread> make(int max_sequences, size_t queue_limit = 512) {
    EngineOptions options;
    options.ctx_size = 512;
    options.max_sequences = max_sequences;
    options.prefill_chunk = 64;
    options.queue_limit = queue_limit;
    return std::make_unique<EngineThread>(
        std::make_unique<Engine>(std::make_shared<TestModel>(), *backend_, options));
  }
  /// Submits and waits.
  static RequestResult run(EngineThread& engine, std::vector<int32_t> prompt, int64_t max_tokens) {
    std::promise<RequestResult> done;
    auto result = done.get_future();
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.on_finish = [&](const RequestResult& r) { done.set_value(r); };
    engine.submit(std::move(request));
    return result.get();
  }
};

TEST_F(EngineThreadTest, ServesClientsOfManyThreads) {
  auto engine = make(3);
  const RequestResult expected = run(*engine, random_tokens(40, 1), 15);
  ASSERT_EQ(expected.tokens.size(), 15u);
  std::atomic<int> right = 0, cancelled = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c)
    clients.emplace_back([&, c] {
      for (int i = 0; i < 5; ++i) {
        if ((c + i) % 3 == 0) {
          std::promise<FinishReason> done;
          Request request;
          request.prompt = random_tokens(30, static_cast<uint64_t>(c));
          request.max_tokens = 0;
          request.on_finish = [&](const RequestResult& r) { done.set_value(r.reason); };
          const RequestId id = engine->submit(std::move(request));
          if (i % 2 == 0) std::this_thread::yield();
          engine->cancel(id);
          if (done.get_future().get() == FinishReason::kCancelled) ++cancelled;
        } else if (run(*engine, random_tokens(40, 1), 15).tokens == expected.tokens) {
          ++right;
        }
        engine->stats();
      }
    });
  for (auto& client : clients) client.join();
  EXPECT_EQ(right + cancelled, 20);
  EXPECT_GT(cancelled, 0);
  engine->stop(true);
  EXPECT_EQ(engine->stats().running, 0);
  EXPECT_EQ(engine->stats().used_pages, 0);
}

TEST_F(EngineThreadTest, RefusesInTheCallersThread) {
  auto engine = make(1);
  EXPECT_THROW(run(*engine, {}, 1), RequestError);
  EXPECT_THROW(run(*engine, {1000}, 1), RequestError);
}

TEST_F(EngineThreadTest, DrainsOrCancelsWhenItStops) {
  for (bool drain : {true, false}) {
    auto engine = make(1);
    std::atomic<int> finished = 0, cancelled = 0;
    for (int i = 0; i < 4; ++i) {
      Request request;
      request.prompt = random_tokens(20, static_cast<uint64_t>(i));
      request.max_tokens = 40;
      request.on_finish = [&](const RequestResult& r) {
        ++(r.reason == FinishReason::kCancelled ? cancelled : finished);
      };
      engine->submit(std::move(request));
    }
    engine->stop(drain);
    EXPECT_EQ(finished + cancelled, 4);
    if (drain)
      EXPECT_EQ(finished, 4);
    else
      EXPECT_GT(cancelled, 0);
    EXPECT_THROW(run(*engine, {1}, 1), RuntimeError);
    EXPECT_THROW(engine->call([](Engine&) {}), RuntimeError);
  }
}

TEST_F(EngineThreadTest, CallbacksSubmitAndCancel) {
  auto engine = make(2);
  std::promise<RequestResult> done;
  std::atomic<RequestId> endless = 0;
  Request first;
  first.prompt = {1, 2};
  first.on_finish = [&](const RequestResult& r) {
    EXPECT_EQ(r.reason, FinishReason::kCancelled);
    Request second;
    second.prompt = {3};
    second.max_tokens = 2;
    second.on_finish = [&](const RequestResult& last) { done.set_value(last); };
    engine->submit(std::move(second));
  };
  first.on_token = [&](int32_t) {
    if (const RequestId id = endless) engine->cancel(id);
    return true;
  };
  endless = engine->submit(std::move(first));
  EXPECT_EQ(done.get_future().get().tokens.size(), 2u);
}

TEST_F(EngineThreadTest, CallsRunBetweenSteps) {
  auto engine = make(2);
  size_t rows = 0;
  engine->call([&](Engine& e) {
    e.score(std::vector<std::vector<int32_t>>{random_tokens(10, 1)}, {},
            [&](size_t, int64_t, std::span<const float>) { ++rows; });
  });
  EXPECT_EQ(rows, 10u);
  EXPECT_THROW(engine->call([](Engine&) { throw RequestError("[test] no"); }), RequestError);
  EXPECT_GE(engine->stalled_seconds(), 0);
}

TEST_F(EngineThreadTest, BoundsItsQueue) {
  auto engine = make(1, 3);
  std::atomic<int> refused = 0, finished = 0;
  for (int i = 0; i < 30; ++i) {
    Request request;
    request.prompt = {1};
    request.max_tokens = 100;
    request.on_finish = [&](const RequestResult&) { ++finished; };
    try {
      engine->submit(std::move(request));
    } catch (const QueueFullError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
  engine->stop(true);
  EXPECT_EQ(finished + refused, 30);
}

}  // namespace
}  // namespace decant
