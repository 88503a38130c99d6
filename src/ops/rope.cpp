#include "ops/rope.h"

#include <algorithm>
#include <cmath>

#include "ops/case.h"
#include "ops/norm.h"
#include "ops/rows.h"

namespace decant {
namespace {

std::vector<ValueType> infer_rope(const Graph& graph, const Node& node, const RopeParams& params) {
  const ValueType& x = graph.value(node.inputs[0]).type;
  require(graph, node, x.shape.rank() == 3 && (x.rows == Rows::kTokens || x.rows == Rows::kOutputs),
          "x: expected [N, H, D] of tokens or outputs, got {}", x.shape.to_string());
  require(graph, node, 2 * static_cast<int64_t>(params.inv_freq.size()) <= x.shape[2],
          "rotary dimensions: expected at most {}, got {}", x.shape[2], 2 * params.inv_freq.size());
  require(graph, node,
          params.axes.empty() || (params.axes.size() == params.inv_freq.size() &&
                                  *std::max_element(params.axes.begin(), params.axes.end()) < 3),
          "axes: expected {} of 0 to 2, got {}", params.inv_freq.size(), params.axes.size());
  return {x};
}

std::shared_ptr<const RopeParams> case_params(int rotary, bool interleaved, float factor) {
  auto params = std::make_shared<RopeParams>();
  for (int i = 0; i < rotary / 2; ++i)
    params->inv_freq.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary)));
  params->interleaved = interleaved;
  params->attention_factor = factor;
  return params;
}

class Rope final : public Op {
 public:
  std::string_view name() const override { return "rope"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return infer_rope(graph, node, node.as<RopeParams>());
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<RopeParams>();
    const auto half = static_cast<int64_t>(params.inv_freq.size());
    const int64_t heads = io.inputs[0].shape[1], dim = io.inputs[0].shape[2];
    const bool narrowed = io.inputs[0].rows != io.batch.num_tokens();
    for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
      const auto token = static_cast<size_t>(narrowed ? io.batch.outputs[static_cast<size_t>(n)]
                                                      : static_cast<int32_t>(n));
      const auto& axes = io.batch.rope_positions;
      const bool by_axis = !params.axes.empty() && !axes.empty();
      for (int64_t h = 0; h < heads; ++h) {
        const float* x = io.inputs[0].row(n) + h * dim;
        float* y = io.outputs[0].row(n) + h * dim;
        for (int64_t i = 0; i < half; ++i) {
          const int32_t position = by_axis ? axes[token][params.axes[static_cast<size_t>(i)]]
                                           : io.batch.positions[token];
          // The official code forms the angle in float32: at long positions a double product is
          // another angle.
          const float angle =
              static_cast<float>(position) * params.inv_freq[static_cast<size_t>(i)];
          const double c = std::cos(static_cast<double>(angle)) * params.attention_factor;
          const double s = std::sin(static_cast<double>(angle)) * params.attention_factor;
          const int64_t first = params.interleaved ? 2 * i : i;
          const int64_t second = params.interleaved ? 2 * i + 1 : i + half;
          const float a = x[first], b = x[second];
          y[first] = static_cast<float>(a * c - b * s);
          y[second] = static_cast<float>(b * c + a * s);
        }
        for (int64_t i = 2 * half; i < dim; ++i) y[i] = x[i];
      }
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const auto& [rotary, interleaved, factor] :
         {std::tuple{64, false, 1.0f}, std::tuple{16, false, 1.1f}, std::tuple{64, true, 1.0f}})
      all.push_back({fmt::format("rope {}{}", rotary, interleaved ? " interleaved" : ""),
                     {Phase::kPrefill, 20, 2, 2},
                     [=](CaseBuilder& b) {
                       b.sequences({{0, 13}, {30011, 7}});
                       b.graph().mark_output(
                           rope(b.input({3, 64}), case_params(rotary, interleaved, factor)), "y");
                     },
                     8});
    all.push_back({"rope proportional",
                   {Phase::kPrefill, 20, 2, 2},
                   [](CaseBuilder& b) {
                     b.sequences({{0, 13}, {30011, 7}});
                     auto params = std::make_shared<RopeParams>(*case_params(512, false, 1.0f));
                     std::fill(params->inv_freq.begin() + 64, params->inv_freq.end(), 0.0f);
                     b.graph().mark_output(rope(b.input({2, 512}), params), "y");
                   },
                   8});
    for (const bool pictures : {false, true})
      all.push_back({pictures ? "rope of three axes" : "rope of three axes, text",
                     {Phase::kPrefill, 20, 2, 2},
                     [pictures](CaseBuilder& b) {
                       b.sequences({{0, 13}, {30011, 7}});
                       auto params = std::make_shared<RopeParams>(*case_params(16, false, 1.0f));
                       params->axes = {0, 1, 2, 0, 1, 2, 0, 1};
                       Batch& batch = b.batch();
                       if (pictures)
                         for (const int32_t p : batch.positions)
                           batch.rope_positions.push_back({p / 2, p / 2 + p % 3, p / 2 + p % 5});
                       b.graph().mark_output(rope(b.input({3, 64}), std::move(params)), "y");
                     },
                     8});
    all.push_back({"rope of output rows",
                   {Phase::kPrefill, 20, 2, 2},
                   [](CaseBuilder& b) {
                     b.sequences({{0, 13}, {30011, 7}});
                     Value x = narrow_rows(b.input({3, 64}));
                     b.graph().mark_output(rope(x, case_params(64, false, 1.0f)), "y");
                   },
                   8});
    return all;
  }
};

class NormRope final : public Op {
 public:
  std::string_view name() const override { return "norm_rope"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return infer_rope(graph, node, *node.as<NormRopeParams>().rope);
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const auto& params = node.as<NormRopeParams>();
    return {rope(rms_norm(in[0], node.weights.empty() ? nullptr : node.weights[0], params.eps),
                 params.rope)};
  }
  std::vector<OpCase> cases() const override {
    return {{"norm_rope",
             {Phase::kDecode, 5, 5, 5},
             [](CaseBuilder& b) {
               b.sequences({{3, 1}, {100, 1}, {0, 1}, {4000, 1}, {63, 1}});
               Value x = b.input({6 * 64}).columns(64, {4, 64});
               b.graph().mark_output(
                   norm_rope(x, b.vector({64}, 1.0f, 0.2f), 1e-6f, case_params(64, false, 1.0f)),
                   "y");
             },
             72}};
  }
};

}  // namespace

std::string RopeParams::text() const {
  return fmt::format("rotary={}{}{}", 2 * inv_freq.size(), interleaved ? " interleaved" : "",
                     axes.empty() ? "" : " axes");
}
std::string NormRopeParams::text() const { return fmt::format("eps={} {}", eps, rope->text()); }

const Op& rope_op() {
  static const Rope op;
  return op;
}
const Op& norm_rope_op() {
  static const NormRope op;
  return op;
}

Value rope(Value x, std::shared_ptr<const RopeParams> params) {
  return x.graph().add1(rope_op(), std::move(params), {x});
}

Value norm_rope(Value x, const Weight* weight, float eps,
                std::shared_ptr<const RopeParams> rope_params) {
  auto params = std::make_shared<NormRopeParams>();
  params->eps = eps;
  params->rope = std::move(rope_params);
  if (weight == nullptr) return x.graph().add1(norm_rope_op(), params, {x});
  return x.graph().add1(norm_rope_op(), params, {x}, {weight});
}

}  // namespace decant
