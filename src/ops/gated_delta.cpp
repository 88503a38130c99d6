#include "ops/gated_delta.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/case.h"
#include "ops/norm.h"
#include "ops/unary.h"

namespace decant {
namespace {

class GatedDelta final : public Op {
 public:
  std::string_view name() const override { return "gated_delta"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const auto type = [&](size_t i) -> const ValueType& {
      return graph.value(node.inputs[i]).type;
    };
    const ValueType &q = type(0), &k = type(1), &v = type(2);
    require(graph, node, q.shape.rank() == 3 && q.shape == k.shape && q.rows == Rows::kTokens,
            "q, k: expected equal [N, Hk, Dk] of tokens, got {} and {}", q.shape.to_string(),
            k.shape.to_string());
    require(graph, node, v.shape.rank() == 3 && v.shape[1] % k.shape[1] == 0,
            "v: expected [N, H, Dv] with H a multiple of {}, got {}", k.shape[1],
            v.shape.to_string());
    require(graph, node, k.shape[2] <= kMaxDeltaDim && v.shape[2] <= kMaxDeltaDim,
            "head widths: expected at most {}, got {} and {}", kMaxDeltaDim, k.shape[2],
            v.shape[2]);
    require(graph, node, type(3).width() == v.shape[1] && type(4).width() == v.shape[1],
            "g, beta: expected [N, {}], got {} and {}", v.shape[1], type(3).shape.to_string(),
            type(4).shape.to_string());
    const ValueInfo& state = graph.value(node.inputs[5]);
    require(graph, node, state.external == ExternalKind::kState,
            "input 5: expected a recurrent state");
    const StateSpec& spec = graph.state_specs().at(state.external_index);
    const StateSpec wanted =
        GatedDeltaShape{v.shape[1], k.shape[2], v.shape[2]}.state(spec.log_tokens);
    require(graph, node, spec == wanted, "state: expected width {} and log {}, got {} and {}",
            wanted.width, wanted.log_width, spec.width, spec.log_width);
    return {{DType::kF32, v.shape, v.rows}, {DType::kF32, Shape{0}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const StatePool& pool = io.states[static_cast<size_t>(io.inputs[5].external)];
    const int64_t key_heads = io.inputs[1].shape[1], key_dim = io.inputs[1].shape[2];
    const int64_t heads = io.inputs[2].shape[1], value_dim = io.inputs[2].shape[2];
    const int64_t entry = key_dim + value_dim + 2;
    std::vector<double> s(static_cast<size_t>(key_dim * value_dim));
    // One token on `s`; without q it only advances.
    const auto step = [&](const float* q, const float* k, const float* v, float g, float beta,
                          float* y) {
      const double decay = std::exp(static_cast<double>(g));
      for (double& x : s) x *= decay;
      for (int64_t j = 0; j < value_dim; ++j) {
        double predicted = 0;
        for (int64_t i = 0; i < key_dim; ++i)
          predicted += s[static_cast<size_t>(i * value_dim + j)] * k[i];
        const double delta = beta * (v[j] - predicted);
        double sum = 0;
        for (int64_t i = 0; i < key_dim; ++i) {
          double& x = s[static_cast<size_t>(i * value_dim + j)];
          x += k[i] * delta;
          if (q != nullptr) sum += x * q[i];
        }
        if (y != nullptr) y[j] = static_cast<float>(sum);
      }
    };
    const auto load = [&](const float* from) { std::copy_n(from, s.size(), s.begin()); };
    const auto store = [&](float* to) {
      for (size_t i = 0; i < s.size(); ++i) to[i] = static_cast<float>(s[i]);
    };
    for (const Batch::Sequence& sequence : io.batch.sequences)
      for (int64_t h = 0; h < heads; ++h) {
        float* state = pool.state + sequence.slot * pool.spec.width + h * key_dim * value_dim;
        float* log =
            pool.log + sequence.slot * pool.spec.log_tokens * pool.spec.log_width + h * entry;
        load(state);
        for (int64_t t = 0; t < sequence.commit; ++t) {
          const float* e = log + t * pool.spec.log_width;
          step(nullptr, e, e + key_dim, e[entry - 2], e[entry - 1], nullptr);
        }
        if (sequence.commit > 0) store(state);
        for (int64_t t = 0; t < sequence.count; ++t) {
          const int64_t n = sequence.first + t, key_head = h / (heads / key_heads);
          const float* q = io.inputs[0].row(n) + key_head * key_dim;
          const float* k = io.inputs[1].row(n) + key_head * key_dim;
          const float* v = io.inputs[2].row(n) + h * value_dim;
          const float g = io.inputs[3].row(n)[h], beta = io.inputs[4].row(n)[h];
          step(q, k, v, g, beta, io.outputs[0].row(n) + h * value_dim);
          if (io.batch.phase == Phase::kPrefill) continue;
          float* e = log + t * pool.spec.log_width;
          std::copy_n(k, key_dim, e);
          std::copy_n(v, value_dim, e + key_dim);
          e[entry - 2] = g;
          e[entry - 1] = beta;
        }
        if (io.batch.phase == Phase::kPrefill) store(state);
      }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const StateSpec& spec =
        graph.state_specs().at(graph.value(graph.storage_of(node.inputs[5])).external_index);
    const bool decode = stats.batch.phase == Phase::kDecode;
    int64_t floats = 0, tokens = 0;
    for (const Batch::Sequence& sequence : stats.batch.sequences) {
      // Read once, and written once where accepted tokens or a prompt advance it.
      floats += (!decode || sequence.commit > 0 ? 2 : 1) * spec.width +
                spec.log_width * (sequence.commit + (decode ? sequence.count : 0));
      tokens += sequence.commit + sequence.count;
    }
    cost.kv_bytes = 4.0 * static_cast<double>(floats);
    cost.flops = 6.0 * static_cast<double>(tokens * spec.width);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    struct Sizes {
      int64_t key_heads, heads, key_dim, value_dim;
    };
    const auto add_case = [&](std::string name, Phase phase, Sizes z, float decay,
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
             Value qk = b.input({2 * z.key_heads * z.key_dim + z.heads * z.value_dim});
             const int64_t keys = z.key_heads * z.key_dim;
             Value q = l2_norm(qk.columns(0, {z.key_heads, z.key_dim}), 1e-6f, 1.0f);
             Value k = l2_norm(qk.columns(keys, {z.key_heads, z.key_dim}), 1e-6f, 1.0f);
             Value v = qk.columns(2 * keys, {z.heads, z.value_dim});
             Value g = scale(unary(b.input({z.heads}), Unary::kSoftplus), -decay);
             Value beta = unary(b.input({z.heads}), Unary::kSigmoid);
             const GatedDeltaShape shape{z.heads, z.key_dim, z.value_dim};
             const auto [y, state] = gated_delta(q, k, v, g, beta, b.state(shape.state(4)));
             b.graph().mark_output(y, "y");
           },
           8 * z.key_dim + 16});
    };
    const Sizes small{2, 4, 32, 32}, real{1, 2, 128, 128}, odd{2, 2, 20, 36};
    add_case("gated_delta decode", Phase::kDecode, real, 1, {{40, 1}, {7, 1}, {0, 1}}, {1, 0, 0});
    add_case("gated_delta drafts", Phase::kDecode, small, 1, {{4, 3}, {0, 2}, {17, 4}}, {2, 0, 4});
    add_case("gated_delta drafts, odd widths", Phase::kDecode, odd, 1, {{4, 1}, {9, 4}}, {1, 3});
    for (const int32_t count : {1, 63, 64, 65, 127, 200})
      add_case(fmt::format("gated_delta prefill {}", count), Phase::kPrefill, real, 0.1f,
               {{0, count}}, {});
    add_case("gated_delta prefill of several", Phase::kPrefill, small, 0.5f,
             {{0, 70}, {61, 9}, {64, 64}, {130, 1}}, {0, 2, 0, 0});
    add_case("gated_delta prefill, odd widths", Phase::kPrefill, odd, 1, {{3, 90}, {0, 3}}, {});
    add_case("gated_delta that forgets at once", Phase::kPrefill, small, 200, {{0, 90}}, {});
    add_case("gated_delta that forgets nothing", Phase::kPrefill, small, 0, {{0, 90}}, {});
    return all;
  }
};

class DeltaDecay final : public Op {
 public:
  std::string_view name() const override { return "delta_decay"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& a = graph.value(node.inputs[0]).type;
    for (const Weight* weight : node.weights)
      require(graph, node, weight->shape == Shape{a.width()}, "{}: expected ({}), got {}",
              weight->name, a.width(), weight->shape.to_string());
    return {{DType::kF32, a.shape, a.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const std::byte *a_log = io.node.weights[0]->view().data,
                    *dt_bias = io.node.weights[1]->view().data;
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t h = 0; h < io.inputs[0].width(); ++h) {
        const double rate = std::exp(static_cast<double>(load_float(a_log, DType::kF32, h)));
        const double x = static_cast<double>(io.inputs[0].row(n)[h]) +
                         static_cast<double>(load_float(dt_bias, DType::kF32, h));
        io.outputs[0].row(n)[h] = static_cast<float>(-rate * apply(Unary::kSoftplus, x, 0.0));
      }
  }
  std::vector<OpCase> cases() const override {
    return {{"delta_decay",
             {Phase::kPrefill, 7, 1, 1},
             [](CaseBuilder& b) {
               Value a = b.input({50}, Rows::kTokens, 8.0f).columns(3, {37});
               b.graph().mark_output(
                   delta_decay(a, b.vector({37}, 0.5f, 1.0f), b.vector({37}, 1.0f, 1.0f)), "g");
             },
             8}};
  }
};

}  // namespace

const Op& gated_delta_op() {
  static const GatedDelta op;
  return op;
}
const Op& delta_decay_op() {
  static const DeltaDecay op;
  return op;
}

std::pair<Value, Value> gated_delta(Value q, Value k, Value v, Value g, Value beta, Value state) {
  const std::array<Value, 6> inputs{q, k, v, g, beta, state};
  const auto results = q.graph().add(gated_delta_op(), nullptr, inputs, {});
  return {results[0], results[1]};
}

Value delta_decay(Value a, const Weight* a_log, const Weight* dt_bias) {
  return a.graph().add1(delta_decay_op(), nullptr, {a}, {a_log, dt_bias});
}

}  // namespace decant
