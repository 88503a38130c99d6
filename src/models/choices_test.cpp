// Which experts and positions the families choose, against the official implementations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backend/reference/reference_backend.h"
#include "checkpoint/testing.h"
#include "models/golden_testing.h"
#include "ops/experts.h"
#include "ops/latent.h"
#include "program/passes.h"

namespace decant {
namespace {

using namespace decant::testing;

/// Values of `golden_choices.safetensors` beside a golden (scripts/goldens/choices.py).
class Choices {
 public:
  explicit Choices(std::string_view name)
      : file_(SafetensorsFile::open(fixture(fmt::format("{}/golden_choices.safetensors", name)))) {}
  template <typename T>
  std::vector<T> read(const std::string& key) const {
    const TensorInfo* tensor = file_->find(key);
    if (tensor == nullptr) return {};
    std::vector<T> out(tensor->bytes.size() / sizeof(T));
    std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
    return out;
  }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

// Experts and positions are the official ones wherever the official margin is above the bound.
TEST(Choices, EqualTheOfficialOnes) {
  int64_t compared = 0, sure = 0;
  for (const char* name : {"zoo/qwen3_moe", "zoo/gemma4_moe", "zoo/qwen3_5_moe", "zoo/qwen3_next",
                           "zoo/glm4_moe", "zoo/glm4_moe_lite", "zoo/glm_moe_dsa"}) {
    SCOPED_TRACE(name);
    const LoadedModel loaded = load_model(fixture(name));
    const double bound = golden_bound(*loaded.model);  // of the range of a row's scores
    const auto prompt = Golden(fixture(name)).ints("input_ids");
    const auto tokens = static_cast<int>(prompt.size());
    Graph graph({Phase::kPrefill, tokens, 1, tokens});
    graph.mark_output(loaded.model->forward(graph), "logits");
    Graph primitives = expand_composites(graph, bind_primitives());
    std::vector<std::string> keys;
    for (const Node& node : primitives.nodes()) {
      const bool experts = node.op == &top_k_route_op();
      if (!experts && node.op != &index_top_k_op()) continue;
      const std::string layer =
          node.scope.substr(std::strlen("layers."), node.scope.find('.', 7) - 7);
      keys.push_back((experts ? "experts" : "positions") + ("." + layer));
      primitives.mark_output(Value(primitives, node.outputs[0]), keys.back());
    }
    ASSERT_FALSE(keys.empty());
    const auto backend = make_reference_backend();
    PoolSpec pools;
    pools.kv = loaded.spec.kv;
    pools.states = loaded.spec.states;
    pools.slots = 1;
    pools.kv_dtype = DType::kF32;
    const std::vector<int32_t> table = {1, 0, 2};
    pools.pages_per_group.assign(loaded.spec.windows.size(), std::ssize(table));
    const auto memory = backend->make_pools(pools);
    const auto program = backend->compile(primitives, *memory, {.exact = true});
    Batch batch;
    batch.phase = Phase::kPrefill;
    batch.tokens = prompt;
    batch.positions.resize(prompt.size());
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    batch.outputs = batch.positions;
    batch.sequence_of.assign(prompt.size(), 0);
    batch.sequences = {{.first = 0, .count = tokens, .past = 0, .slot = 0}};
    batch.sampling.resize(prompt.size());
    batch.page_tables.assign(loaded.spec.windows.size(), table.data());
    program->run(batch);
    const Choices choices(name);
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto got = program->int_output(static_cast<int>(i) + 1);
      const auto want = choices.read<int32_t>(keys[i]);
      const size_t dot = keys[i].find('.');
      const auto margin =
          choices.read<float>(keys[i].substr(0, dot) + "_margin" + keys[i].substr(dot));
      ASSERT_EQ(got.size(), want.size()) << keys[i];
      ASSERT_EQ(margin.size(), prompt.size()) << keys[i];
      const size_t width = want.size() / margin.size();
      for (size_t t = 0; t < margin.size(); ++t) {
        ++compared;
        if (margin[t] <= bound) continue;
        ++sure;
        std::vector<int32_t> own(got.begin() + static_cast<std::ptrdiff_t>(t * width),
                                 got.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
        if (keys[i].starts_with("experts")) std::sort(own.begin(), own.end());
        const std::vector<int32_t> official(
            want.begin() + static_cast<std::ptrdiff_t>(t * width),
            want.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
        EXPECT_EQ(own, official) << keys[i] << " token " << t << " margin " << margin[t];
      }
    }
  }
  EXPECT_GT(sure, compared * 9 / 10);
}

}  // namespace
}  // namespace decant
