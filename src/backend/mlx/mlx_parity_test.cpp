#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <set>
#include <string_view>

#include "backend/mlx/mlx_backend.h"
#include "backend/reference/reference_backend.h"
#include "base/errors.h"
#include "ops/case.h"

namespace decant {
namespace {

PoolSpec spec_of(CaseBuilder& data) {
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
  return spec;
}

/// Outputs of a case as floats, followed by the recurrent states it leaves.
using Results = std::vector<std::vector<float>>;

Results run_program(Program& program, CaseBuilder& data) {
  for (size_t i = 0; i < data.inputs().size(); ++i) {
    const CaseBuilder::Input& input = data.inputs()[i];
    if (input.type.dtype == DType::kI32) {
      program.set_input(static_cast<int>(i), std::span<const int32_t>(input.ints));
    } else {
      program.set_input(static_cast<int>(i), std::span<const float>(input.floats));
    }
  }
  program.run(data.batch());
  Results results;
  for (size_t i = 0; i < program.graph().outputs().size(); ++i) {
    const int id = program.graph().outputs()[i].second;
    if (program.graph().value(id).type.dtype == DType::kI32) {
      const auto ids = program.int_output(static_cast<int>(i));
      results.emplace_back(ids.begin(), ids.end());
    } else {
      const auto values = program.output(static_cast<int>(i));
      results.emplace_back(values.begin(), values.end());
    }
  }
  return results;
}

Results run_reference(CaseBuilder& data) {
  auto backend = make_reference_backend();
  auto pools = backend->make_pools(spec_of(data));
  auto& host = dynamic_cast<HostPools&>(*pools);
  const auto kv = data.kv_pools();
  for (size_t i = 0; i < kv.size(); ++i) {
    std::copy_n(kv[i].keys, key_page_bytes(kv[i].spec, kv[i].dtype) * kv[i].pages,
                host.kv()[i].keys);
    std::copy_n(kv[i].values, value_page_bytes(kv[i].spec, kv[i].dtype) * kv[i].pages,
                host.kv()[i].values);
  }
  const auto states = data.state_pools();
  for (size_t i = 0; i < states.size(); ++i) {
    const StateSpec& spec = states[i].spec;
    std::copy_n(states[i].state, states[i].slots * spec.width, host.states()[i].state);
    std::copy_n(states[i].log, states[i].slots * spec.log_tokens * spec.log_width,
                host.states()[i].log);
  }
  auto program = backend->compile(data.graph(), *pools, {.exact = true});
  Results results = run_program(*program, data);
  for (const StatePool& pool : host.states())
    results.emplace_back(pool.state, pool.state + pool.slots * pool.spec.width);
  return results;
}

Results run_mlx(Backend& backend, CaseBuilder& data) {
  auto pools = backend.make_pools(spec_of(data));
  load_mlx_pools(*pools, data.kv_pools(), data.state_pools());
  auto program = backend.compile(data.graph(), *pools, {.exact = true});
  Results results = run_program(*program, data);
  for (size_t i = 0; i < data.state_pools().size(); ++i)
    results.push_back(read_mlx_state(*pools, static_cast<int>(i)));
  return results;
}

// What this backend has not: ops, and kinds of what it has. All else must be lowered.
bool lacks(const Op& op, std::string_view message) {
  static const std::set<std::string_view> ops = {
      "causal_conv1d",    "gated_delta",     "delta_decay",
      "l2_norm",          "gather_columns",  "head_linear",
      "rope_columns",     "row_append",      "latent_attention",
      "index_top_k",      "patch_rows",      "conv2d",
      "depthwise_conv2d", "token_attention", "blend_rows",
      "layer_norm",       "bound",           "merge_features",
      "fold_rows",        "weighted_rows",   "relative_attention",
      "frame_conv",       "cumulative_norm", "pick_rows"};
  if (ops.contains(op.name())) return message.find("an op that mlx lowers") != message.npos;
  for (const char* kind : {"got mxfp4", "got mxfp8", "got nvfp4", "one axis of positions",
                           "queries that see back only"})
    if (message.find(kind) != message.npos) return true;
  return false;
}

class MlxParity : public testing::TestWithParam<const Op*> {};

TEST_P(MlxParity, MatchesTheReference) {
  auto backend = make_mlx_backend({});
  for (const OpCase& test : GetParam()->cases()) {
    CaseBuilder data(test.capacity, 42);
    test.build(data);
    Results got;
    try {
      got = run_mlx(*backend, data);
    } catch (const RuntimeError& error) {
      if (!lacks(*GetParam(), error.what())) throw;
      std::printf("[  SKIPPED ] %s: not on mlx\n", test.name.c_str());
      continue;
    }
    const Results wanted = run_reference(data);
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

INSTANTIATE_TEST_SUITE_P(Ops, MlxParity, testing::ValuesIn(all_ops()),
                         [](const auto& tested) { return std::string(tested.param->name()); });

}  // namespace
}  // namespace decant
