#include "ops/sample.h"

#include <array>

#include "ops/case.h"
#include "sampling/sampler.h"

namespace decant {
namespace {

class Sample final : public Op {
 public:
  std::string_view name() const override { return "sample"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    require(graph, node, x.rows == Rows::kOutputs, "logits: expected output rows");
    return {{DType::kI32, {x.shape[0], 1}, Rows::kOutputs}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto width = static_cast<size_t>(io.inputs[0].width());
    for (int64_t i = 0; i < io.inputs[0].rows; ++i)
      io.outputs[0].int_row(i)[0] =
          sample_token({io.inputs[0].row(i), width}, io.batch.sampling[static_cast<size_t>(i)]);
  }
  std::vector<OpCase> cases() const override {
    // A row per filter, then rows with lists, greedy and not, then everything at once.
    return {{"sample", {Phase::kDecode, 11, 11, 11}, [](CaseBuilder& b) {
               static const std::array<TokenBias, 3> bias = {{{3, 4.0f}, {70, -100}, {499, 2.5f}}};
               static const std::array<TokenCount, 4> history = {
                   {{3, 2, true}, {9, 0, true}, {80, 5, false}, {498, 1, true}}};
               std::vector<SamplingRow>& rows = b.batch().sampling;
               for (size_t i = 1; i < rows.size(); ++i)
                 rows[i] = {
                     .temperature = 0.5f * static_cast<float>(1 + i % 4), .seed = 7, .counter = i};
               rows[2].top_k = 20;
               rows[3].top_p = 0.8f;
               rows[4].min_p = 0.05f;
               rows[5].typical_p = 0.7f;
               rows[6].bias = bias;
               rows[7].temperature = 0;
               for (size_t i : {7u, 8u, 10u}) {
                 rows[i].repetition_penalty = 1.3f;
                 rows[i].presence_penalty = 0.5f;
                 rows[i].frequency_penalty = -0.25f;
                 rows[i].history = history;
               }
               rows[9] = rows[7];
               rows[9].bias = bias;
               rows[10].top_k = 200;
               rows[10].typical_p = 0.95f;
               rows[10].top_p = 0.9f;
               rows[10].min_p = 0.001f;
               rows[10].bias = bias;
               b.graph().mark_output(sample(b.input({500}, Rows::kOutputs, 3.0f)), "ids");
             }}};
  }
};

}  // namespace

const Op& sample_op() {
  static const Sample op;
  return op;
}

Value sample(Value logits) { return logits.graph().add1(sample_op(), nullptr, {logits}); }

}  // namespace decant
