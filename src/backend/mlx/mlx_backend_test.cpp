#include "backend/mlx/mlx_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "backend/mlx/mlx_pools.h"
#include "ops/attention.h"
#include "ops/case.h"
#include "ops/experts.h"
#include "ops/linear.h"
#include "ops/sample.h"
#include "sampling/sampler.h"

namespace decant {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

PoolSpec spec_of(const CaseBuilder& data) {
  PoolSpec spec;
  spec.kv_dtype = DType::kF32;
  for (const KvPool& pool : data.kv_pools()) spec.kv.push_back(pool.spec);
  for (const StatePool& pool : data.state_pools()) {
    spec.states.push_back(pool.spec);
    spec.slots = pool.slots;
  }
  spec.pages_per_group.assign(1, data.pages());
  return spec;
}

void set_inputs(Program& program, const CaseBuilder& data) {
  for (size_t i = 0; i < data.inputs().size(); ++i) {
    const CaseBuilder::Input& input = data.inputs()[i];
    if (input.type.dtype == DType::kI32) {
      program.set_input(static_cast<int>(i), std::span<const int32_t>(input.ints));
    } else {
      program.set_input(static_cast<int>(i), std::span<const float>(input.floats));
    }
  }
}

/// Appends the step's keys and values and attends to them.
void build_attention(CaseBuilder& b, float softcap, int window) {
  Value cache = b.kv_cache({2, 16, window, 0}, DType::kF32);
  Value k = b.input({2, 16});
  Value v = b.input({2, 16});
  Value q = b.input({4, 16});
  cache = kv_append(k, v, cache);
  b.graph().mark_output(attention(q, cache, 0.25f, softcap), "y");
}

std::vector<float> floats_of(const Program& program, int index) {
  const auto values = program.output(index);
  return {values.begin(), values.end()};
}

TEST(MlxBackend, UpdatesKeysAndValuesInPlace) {
  auto backend = make_mlx_backend({});
  CaseBuilder data({Phase::kDecode, 6, 3, 3}, 1);
  data.sequences({{70, 2}, {3, 2}, {64, 2}});
  build_attention(data, 0, 0);
  auto pools = backend->make_pools(spec_of(data));
  auto program = backend->compile(data.graph(), *pools, {});
  set_inputs(*program, data);
  const mlx::MlxPools& own = mlx::mlx_pools(*pools);
  const auto addresses = [&] {
    return std::vector<const void*>{own.kv[0].keys.data<void>(), own.kv[0].values.data<void>()};
  };
  const auto before = addresses();
  for (int step = 0; step < 4; ++step) {
    program->run(data.batch());
    EXPECT_EQ(addresses(), before) << "step " << step << ": a cache was copied";
  }
}

TEST(MlxBackend, StaleValuesOfAPageDoNotReachItsNextOwner) {
  auto backend = make_mlx_backend({});
  for (const float softcap : {0.0f, 30.0f})
    for (const int window : {0, 2}) {
      CaseBuilder data({Phase::kPrefill, 9, 2, 2}, 2);
      data.sequences({{0, 5}, {0, 4}});
      build_attention(data, softcap, window);
      std::vector<std::vector<float>> results;
      for (const float stale : {0.0f, kNan}) {
        auto pools = backend->make_pools(spec_of(data));
        for (const KvPool& pool : data.kv_pools()) {
          const int64_t count = pool.pages * pool.spec.kv_heads * pool.head_elements();
          std::fill_n(reinterpret_cast<float*>(pool.keys), count, stale);
          std::fill_n(reinterpret_cast<float*>(pool.values), count, stale);
        }
        load_mlx_pools(*pools, data.kv_pools(), {});
        auto program = backend->compile(data.graph(), *pools, {});
        set_inputs(*program, data);
        program->run(data.batch());
        results.push_back(floats_of(*program, 0));
      }
      EXPECT_EQ(results[0], results[1]) << "softcap " << softcap << " window " << window;
      EXPECT_TRUE(std::isfinite(results[0][0]));
    }
}

TEST(MlxBackend, ResetClearsOneSlot) {
  auto backend = make_mlx_backend({});
  CaseBuilder data({Phase::kPrefill, 3, 3, 3}, 3);
  Value state = data.state({5, 5, 2});
  (void)state;
  auto pools = backend->make_pools(spec_of(data));
  load_mlx_pools(*pools, {}, data.state_pools());
  const std::vector<float> before = read_mlx_state(*pools, 0);
  pools->reset_slot(1);
  const std::vector<float> after = read_mlx_state(*pools, 0);
  for (size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i], i / 5 == 1 ? 0.0f : before[i]) << i;
}

