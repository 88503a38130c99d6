// gemma3n.md section 10.4: what the blocks of Gemma 3n are made of, each against its line of the
// specification, written out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <span>
#include <vector>

#include "backend/reference/reference_backend.h"
#include "ops/altup.h"
#include "ops/mlp.h"

namespace decant {
namespace {

constexpr int kRows = 3, kStreams = 4, kWidth = 5;

std::vector<float> random_values(size_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = normal(engine);
  return out;
}

/// What `record` gives for inputs of these widths, with their values.
struct Ran {
  std::vector<std::vector<float>> inputs;
  std::vector<float> y;
};
Ran run(const std::vector<Shape>& inner,
        const std::function<Value(std::span<const Value>)>& record) {
  Graph graph({Phase::kPrefill, kRows, 1, 1});
  std::vector<Value> values;
  Ran out;
  for (size_t i = 0; i < inner.size(); ++i) {
    std::vector<int64_t> dims = {kRows};
    dims.insert(dims.end(), inner[i].dims().begin(), inner[i].dims().end());
    const Shape shape{std::span<const int64_t>(dims)};
    values.push_back(graph.input(static_cast<int>(i), {DType::kF32, shape, Rows::kTokens}));
    out.inputs.push_back(
        random_values(static_cast<size_t>(shape.count()), static_cast<uint32_t>(i) + 1));
  }
  graph.mark_output(record(values), "y");
  const auto backend = make_reference_backend();
  const auto pools = backend->make_pools({});
  const auto program = backend->compile(graph, *pools, {.exact = true});
  for (size_t i = 0; i < inner.size(); ++i)
    program->set_input(static_cast<int>(i), std::span<const float>(out.inputs[i]));
  Batch batch;
  batch.phase = Phase::kPrefill;
  batch.tokens.assign(kRows, 0);
  batch.positions = {0, 1, 2};
  batch.sequence_of.assign(kRows, 0);
  batch.sequences = {{.first = 0, .count = kRows, .past = 0}};
  program->run(batch);
  out.y.assign(program->output(0).begin(), program->output(0).end());
  return out;
}

size_t at(int row, int stream, int column) {
  return static_cast<size_t>((row * kStreams + stream) * kWidth + column);
}

// pred_i = x_i + sum_j c[4 i + j] x_j: not the transposed sum.
TEST(Gemma3nBlocks, PredictsEachStreamFromAll) {
  const Ran ran = run({{kStreams, kWidth}, {kStreams * kStreams}},
                      [](auto in) { return altup_mix(in[0], in[1]); });
  const auto &x = ran.inputs[0], &c = ran.inputs[1];
  for (int n = 0; n < kRows; ++n)
    for (int i = 0; i < kStreams; ++i)
      for (int d = 0; d < kWidth; ++d) {
        double want = x[at(n, i, d)];
        for (int j = 0; j < kStreams; ++j)
          want += static_cast<double>(
                      c[static_cast<size_t>(n * kStreams * kStreams + kStreams * i + j)]) *
                  x[at(n, j, d)];
        EXPECT_NEAR(ran.y[at(n, i, d)], want, 1e-5) << n << ", " << i << ", " << d;
      }
}

// x'_i = pred_i + (k_i + 1) inn.
TEST(Gemma3nBlocks, CorrectsEachStreamByItsShare) {
  const Ran ran = run({{kStreams, kWidth}, {kStreams}, {kWidth}},
                      [](auto in) { return altup_update(in[0], in[1], in[2]); });
  for (int n = 0; n < kRows; ++n)
    for (int i = 0; i < kStreams; ++i)
      for (int d = 0; d < kWidth; ++d) {
        const double k = ran.inputs[1][static_cast<size_t>(n * kStreams + i)];
        const double inn = ran.inputs[2][static_cast<size_t>(n * kWidth + d)];
        EXPECT_NEAR(ran.y[at(n, i, d)], ran.inputs[0][at(n, i, d)] + (k + 1) * inn, 1e-5);
      }
}

// x'_i += t for i = 1..3: stream 0 keeps its bits.
TEST(Gemma3nBlocks, PerLayerInputsLeaveTheActiveStreamAlone) {
  const Ran ran =
      run({{kStreams, kWidth}, {kWidth}}, [](auto in) { return add_to_inactive(in[0], in[1]); });
  for (int n = 0; n < kRows; ++n)
    for (int i = 0; i < kStreams; ++i)
      for (int d = 0; d < kWidth; ++d) {
        const float x = ran.inputs[0][at(n, i, d)];
        const float t = i == 0 ? 0 : ran.inputs[1][static_cast<size_t>(n * kWidth + d)];
        EXPECT_EQ(ran.y[at(n, i, d)], x + t);
      }
}

// g = max(0, g - (mean + q std)) with the deviation of a population, then gelu(g) up.
TEST(Gemma3nBlocks, KeepsTheLargestGates) {
  constexpr int kInner = 40;
  constexpr double kQuantile = 0.8;
  const Ran ran = run({{kInner}, {kInner}}, [](auto in) {
    return gelu_topk(in[0], in[1], static_cast<float>(kQuantile));
  });
  int kept = 0;
  for (int n = 0; n < kRows; ++n) {
    const float* g = &ran.inputs[0][static_cast<size_t>(n) * kInner];
    double mean = 0, variance = 0;
    for (int i = 0; i < kInner; ++i) mean += g[i] / double{kInner};
    for (int i = 0; i < kInner; ++i) variance += (g[i] - mean) * (g[i] - mean) / kInner;
    for (int i = 0; i < kInner; ++i) {
      const double x = std::max(0.0, g[i] - (mean + kQuantile * std::sqrt(variance)));
      kept += x > 0;
      const double gelu =
          0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
      const auto index = static_cast<size_t>(n * kInner + i);
      EXPECT_NEAR(ran.y[index], gelu * ran.inputs[1][index], 1e-5) << n << ", " << i;
    }
  }
  EXPECT_GT(kept, 10);
  EXPECT_LT(kept, 45);
}

}  // namespace
}  // namespace decant
