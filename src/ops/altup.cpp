#include "ops/altup.h"

#include "ops/binary.h"
#include "ops/case.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/unary.h"

namespace decant {
namespace {

Value stream(Value streams, int64_t i) {
  const int64_t size = streams.shape()[2];
  return streams.columns(i * size, {size});
}

Value modalities(Value x, const Node& node, float eps) {
  const auto size = static_cast<float>(x.shape().back());
  Value normed = rms_norm(x, node.weights[0], eps);
  return unary(linear(scale(normed, 1 / size), node.weights[1]), Unary::kTanh);
}

/// The three primitives differ only in what is added to each stream.
class StreamOp : public Op {
 public:
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    require(graph, node, x.shape.rank() == 3, "streams: expected [N, A, D], got {}",
            x.shape.to_string());
    return {x};
  }

 protected:
  void require_width(const Graph& graph, const Node& node, size_t input, int64_t width) const {
    const ValueType& type = graph.value(node.inputs[input]).type;
    require(graph, node, type.width() == width, "input {}: expected width {}, got {}", input, width,
            type.width());
  }
};

class AltupMix final : public StreamOp {
 public:
  std::string_view name() const override { return "altup_mix"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    auto types = StreamOp::infer(graph, node);
    require_width(graph, node, 1, types[0].shape[1] * types[0].shape[1]);
    return types;
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t streams = io.inputs[0].shape[1], size = io.inputs[0].shape[2];
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t i = 0; i < streams; ++i)
        for (int64_t d = 0; d < size; ++d) {
          const float* x = io.inputs[0].row(n);
          double y = x[i * size + d];
          for (int64_t j = 0; j < streams; ++j)
            y += static_cast<double>(io.inputs[1].row(n)[i * streams + j]) * x[j * size + d];
          io.outputs[0].row(n)[i * size + d] = static_cast<float>(y);
        }
  }
  std::vector<OpCase> cases() const override {
    return {{"altup_mix",
             {Phase::kPrefill, 5, 1, 1},
             [](CaseBuilder& b) {
               Value x = b.input({4, 80});
               b.graph().mark_output(altup_mix(x, b.input({16})), "y");
             },
             5}};
  }
};

class AltupUpdate final : public StreamOp {
 public:
  std::string_view name() const override { return "altup_update"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    auto types = StreamOp::infer(graph, node);
    require_width(graph, node, 1, types[0].shape[1]);
    require_width(graph, node, 2, types[0].shape[2]);
    return types;
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t streams = io.inputs[0].shape[1], size = io.inputs[0].shape[2];
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t i = 0; i < streams; ++i)
        for (int64_t d = 0; d < size; ++d)
          io.outputs[0].row(n)[i * size + d] = static_cast<float>(
              io.inputs[0].row(n)[i * size + d] +
              (static_cast<double>(io.inputs[1].row(n)[i]) + 1) * io.inputs[2].row(n)[d]);
  }
  std::vector<OpCase> cases() const override {
    return {{"altup_update",
             {Phase::kPrefill, 5, 1, 1},
             [](CaseBuilder& b) {
               Value x = b.input({4, 80});
               Value c = b.input({4});
               b.graph().mark_output(altup_update(x, c, b.input({80})), "y");
             },
             3}};
  }
};

class AddToInactive final : public StreamOp {
 public:
  std::string_view name() const override { return "add_to_inactive"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    auto types = StreamOp::infer(graph, node);
    require_width(graph, node, 1, types[0].shape[2]);
    return types;
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t streams = io.inputs[0].shape[1], size = io.inputs[0].shape[2];
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t i = 0; i < streams; ++i)
        for (int64_t d = 0; d < size; ++d)
          io.outputs[0].row(n)[i * size + d] =
              io.inputs[0].row(n)[i * size + d] + (i > 0 ? io.inputs[1].row(n)[d] : 0.0f);
  }
  std::vector<OpCase> cases() const override {
    return {{"add_to_inactive", {Phase::kPrefill, 5, 1, 1}, [](CaseBuilder& b) {
               Value x = b.input({4, 80});
               b.graph().mark_output(add_to_inactive(x, b.input({80})), "y");
             }}};
  }
};

class AltupPredict final : public StreamOp {
 public:
  std::string_view name() const override { return "altup_predict"; }
  bool composite() const override { return true; }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const auto& params = node.as<AltupParams>();
    const int64_t streams = in[0].shape()[1];
    Value coefs =
        linear(modalities(stream(in[0], params.active), node, params.eps), node.weights[2]);
    if (params.form == AltupForm::kStacked) return {altup_mix(in[0], coefs)};
    std::vector<Value> mixed;
    for (int64_t i = 0; i < streams; ++i) {
      Value y = stream(in[0], i);
      for (int64_t j = 0; j < streams; ++j)
        y = add(y, mul(stream(in[0], j), coefs.columns(i * streams + j, {1})));
      mixed.push_back(y);
    }
    return {concat(mixed, {streams, in[0].shape()[2]})};
  }
  std::vector<OpCase> cases() const override {
    return both_forms(name(), [](CaseBuilder& b, const AltupParams& params) {
      Value x = b.input({4, 64});
      const AltupWeights weights{b.vector({64}, 1, 0.2f),
                                 b.matrix(4, 64, Format::dense(DType::kBF16)),
                                 b.vector({16, 4}, 0, 0.3f)};
      return altup_predict(x, weights, params);
    });
  }
  static std::vector<OpCase> both_forms(
      std::string_view name, std::function<Value(CaseBuilder&, const AltupParams&)> build) {
    std::vector<OpCase> all;
    for (AltupForm form : {AltupForm::kStacked, AltupForm::kSplit})
      all.push_back({fmt::format("{} {}", name, form == AltupForm::kStacked ? "stacked" : "split"),
                     {Phase::kPrefill, 6, 1, 1},
                     [=](CaseBuilder& b) {
                       AltupParams params;
                       params.form = form;
                       b.graph().mark_output(build(b, params), "y");
                     },
                     200});
    return all;
  }
};

