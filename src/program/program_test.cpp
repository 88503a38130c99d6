#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string_view>

#include "ops/binary.h"
#include "ops/case.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/unary.h"
#include "program/ledger.h"
#include "program/passes.h"
#include "program/schedule.h"

namespace decant {
namespace {

class WantsAll final : public BindQuery {
 public:
  bool binds(const Graph&, const Node&) const override { return true; }
  bool wants(const Op&) const override { return true; }
};

/// Runs a graph of primitives with reference kernels; the tests below compare whole graphs bit for
/// bit.
std::vector<std::vector<float>> run_reference(const CaseBuilder& data, const Graph& graph) {
  std::vector<std::vector<std::byte>> buffers(graph.values().size());
  const auto tensor = [&](int id) {
    const int storage = graph.storage_of(id);
    const ValueInfo& base = graph.value(storage);
    auto& buffer = buffers[static_cast<size_t>(storage)];
    if (buffer.empty()) {
      buffer.resize(static_cast<size_t>(value_bytes(base.type)));
      if (base.external == ExternalKind::kInput)
        std::memcpy(buffer.data(),
                    data.inputs()[static_cast<size_t>(base.external_index)].floats.data(),
                    buffer.size());
    }
    HostTensor out;
    out.shape = graph.value(id).type.shape;
    out.rows = out.shape[0];
    out.row_stride = base.type.width();
    out.data = buffer.data() + graph.column_of(id) * 4;
    return out;
  };
  for (const Node& node : graph.nodes()) {
    std::vector<HostTensor> inputs, outputs;
    for (int id : node.inputs) inputs.push_back(tensor(id));
    for (int id : node.outputs) outputs.push_back(tensor(id));
    node.op->reference({node, data.batch(), inputs, outputs, {}, {}});
  }
  std::vector<std::vector<float>> results;
  for (const auto& [name, id] : graph.outputs()) {
    const HostTensor out = tensor(id);
    results.emplace_back(out.row(0), out.row(0) + out.shape.count());
  }
  return results;
}

void expect_rewrite(const std::function<void(CaseBuilder&)>& pattern, const Op& fused) {
  CaseBuilder data({Phase::kPrefill, 5, 1, 1}, 11);
  pattern(data);
  const Graph rewritten = fuse_neighbours(data.graph(), WantsAll());
  EXPECT_EQ(histogram(rewritten)[std::string(fused.name())], 1) << to_dot(rewritten, "rewritten");
  EXPECT_LT(rewritten.nodes().size(), data.graph().nodes().size());
  const Graph expanded = expand_composites(rewritten, bind_primitives());
  EXPECT_EQ(run_reference(data, data.graph()), run_reference(data, expanded));
}

std::shared_ptr<RopeParams> some_rope() {
  auto params = std::make_shared<RopeParams>();
  for (int i = 0; i < 8; ++i) params->inv_freq.push_back(1.0f / static_cast<float>(1 + i));
  return params;
}

TEST(Rewrites, LinearAddEqualsItsPattern) {
  for (bool product_first : {false, true})
    expect_rewrite(
        [=](CaseBuilder& b) {
          Value r = b.input({48});
          Value x = b.input({64});
          Value product = linear(x, b.matrix(48, 64, Format::affine(4, 32)));
          b.graph().mark_output(product_first ? add(product, r) : add(r, product), "y");
        },
        linear_add_op());
}

TEST(Rewrites, NormRopeEqualsItsPattern) {
  expect_rewrite(
      [](CaseBuilder& b) {
        Value x = b.input({3, 16});
        b.graph().mark_output(rope(rms_norm(x, b.vector({16}, 1.0f, 0.1f), 1e-6f), some_rope()),
                              "y");
      },
      norm_rope_op());
}

TEST(Rewrites, ActMulEqualsItsPattern) {
  expect_rewrite(
      [](CaseBuilder& b) {
        Value g = b.input({32});
        b.graph().mark_output(mul(unary(g, Unary::kSilu), b.input({32})), "y");
      },
      act_mul_op());
}

TEST(Rewrites, AddRmsNormEqualsItsPatternAndKeepsTheSum) {
  expect_rewrite(
      [](CaseBuilder& b) {
        Value x = b.input({32});
        Value sum = add(x, b.input({32}));
        Value y = rms_norm(sum, b.vector({32}, 1.0f, 0.1f), 1e-6f);
        b.graph().mark_output(add(sum, y), "z");
        b.graph().mark_output(sum, "sum");
      },
      add_rms_norm_op());
}

TEST(Rewrites, DoNotFireWhenTheMiddleIsUsedElsewhere) {
  CaseBuilder b({Phase::kPrefill, 5, 1, 1}, 3);
  Value r = b.input({48});
  Value product = linear(b.input({64}), b.matrix(48, 64, Format::dense(DType::kBF16)));
  b.graph().mark_output(add(r, product), "y");
  b.graph().mark_output(product, "product");
  EXPECT_EQ(histogram(fuse_neighbours(b.graph(), WantsAll())).count("linear_add"), 0u);
}

TEST(Graph, InferenceErrorsNameTheNode) {
  CaseBuilder b({Phase::kDecode, 1, 1, 1}, 3);
  Graph::ScopeGuard scope(b.graph(), "layers.3.mlp");
  try {
    linear(b.input({65}), b.matrix(48, 64, Format::dense(DType::kBF16)));
    FAIL();
  } catch (const GraphError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("linear at layers.3.mlp"), std::string::npos) << what;
    EXPECT_NE(what.find("expected 65 inputs, got 64"), std::string::npos) << what;
  }
}

TEST(Ops, EveryPrimitiveHasCasesOrSharesThem) {
  // What fills a cache is checked by the cases of those that read it.
  const std::set<std::string_view> shared = {"kv_append", "row_append"};
  for (const Op* op : all_ops())
    EXPECT_TRUE(shared.contains(op->name()) || !op->cases().empty()) << op->name();
}

TEST(Ledger, CountsPackedBytesOfOneTouch) {
  CaseBuilder b({Phase::kDecode, 1, 1, 1}, 3);
  b.graph().mark_output(linear(b.input({128}), b.matrix(32, 128, Format::affine(4, 64))), "y");
  const Cost cost = total(ledger(b.graph(), b.batch()));
  EXPECT_EQ(cost.weight_bytes, 32 * (128 / 2 + 2 * 2 * 2));
  EXPECT_EQ(cost.flops, 2.0 * 32 * 128);
}

/// A random graph of additions: many values of different sizes and lifetimes.
void random_graph(CaseBuilder& b, std::mt19937& random) {
  std::vector<Value> pool;
  for (int i = 0; i < 4; ++i) pool.push_back(b.input({1 + static_cast<int64_t>(random() % 200)}));
  for (int i = 0; i < 60; ++i) {
    const Value a = pool[random() % pool.size()];
    if (random() % 4 == 0 && a.shape()[1] > 3) {
      pool.push_back(a.columns(1, {a.shape()[1] - 2}));
    } else if (random() % 3 == 0) {
      const std::vector<Value> parts{a, pool[random() % pool.size()]};
      pool.push_back(concat(parts, {parts[0].type().width() + parts[1].type().width()}));
    } else {
      pool.push_back(add(a, a));
    }
    if (random() % 10 == 0 && pool.back().type().width() < 5000)
      b.graph().mark_output(add(pool.back(), pool.back()), "out" + std::to_string(i));
  }
}

TEST(MemoryPlan, LiveValuesNeverOverlapOverRandomSchedules) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    CaseBuilder b({Phase::kPrefill, 3, 1, 1}, seed);
    random_graph(b, random);
    const Graph& graph = b.graph();
    Schedule schedule = schedule_by_levels(graph);
    if (seed % 2 == 1) {  // one node per phase, in recorded order: another valid schedule
      schedule.phases.clear();
      for (const Node& node : graph.nodes()) {
        schedule.phase_of[static_cast<size_t>(node.id)] = node.id;
        schedule.phases.push_back({node.id});
      }
    }
    std::vector<WorkspaceRequest> requests;
    for (int i = 0; i < 5; ++i)
      requests.push_back({static_cast<int>(random() % graph.nodes().size()),
                          static_cast<int64_t>(random() % 3000)});
    const MemoryPlan plan = plan_memory(graph, schedule, requests);
    // Phase by phase: what is written in it or still to be read must be disjoint.
    for (int phase = 0; phase < static_cast<int>(schedule.phases.size()); ++phase) {
      std::vector<std::pair<int64_t, int64_t>> live;
      for (size_t id = 0; id < graph.values().size(); ++id) {
        if (plan.offset[id] < 0) continue;
        const int made = schedule.phase_of[static_cast<size_t>(graph.values()[id].producer)];
        int last = made;
        for (const Node& node : graph.nodes())
          for (int input : node.inputs)
            if (graph.storage_of(input) == static_cast<int>(id))
              last = std::max(last, schedule.phase_of[static_cast<size_t>(node.id)]);
        for (const auto& [name, out] : graph.outputs())
          if (graph.storage_of(out) == static_cast<int>(id)) last = 1 << 30;
        if (made <= phase && phase <= last)
          live.emplace_back(plan.offset[id],
                            plan.offset[id] + value_bytes(graph.values()[id].type));
      }
      for (size_t i = 0; i < requests.size(); ++i)
        if (schedule.phase_of[static_cast<size_t>(requests[i].node)] == phase)
          live.emplace_back(plan.workspace_offset[i], plan.workspace_offset[i] + requests[i].bytes);
      std::sort(live.begin(), live.end());
      for (size_t i = 0; i < live.size(); ++i) {
        EXPECT_LE(live[i].second, plan.arena_bytes);
        ASSERT_TRUE(i == 0 || live[i - 1].second <= live[i].first)
            << "seed " << seed << " phase " << phase;
      }
    }
  }
}

}  // namespace
}  // namespace decant
