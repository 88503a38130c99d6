#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_kernel.h"
#include "backend/reference/reference_backend.h"
#include "ops/case.h"
#include "ops/experts.h"
#include "ops/rope.h"

namespace decant {
namespace {

struct Parameter {
  const Op* op;
  cpu::Isa isa;
};

/// Runs a case on a backend and returns its outputs as floats.
std::vector<std::vector<float>> run_case(Backend& backend, const OpCase& test, bool exact) {
  CaseBuilder data(test.capacity, 42);
  test.build(data);
  PoolSpec spec;
  for (const KvPool& pool : data.kv_pools()) {
    spec.kv.push_back(pool.spec);
    spec.kv_dtype = pool.dtype;
  }
  for (const StatePool& pool : data.state_pools()) {
    spec.states.push_back(pool.spec);
    spec.slots = pool.slots;
  }
  spec.pages_per_group.assign(1, data.pages());
  auto pools = backend.make_pools(spec);
  auto& host = dynamic_cast<HostPools&>(*pools);
  for (size_t i = 0; i < spec.kv.size(); ++i) {
    const KvPool source = data.kv_pools()[i];
    std::copy_n(source.keys, key_page_bytes(source.spec, source.dtype) * source.pages,
                host.kv()[i].keys);
    std::copy_n(source.values, value_page_bytes(source.spec, source.dtype) * source.pages,
                host.kv()[i].values);
  }
  for (size_t i = 0; i < spec.states.size(); ++i) {
    const StatePool source = data.state_pools()[i];
    std::memcpy(host.states()[i].state, source.state,
                static_cast<size_t>(source.slots * source.spec.width) * 4);
    std::memcpy(
        host.states()[i].log, source.log,
        static_cast<size_t>(source.slots * source.spec.log_tokens * source.spec.log_width) * 4);
  }
  auto program = backend.compile(data.graph(), *pools, {.exact = exact});
  for (size_t i = 0; i < data.inputs().size(); ++i) {
    const CaseBuilder::Input& input = data.inputs()[i];
    if (input.type.dtype == DType::kI32) {
      program->set_input(static_cast<int>(i), std::span<const int32_t>(input.ints));
    } else {
      program->set_input(static_cast<int>(i), std::span<const float>(input.floats));
    }
  }
  program->run(data.batch());
  std::vector<std::vector<float>> results;
  for (size_t i = 0; i < program->graph().outputs().size(); ++i) {
    const int id = program->graph().outputs()[i].second;
    if (program->graph().value(id).type.dtype == DType::kI32) {
      const auto ids = program->int_output(static_cast<int>(i));
      results.emplace_back(ids.begin(), ids.end());
    } else {
      const auto values = program->output(static_cast<int>(i));
      results.emplace_back(values.begin(), values.end());
    }
  }
  for (const StatePool& pool : host.states()) {
    results.emplace_back(pool.state, pool.state + pool.slots * pool.spec.width);
    results.emplace_back(pool.log,
                         pool.log + pool.slots * pool.spec.log_tokens * pool.spec.log_width);
  }
  return results;
}

class CpuParity : public testing::TestWithParam<Parameter> {};

TEST_P(CpuParity, MatchesTheReference) {
  const auto [op, isa] = GetParam();
  if (!cpu::isa_available(isa))
    GTEST_SKIP() << op->name() << " on " << name_of(isa)
                 << ": this processor lacks the instruction set";
  auto reference = make_reference_backend();
  auto backend = make_cpu_backend({.threads = 2}, isa);
  for (const OpCase& test : op->cases()) {
    const auto wanted = run_case(*reference, test, true);
    const auto got = run_case(*backend, test, true);
    ASSERT_EQ(wanted.size(), got.size()) << test.name;
    for (size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_EQ(wanted[i].size(), got[i].size()) << test.name;
      double top = 1e-3, worst = 0;
      for (size_t j = 0; j < wanted[i].size(); ++j) {
        top = std::max(top, std::fabs(static_cast<double>(wanted[i][j])));
        const double difference = std::fabs(static_cast<double>(wanted[i][j]) - got[i][j]);
        if (!(difference <= worst)) worst = difference;
      }
      const double bound = static_cast<double>(test.accumulation) * 0x1p-24 * top * kParitySlack;
      EXPECT_LE(worst, bound) << test.name << " output " << i << " of magnitude " << top;
    }
  }
}

// The default route against exact products: what int8 activations in groups of 32 cost, from the
// rounding of one value (half a step of max / 127) over a sum of independent errors.
TEST_P(CpuParity, DefaultRouteStaysWithinItsRounding) {
  const auto [op, isa] = GetParam();
  if (!cpu::isa_available(isa))
    GTEST_SKIP() << op->name() << " on " << name_of(isa)
                 << ": this processor lacks the instruction set";
  if (op->name() != "linear" && op->name() != "linear_add" && op->name() != "expert_linear" &&
      op->name() != "head_linear")
    GTEST_SKIP() << op->name() << ": one route only";
  auto backend = make_cpu_backend({.threads = 2}, isa);
  for (const OpCase& test : op->cases()) {
    const auto exact = run_case(*backend, test, true);
    const auto fast = run_case(*backend, test, false);
    double squares = 0, errors = 0;
    for (size_t j = 0; j < exact[0].size(); ++j) {
      squares += static_cast<double>(exact[0][j]) * exact[0][j];
      errors += std::pow(static_cast<double>(exact[0][j]) - fast[0][j], 2);
    }
    // A group of 32 normal values has its largest near 2.1 deviations: relative rounding 2.1 / 127
    // / sqrt(12).
    EXPECT_LE(std::sqrt(errors / squares), 2 * 2.1 / 127 / std::sqrt(12.0)) << test.name;
  }
}

class CpuKernels : public testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override {
    if (!cpu::isa_available(GetParam()))
      GTEST_SKIP() << name_of(GetParam()) << ": this processor lacks the instruction set";
    backend_ = make_cpu_backend({.threads = 2}, GetParam());
  }
  std::unique_ptr<Backend> backend_;
};

// Of Gemma 4's wide heads a quarter of the pairs turns, partners half a head apart, at the periods
// of the whole head; what does not turn keeps its bits.
TEST_P(CpuKernels, ProportionalRotationLeavesTheRestAlone) {
  constexpr int64_t kDim = 512, kHalf = 256, kTurning = 64;
  const OpCase test{"wide head", {Phase::kDecode, 1, 1, 1}, [](CaseBuilder& b) {
                      b.sequences({{1000, 1}});
                      auto params = std::make_shared<RopeParams>();
                      for (int i = 0; i < kHalf; ++i)
                        params->inv_freq.push_back(
                            i < kTurning ? static_cast<float>(std::pow(1e6, -2.0 * i / kDim)) : 0);
                      b.graph().mark_output(rope(b.input({1, kDim}), params), "y");
                    }};
  CaseBuilder same(test.capacity, 42);
  test.build(same);
  const std::vector<float>& x = same.inputs()[0].floats;
  const std::vector<float> y = run_case(*backend_, test, true)[0];
  for (size_t i = 0; i < kHalf; ++i) {
    if (i >= kTurning) {
      EXPECT_EQ(y[i], x[i]) << i;
      EXPECT_EQ(y[i + kHalf], x[i + kHalf]) << i;
      continue;
    }
    const double angle = 1000 * std::pow(1e6, -2.0 * static_cast<double>(i) / kDim);
    EXPECT_NEAR(y[i], x[i] * std::cos(angle) - x[i + kHalf] * std::sin(angle), 3e-4) << i;
    EXPECT_NEAR(y[i + kHalf], x[i + kHalf] * std::cos(angle) + x[i] * std::sin(angle), 3e-4) << i;
  }
}

// Rows whose best experts all but tie: whatever rounding makes of it, the chosen ones are different
// and as good as the best, in descending order, and a weight is that of its own expert.
TEST_P(CpuKernels, RoutesNearTies) {
  constexpr int64_t kExperts = 128, kTop = 8;
  for (const float spread : {1e-7f, 3e-7f, 1e-6f}) {
    const OpCase test{"near ties", {Phase::kPrefill, 16, 1, 1}, [spread](CaseBuilder& b) {
                        RouteParams params;
                        params.top_k = kTop;
                        const auto [ids, weights] =
                            top_k_route(b.input({kExperts}, Rows::kTokens, spread), params, nullptr,
                                        b.vector({kExperts}, 1, 0.5f));
                        b.graph().mark_output(ids, "ids");
                        b.graph().mark_output(weights, "weights");
                      }};
    CaseBuilder same(test.capacity, 42);
    test.build(same);
    const auto results = run_case(*backend_, test, true);
    const Weight& scale = *same.weights()[0];
    for (size_t n = 0; n < 16; ++n) {
      const float* logits = same.inputs()[0].floats.data() + n * kExperts;
      std::vector<float> best(logits, logits + kExperts);
      std::sort(best.rbegin(), best.rend());
      std::vector<bool> taken(kExperts);
      for (size_t k = 0; k < kTop; ++k) {
        const auto id = static_cast<size_t>(results[0][n * kTop + k]);
        EXPECT_FALSE(taken[id]) << n;
        taken[id] = true;
        EXPECT_NEAR(logits[id], best[k], 2e-7) << n;  // scores are f32 near 1 / experts
        const float own = load_float(scale.view().data, DType::kF32, static_cast<int64_t>(id));
        EXPECT_NEAR(results[1][n * kTop + k], own / kTop, 1e-5) << n;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, CpuKernels,
                         testing::Values(cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512),
                         [](const auto& each) { return std::string(name_of(each.param)); });

std::vector<Parameter> parameters() {
  std::vector<Parameter> all;
  for (cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512})
    for (const Op* op : all_ops()) all.push_back({op, isa});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Ops, CpuParity, testing::ValuesIn(parameters()), [](const auto& each) {
  return std::string(each.param.op->name()) + "_" + std::string(name_of(each.param.isa));
});

}  // namespace
}  // namespace decant
