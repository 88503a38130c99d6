#include "ops/causal_conv.h"

#include <array>

#include "ops/case.h"

namespace decant {
namespace {

class CausalConv1d final : public Op {
 public:
  std::string_view name() const override { return "causal_conv1d"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& u = graph.value(node.inputs[0]).type;
    const ValueInfo& state = graph.value(node.inputs[1]);
    const int taps = node.as<CausalConvParams>().taps;
    const int64_t channels = u.width();
    require(graph, node, state.external == ExternalKind::kState,
            "input 1: expected a recurrent state");
    require(graph, node, taps >= 2 && node.weights[0]->shape.count() == channels * taps,
            "weight {}: expected {} channels times 2 taps or more, got {}", node.weights[0]->name,
            channels, node.weights[0]->shape.to_string());
    const StateSpec& spec = graph.state_specs().at(state.external_index);
    require(graph, node, spec.width == (taps - 1) * channels && spec.log_width == channels,
            "state: expected width {} and log {}, got {} and {}", (taps - 1) * channels, channels,
            spec.width, spec.log_width);
    return {{u.dtype, {u.shape[0], channels}, u.rows}, {DType::kF32, Shape{0}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<CausalConvParams>();
    const StatePool& pool = io.states[static_cast<size_t>(io.inputs[1].external)];
    const int64_t channels = io.inputs[0].width(), past = params.taps - 1;
    const std::byte* weight = io.node.weights[0]->view().data;
    std::vector<float> inputs;  // of one channel: the state, then what follows it
    for (const Batch::Sequence& sequence : io.batch.sequences) {
      float* state = pool.state + sequence.slot * pool.spec.width;
      float* log = pool.log + sequence.slot * pool.spec.log_tokens * channels;
      for (int64_t c = 0; c < channels; ++c) {
        inputs.clear();
        for (int64_t j = 0; j < past; ++j) inputs.push_back(state[j * channels + c]);
        for (int64_t t = 0; t < sequence.commit; ++t) inputs.push_back(log[t * channels + c]);
        inputs.erase(inputs.begin(), inputs.begin() + sequence.commit);
        for (int64_t j = 0; j < past; ++j) state[j * channels + c] = inputs[static_cast<size_t>(j)];
        for (int64_t t = 0; t < sequence.count; ++t) {
          inputs.push_back(io.inputs[0].row(sequence.first + t)[c]);
          double sum = 0;
          for (int64_t j = 0; j < params.taps; ++j)
            sum += static_cast<double>(load_float(weight, DType::kF32, c * params.taps + j)) *
                   inputs[static_cast<size_t>(t + j)];
          io.outputs[0].row(sequence.first + t)[c] =
              static_cast<float>(apply(params.act, sum, 0.0));
          if (io.batch.phase == Phase::kDecode) log[t * channels + c] = inputs.back();
        }
        if (io.batch.phase == Phase::kPrefill)
          for (int64_t j = 0; j < past; ++j)
            state[j * channels + c] = inputs[static_cast<size_t>(sequence.count + j)];
      }
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const int64_t channels = graph.value(node.inputs[0]).type.width();
    const int taps = node.as<CausalConvParams>().taps;
    cost.weight_bytes = static_cast<double>(4 * channels * taps);
    for (const Batch::Sequence& sequence : stats.batch.sequences) {
      const bool decode = stats.batch.phase == Phase::kDecode;
      const bool rewritten = !decode || sequence.commit > 0;
      const int64_t rows =
          (rewritten ? 2 : 1) * (taps - 1) + sequence.commit + (decode ? sequence.count : 0);
      cost.kv_bytes += static_cast<double>(4 * channels * rows);
    }
    cost.flops = 2.0 * static_cast<double>(stats.batch.num_tokens() * channels * taps);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const auto add_case = [&](std::string name, Phase phase, int64_t channels, int taps,
                              std::vector<std::pair<int64_t, int32_t>> sequences,
                              std::vector<int32_t> commits) {
      int tokens = 0;
      for (const auto& [past, count] : sequences) tokens += count;
      all.push_back(
          {std::move(name),
           {phase, tokens, static_cast<int>(sequences.size()), static_cast<int>(sequences.size())},
           [=](CaseBuilder& b) {
             b.sequences(sequences);
             for (size_t i = 0; i < commits.size(); ++i) b.batch().sequences[i].commit = commits[i];
             // A view: the convolution reads some columns of a wider product.
             Value u = b.input({channels + 24}).columns(8, {channels});
             const auto [y, state] =
                 causal_conv1d(u, b.vector({channels, taps}, 0, 0.5f),
                               b.state(causal_conv_state(channels, taps, 4)), Unary::kSilu);
             b.graph().mark_output(y, "y");
           },
           2 * taps});
    };
    add_case("causal_conv1d decode", Phase::kDecode, 70, 4, {{40, 1}, {7, 1}, {0, 1}}, {1, 0, 0});
    add_case("causal_conv1d drafts", Phase::kDecode, 300, 4, {{4, 3}, {0, 2}, {17, 4}}, {2, 0, 4});
    add_case("causal_conv1d prefill", Phase::kPrefill, 300, 4, {{0, 2}, {64, 30}, {9, 1}}, {});
    add_case("causal_conv1d of two taps", Phase::kPrefill, 16, 2, {{0, 5}, {3, 1}}, {0, 3});
    return all;
  }
};

}  // namespace

std::string CausalConvParams::text() const { return fmt::format("taps={} {}", taps, name_of(act)); }

StateSpec causal_conv_state(int64_t channels, int taps, int log_tokens) {
  return {(taps - 1) * channels, channels, log_tokens};
}

const Op& causal_conv1d_op() {
  static const CausalConv1d op;
  return op;
}

std::pair<Value, Value> causal_conv1d(Value u, const Weight* weight, Value state, Unary act) {
  auto params = std::make_shared<CausalConvParams>();
  params->taps = static_cast<int>(weight->shape.count() / u.type().width());
  params->act = act;
  const std::array<Value, 2> inputs{u, state};
  const std::array<const Weight*, 1> weights{weight};
  const auto results = u.graph().add(causal_conv1d_op(), params, inputs, weights);
  return {results[0], results[1]};
}

}  // namespace decant