TEST(MlxBackend, NamesEverythingItLacks) {
  auto backend = make_mlx_backend({});
  CaseBuilder data({Phase::kDecode, 1, 1, 1}, 4);
  Weight weight;
  weight.name = "model.odd";
  weight.shape = {8, 64};
  weight.format = {Format::Kind::kMxfp4, DType::kF8E8M0, 4, 32};
  weight.views.push_back({nullptr, nullptr, nullptr, weight.format, 8, 64});
  data.graph().mark_output(linear(data.input({64}), &weight), "y");
  auto pools = backend->make_pools({});
  try {
    backend->compile(data.graph(), *pools, {});
    FAIL() << "a format without a lowering was accepted";
  } catch (const RuntimeError& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(testing::HasSubstr("[mlx]"), testing::HasSubstr("linear"),
                               testing::HasSubstr("model.odd"), testing::HasSubstr("mxfp4"),
                               testing::HasSubstr("(8,64)")));
  }
  EXPECT_THROW(backend->compile(data.graph(), *pools, {.reference = true}), UsageError);
}

TEST(MlxBackend, RefusesPoolsBeyondItsMemory) {
  auto backend = make_mlx_backend({});
  PoolSpec spec;
  spec.kv.push_back({8, 128, 0, 0});
  spec.pages_per_group = {int64_t{1} << 30};
  EXPECT_THROW(backend->make_pools(spec), MemoryError);
  EXPECT_GT(backend->free_bytes(), 0);
}

TEST(MlxBackend, GivesNoTokenWhereLogitsAreBroken) {
  auto backend = make_mlx_backend({});
  for (const float temperature : {0.0f, 1.0f}) {
    CaseBuilder data({Phase::kDecode, 4, 4, 4}, 5);
    data.batch().sampling[0].temperature = temperature;
    data.graph().mark_output(sample(data.input({50}, Rows::kOutputs)), "ids");
    auto pools = backend->make_pools({});
    auto program = backend->compile(data.graph(), *pools, {});
    std::vector<float> logits = data.inputs()[0].floats;
    logits[1 * 50 + 7] = kNan;
    std::fill_n(logits.begin() + 2 * 50, 50, -std::numeric_limits<float>::infinity());
    logits[3 * 50 + 11] = logits[3 * 50 + 30] = 99;  // equals: the lower id
    program->set_input(0, std::span<const float>(logits));
    program->run(data.batch());
    const auto ids = program->int_output(0);
    ASSERT_EQ(ids.size(), 4u);
    EXPECT_GE(ids[0], 0);
    EXPECT_EQ(ids[1], kNanLogits);
    EXPECT_EQ(ids[2], kInfiniteLogits);
    EXPECT_EQ(ids[3], 11);
  }
}

TEST(MlxBackend, CountsTheExpertsOfLiveRows) {
  auto backend = make_mlx_backend({});
  CaseBuilder data({Phase::kDecode, 6, 6, 6}, 6);
  Value x = data.input({64});
  Value ids = data.int_input(2, 8);
  const Weight* table = data.experts(8, 16, 64, Format::affine(4, 64));
  data.graph().mark_output(expert_linear(x, ids, table), "y");
  auto pools = backend->make_pools({});
  auto program = backend->compile(data.graph(), *pools, {});
  set_inputs(*program, data);
  program->set_input(1, std::span<const int32_t>(std::vector<int32_t>{5, 2, 2, 7, 5, 7}));
  data.sequences({{0, 1}, {0, 1}, {0, 1}});  // three rows, padded to four
  program->run(data.batch());
  EXPECT_EQ(program->distinct_experts(), std::vector<int64_t>{3});
}

TEST(MlxBackend, RunsOnThreadsThatDidNotCompile) {
  auto backend = make_mlx_backend({});
  CaseBuilder data({Phase::kDecode, 2, 2, 2}, 7);
  data.sequences({{5, 1}, {80, 1}});
  build_attention(data, 0, 0);
  auto pools = backend->make_pools(spec_of(data));
  load_mlx_pools(*pools, data.kv_pools(), {});
  auto program = backend->compile(data.graph(), *pools, {});
  set_inputs(*program, data);
  program->run(data.batch());
  const std::vector<float> here = floats_of(*program, 0);
  std::vector<float> there;
  std::thread([&] {
    program->run(data.batch());
    there = floats_of(*program, 0);
  }).join();
  EXPECT_EQ(here, there);
}

TEST(MlxBackend, TellsWeightsAtOneAddressApart) {
  auto backend = make_mlx_backend({});
  const auto first_output = [&](uint64_t seed) {
    CaseBuilder data({Phase::kDecode, 1, 1, 1}, 8);
    CaseBuilder other({Phase::kDecode, 1, 1, 1}, seed);
    auto weight = std::make_unique<Weight>(*other.matrix(4, 32, Format::dense(DType::kF32)));
    data.graph().mark_output(linear(data.input({32}), weight.get()), "y");
    auto pools = backend->make_pools({});
    auto program = backend->compile(data.graph(), *pools, {});
    set_inputs(*program, data);
    program->run(data.batch());
    return floats_of(*program, 0);
  };
  EXPECT_NE(first_output(1), first_output(2));
  EXPECT_EQ(first_output(1), first_output(1));
}

}  // namespace
}  // namespace decant