class AltupCorrect final : public StreamOp {
 public:
  std::string_view name() const override { return "altup_correct"; }
  bool composite() const override { return true; }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const auto& params = node.as<AltupParams>();
    const int64_t streams = in[0].shape()[1];
    Value coefs = linear(modalities(in[1], node, params.eps), node.weights[2]);
    Value innovation = sub(in[1], stream(in[0], params.active));
    if (params.form == AltupForm::kStacked) return {altup_update(in[0], coefs, innovation)};
    std::vector<Value> corrected;
    for (int64_t i = 0; i < streams; ++i)
      corrected.push_back(
          add(stream(in[0], i), add(mul(innovation, coefs.columns(i, {1})), innovation)));
    return {concat(corrected, {streams, in[0].shape()[2]})};
  }
  std::vector<OpCase> cases() const override {
    return AltupPredict::both_forms(name(), [](CaseBuilder& b, const AltupParams& params) {
      Value x = b.input({4, 64});
      Value activated = b.input({64});
      const AltupWeights weights{b.vector({64}, 1, 0.2f),
                                 b.matrix(4, 64, Format::dense(DType::kBF16)),
                                 b.vector({4, 4}, 0, 0.3f)};
      return altup_correct(x, activated, weights, params);
    });
  }
};

class Laurel final : public Op {
 public:
  std::string_view name() const override { return "laurel"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return {graph.value(node.inputs[0]).type};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    Value low = linear(linear(in[0], node.weights[0]), node.weights[1]);
    return {add(in[0], rms_norm(low, node.weights[2], node.as<NormParams>().eps))};
  }
  std::vector<OpCase> cases() const override {
    return {{"laurel",
             {Phase::kPrefill, 6, 1, 1},
             [](CaseBuilder& b) {
               const Format format = Format::dense(DType::kBF16);
               Value n = b.input({96});
               b.graph().mark_output(laurel(n, b.matrix(64, 96, format), b.matrix(96, 64, format),
                                            b.vector({96}, 1, 0.2f), 1e-6f),
                                     "y");
             },
             300}};
  }
};

class PerLayerInput final : public Op {
 public:
  std::string_view name() const override { return "per_layer_input"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    return {{DType::kF32, graph.value(node.inputs[0]).type.shape,
             graph.value(node.inputs[0]).type.rows}};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    Value gated = act_mul(linear(in[0], node.weights[0]), in[1], Unary::kGeluTanh);
    return {rms_norm(linear(gated, node.weights[1]), node.weights[2], node.as<NormParams>().eps)};
  }
  std::vector<OpCase> cases() const override {
    return {{"per_layer_input",
             {Phase::kPrefill, 6, 1, 1},
             [](CaseBuilder& b) {
               const Format format = Format::dense(DType::kBF16);
               Value x = b.input({96});
               Value ple = b.input({3 * 64}).columns(64, {64});
               b.graph().mark_output(
                   per_layer_input(x, ple, b.matrix(64, 96, format), b.matrix(96, 64, format),
                                   b.vector({96}, 1, 0.2f), 1e-6f),
                   "y");
             },
             300}};
  }
};

template <typename T>
const Op& instance() {
  static const T op;
  return op;
}

}  // namespace

std::string AltupParams::text() const { return form == AltupForm::kStacked ? "stacked" : "split"; }

const Op& altup_mix_op() { return instance<AltupMix>(); }
const Op& altup_update_op() { return instance<AltupUpdate>(); }
const Op& add_to_inactive_op() { return instance<AddToInactive>(); }
const Op& altup_predict_op() { return instance<AltupPredict>(); }
const Op& altup_correct_op() { return instance<AltupCorrect>(); }
const Op& laurel_op() { return instance<Laurel>(); }
const Op& per_layer_input_op() { return instance<PerLayerInput>(); }

Value altup_mix(Value streams, Value coefs) {
  return streams.graph().add1(altup_mix_op(), nullptr, {streams, coefs});
}
Value altup_update(Value streams, Value coefs, Value delta) {
  return streams.graph().add1(altup_update_op(), nullptr, {streams, coefs, delta});
}
Value add_to_inactive(Value streams, Value t) {
  return streams.graph().add1(add_to_inactive_op(), nullptr, {streams, t});
}

Value altup_predict(Value streams, const AltupWeights& w, const AltupParams& params) {
  return streams.graph().add1(altup_predict_op(), std::make_shared<AltupParams>(params), {streams},
                              {w.router_norm, w.modality_router, w.coefs});
}
Value altup_correct(Value predicted, Value activated, const AltupWeights& w,
                    const AltupParams& params) {
  return predicted.graph().add1(altup_correct_op(), std::make_shared<AltupParams>(params),
                                {predicted, activated},
                                {w.router_norm, w.modality_router, w.coefs});
}
Value laurel(Value n, const Weight* left, const Weight* right, const Weight* norm, float eps) {
  auto params = std::make_shared<NormParams>();
  params->eps = eps;
  return n.graph().add1(laurel_op(), params, {n}, {left, right, norm});
}
Value per_layer_input(Value x, Value ple, const Weight* gate, const Weight* proj,
                      const Weight* norm, float eps) {
  auto params = std::make_shared<NormParams>();
  params->eps = eps;
  return x.graph().add1(per_layer_input_op(), params, {x, ple}, {gate, proj, norm});
}

}  // namespace decant
