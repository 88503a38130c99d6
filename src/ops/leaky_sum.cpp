#include "ops/leaky_sum.h"

#include <algorithm>
#include <array>

#include "ops/case.h"

namespace decant {
namespace {

class LeakySum final : public Op {
 public:
  std::string_view name() const override { return "leaky_sum"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const ValueInfo& state = graph.value(node.inputs[1]);
    require(graph, node, state.external == ExternalKind::kState,
            "input 1: expected a recurrent state");
    const StateSpec& spec = graph.state_specs().at(state.external_index);
    require(graph, node, spec.width == x.width() && spec.log_width == x.width(),
            "state: expected width {}, got {} and log {}", x.width(), spec.width, spec.log_width);
    return {x, {DType::kF32, Shape{0}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const StatePool& pool = io.states[static_cast<size_t>(io.inputs[1].external)];
    const int64_t size = pool.spec.width;
    const std::byte* gate = io.node.weights[0]->view().data;
    for (const Batch::Sequence& sequence : io.batch.sequences) {
      float* state = pool.state + sequence.slot * size;
      float* log = pool.log + sequence.slot * pool.spec.log_tokens * size;
      for (int64_t i = 0; i < size; ++i) {
        const float g = load_float(gate, DType::kF32, i);
        float s = state[i];
        for (int64_t t = 0; t < sequence.commit; ++t) s = g * s + log[t * size + i];
        state[i] = s;
        for (int64_t t = 0; t < sequence.count; ++t) {
          const float x = io.inputs[0].row(sequence.first + t)[i];
          s = g * s + x;
          io.outputs[0].row(sequence.first + t)[i] = s;
          if (io.batch.phase == Phase::kDecode) log[t * size + i] = x;
        }
        if (io.batch.phase == Phase::kPrefill) state[i] = s;
      }
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (Phase phase : {Phase::kDecode, Phase::kPrefill})
      all.push_back({phase == Phase::kDecode ? "leaky_sum decode" : "leaky_sum prefill",
                     {phase, 9, 3, 3},
                     [](CaseBuilder& b) {
                       b.sequences({{4, 3}, {0, 2}, {17, 4}});
                       b.batch().sequences[0].commit = 2;
                       b.batch().sequences[2].commit = 4;
                       Value x = b.input({70});
                       const auto [y, state] =
                           leaky_sum(x, b.vector({70}, 0.5f, 0.2f), b.state({70, 70, 4}));
                       b.graph().mark_output(y, "y");
                     },
                     12});
    return all;
  }
};

}  // namespace

const Op& leaky_sum_op() {
  static const LeakySum op;
  return op;
}

std::pair<Value, Value> leaky_sum(Value x, const Weight* gate, Value state) {
  const std::array<Value, 2> inputs{x, state};
  const std::array<const Weight*, 1> weights{gate};
  const auto results = x.graph().add(leaky_sum_op(), nullptr, inputs, weights);
  return {results[0], results[1]};
}

}  // namespace decant
