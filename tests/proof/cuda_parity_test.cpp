// Every case of every op on CUDA against the reference kernels, caches and states included.

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>

#include "backend/cuda/cuda_backend.h"
#include "backend/reference/reference_backend.h"
#include "ops/case.h"

namespace decant {
namespace {

PoolSpec pool_spec(const CaseBuilder& b) {
  PoolSpec spec;
  int groups = 1;
  for (const KvPool& pool : b.kv_pools()) {
    spec.kv.push_back(pool.spec);
    spec.kv_dtype = pool.dtype;
    groups = std::max(groups, pool.spec.group + 1);
  }
  for (const StatePool& pool : b.state_pools()) {
    spec.states.push_back(pool.spec);
    spec.slots = pool.slots;
  }
  spec.pages_per_group.assign(static_cast<size_t>(groups), b.pages());
  return spec;
}

size_t key_bytes(const KvPool& pool) {
  return static_cast<size_t>(key_page_bytes(pool.spec, pool.dtype) * pool.pages);
}
size_t value_bytes(const KvPool& pool) {
  return static_cast<size_t>(value_page_bytes(pool.spec, pool.dtype) * pool.pages);
}
size_t state_bytes(const StatePool& pool) {
  return static_cast<size_t>(pool.slots * pool.spec.width * 4);
}
size_t log_bytes(const StatePool& pool) {
  return static_cast<size_t>(pool.slots * pool.spec.log_tokens * pool.spec.log_width * 4);
}

/// Copies what the pools hold from one set in host memory to another.
void copy_pools(const std::vector<KvPool>& kv, const std::vector<StatePool>& states,
                HostPools& to) {
  for (size_t i = 0; i < kv.size(); ++i) {
    std::memcpy(to.kv()[i].keys, kv[i].keys, key_bytes(kv[i]));
    if (const size_t bytes = value_bytes(kv[i]); bytes > 0)  // none in a cache of rows
      std::memcpy(to.kv()[i].values, kv[i].values, bytes);
  }
  for (size_t i = 0; i < states.size(); ++i) {
    std::memcpy(to.states()[i].state, states[i].state, state_bytes(states[i]));
    std::memcpy(to.states()[i].log, states[i].log, log_bytes(states[i]));
  }
}

void run(Program& program, const CaseBuilder& b) {
  for (size_t i = 0; i < b.inputs().size(); ++i) {
    const CaseBuilder::Input& input = b.inputs()[i];
    if (input.type.dtype == DType::kI32)
      program.set_input(static_cast<int>(i), std::span<const int32_t>(input.ints));
    else
      program.set_input(static_cast<int>(i), std::span<const float>(input.floats));
  }
  program.run(b.batch());
}

void compare_floats(std::span<const float> got, std::span<const float> want, const OpCase& c) {
  ASSERT_EQ(got.size(), want.size());
  ASSERT_FALSE(want.empty());
  float largest = 0;
  for (float x : want) largest = std::max(largest, std::fabs(x));
  const double bound =
      static_cast<double>(largest) *
      (c.through_bf16 ? 0x1p-8 : static_cast<double>(c.accumulation) * 0x1p-24 * kParitySlack);
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - want[i]);
    if (difference <= worst) continue;
    worst = difference;  // a NaN is the worst
    where = i;
  }
  EXPECT_LE(worst, bound) << "element " << where << ": " << got[where] << " against "
                          << want[where];
}

void compare_case(const OpCase& c, uint64_t seed) {
  CaseBuilder b(c.capacity, seed);
  c.build(b);
  const PoolSpec spec = pool_spec(b);
  const auto reference = make_reference_backend();
  HostPools host(spec), from_device(spec);
  copy_pools(b.kv_pools(), b.state_pools(), host);
  const auto expected = reference->compile(b.graph(), host, {});

  const auto backend = make_cuda_backend({});
  const auto pools = backend->make_pools(spec);
  auto& device = dynamic_cast<CudaPools&>(*pools);
  for (size_t i = 0; i < spec.kv.size(); ++i) device.load(static_cast<int>(i), b.kv_pools()[i]);
  for (size_t i = 0; i < spec.states.size(); ++i)
    device.load(static_cast<int>(i), b.state_pools()[i]);
  std::unique_ptr<Program> program;
  try {
    program = backend->compile(b.graph(), *pools, {});
  } catch (const RuntimeError& error) {
    if (std::string_view(error.what()).find("expected a kernel on cuda") == std::string_view::npos)
      throw;
    GTEST_SKIP() << "not bound: " << error.what();
  }
  run(*expected, b);
  run(*program, b);

  for (size_t i = 0; i < b.graph().outputs().size(); ++i) {
    SCOPED_TRACE(b.graph().outputs()[i].first);
    const int index = static_cast<int>(i);
    if (b.graph().value(b.graph().outputs()[i].second).type.dtype == DType::kI32) {
      const auto got = program->int_output(index), want = expected->int_output(index);
      EXPECT_EQ(std::vector<int32_t>(got.begin(), got.end()),
                std::vector<int32_t>(want.begin(), want.end()));
    } else {
      compare_floats(program->output(index), expected->output(index), c);
    }
  }
  // Appended rows are rounded copies and the recurrence rounds like the reference: equal bytes.
  for (size_t i = 0; i < spec.kv.size(); ++i) {
    device.store(static_cast<int>(i), from_device.kv()[i]);
    const KvPool &got = from_device.kv()[i], &want = host.kv()[i];
    EXPECT_EQ(std::memcmp(got.keys, want.keys, key_bytes(want)), 0) << "keys of cache " << i;
    if (const size_t bytes = value_bytes(want); bytes > 0) {
      EXPECT_EQ(std::memcmp(got.values, want.values, bytes), 0) << "values of cache " << i;
    }
  }
  for (size_t i = 0; i < spec.states.size(); ++i) {
    device.store(static_cast<int>(i), from_device.states()[i]);
    const StatePool &got = from_device.states()[i], &want = host.states()[i];
    EXPECT_EQ(std::memcmp(got.state, want.state, state_bytes(want)), 0) << "state " << i;
    EXPECT_EQ(std::memcmp(got.log, want.log, log_bytes(want)), 0) << "log of state " << i;
  }
}

class ParityTest : public ::testing::Test {
 public:
  explicit ParityTest(OpCase c) : case_(std::move(c)) {}
  void TestBody() override {
    if (const std::string reason = cuda_unavailable_reason(); !reason.empty())
      GTEST_SKIP() << reason;
    for (uint64_t seed : {1u, 2u}) compare_case(case_, seed);
  }

 private:
  OpCase case_;
};

std::string test_name(std::string name) {
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

bool register_cases() {
  for (const Op* op : all_ops()) {
    int index = 0;
    for (const OpCase& c : op->cases())
      ::testing::RegisterTest(("parity_cuda_" + std::string(op->name())).c_str(),
                              fmt::format("{}_{}", index++, test_name(c.name)).c_str(), nullptr,
                              nullptr, __FILE__, __LINE__,
                              [c]() -> ParityTest* { return new ParityTest(c); });
  }
  return true;
}

const bool kRegistered = register_cases();

}  // namespace
}  // namespace decant
