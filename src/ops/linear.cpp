#include "ops/linear.h"

#include <array>

#include "ops/binary.h"
#include "ops/case.h"

namespace decant {
namespace {

std::vector<ValueType> infer_linear(const Graph& graph, const Node& node, int x_index) {
  const ValueType& x = graph.value(node.inputs[static_cast<size_t>(x_index)]).type;
  const Weight& w = *node.weights[0];
  require(graph, node, w.shape.rank() == 2, "weight {}: expected rank 2, got {}", w.name,
          w.shape.to_string());
  require(graph, node, x.dtype == DType::kF32, "x: expected F32, got {}", name_of(x.dtype));
  require(graph, node, x.width() == w.shape[1], "weight {}: expected {} inputs, got {}", w.name,
          x.width(), w.shape[1]);
  return {{DType::kF32, {x.shape[0], w.shape[0]}, x.rows}};
}

double linear_flops(const ValueType& x, const Weight& w, const StepStats& stats) {
  return 2.0 * static_cast<double>(live_rows(x, stats.batch) * w.shape[0] * w.shape[1]);
}

class Linear final : public Op {
 public:
  std::string_view name() const override { return "linear"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    auto types = infer_linear(graph, node, 0);
    if (node.weights.size() > 1)
      require(graph, node, node.weights[1]->shape == Shape{node.weights[0]->shape[0]},
              "bias {}: expected {}, got {}", node.weights[1]->name, node.weights[0]->shape[0],
              node.weights[1]->shape.to_string());
    return types;
  }
  void reference(const ReferenceIo& io) const override {
    const MatrixView& w = io.node.weights[0]->view();
    const Weight* bias = io.node.weights.size() > 1 ? io.node.weights[1] : nullptr;
    std::vector<float> row(static_cast<size_t>(w.cols));
    for (int64_t r = 0; r < w.rows; ++r) {
      dequantize_row(w, r, row.data());
      for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
        const float* x = io.inputs[0].row(n);
        double sum = 0;
        for (int64_t k = 0; k < w.cols; ++k)
          sum += static_cast<double>(row[static_cast<size_t>(k)]) * x[k];
        if (bias != nullptr) sum += load_float(bias->view().data, bias->format.dtype, r);
        io.outputs[0].row(n)[r] = static_cast<float>(sum);
      }
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    cost.flops = linear_flops(graph.value(node.inputs[0]).type, *node.weights[0], stats);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const auto add_case = [&](const Format& format, int tokens, int64_t out, int64_t in,
                              bool bias) {
      const Phase phase = tokens > 8 ? Phase::kPrefill : Phase::kDecode;
      all.push_back({fmt::format("linear {} {}x{} n{}{}", format.name(), out, in, tokens,
                                 bias ? " bias" : ""),
                     {phase, tokens, 1, 1},
                     [=](CaseBuilder& b) {
                       Value x = b.input({in});
                       b.graph().mark_output(
                           linear(x, b.matrix(out, in, format), bias ? b.vector({out}) : nullptr),
                           "y");
                     },
                     in});
    };
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      add_case(Format::dense(dtype), 1, 37, 200, false);
      add_case(Format::dense(dtype), 70, 33, 67, true);
    }
    for (int bits : {1, 2, 3, 4, 5, 6, 8})
      for (int group : {32, 64, 128}) {
        add_case(Format::affine(bits, group), 1, 35, 256, false);
        add_case(Format::affine(bits, group, DType::kF16), 19, 40, 384, false);
      }
    add_case(Format::affine(4, 64), 300, 130, 512, true);
    for (const Format& format : {Format::mxfp4(), Format::mxfp8(), Format::nvfp4()}) {
      add_case(format, 1, 35, 256, false);
      add_case(format, 7, 35, 352, false);
      add_case(format, 19, 40, 416, true);
      add_case(format, 300, 130, 1088, false);
    }
    add_case(Format::nvfp4(), 1, 33, 48, false);  // not whole groups of 32
    add_case(Format::nvfp4(), 9, 33, 80, false);
    all.push_back({"linear of heads",
                   {Phase::kDecode, 5, 5, 5},
                   [](CaseBuilder& b) {
                     b.graph().mark_output(
                         linear(b.input({4, 64}), b.matrix(48, 256, Format::affine(4, 64))), "y");
                   },
                   256});
    return all;
  }
};

class LinearAdd final : public Op {
 public:
  std::string_view name() const override { return "linear_add"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    auto types = infer_linear(graph, node, 1);
    const ValueType& residual = graph.value(node.inputs[0]).type;
    require(graph, node, residual.shape == types[0].shape && residual.rows == types[0].rows,
            "residual: expected {}, got {}", types[0].shape.to_string(),
            residual.shape.to_string());
    return types;
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    return {add(in[0], linear(in[1], node.weights[0]))};
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    cost.flops = linear_flops(graph.value(node.inputs[1]).type, *node.weights[0], stats);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const Format& format :
         {Format::dense(DType::kBF16), Format::affine(4, 64), Format::affine(8, 32),
          Format::mxfp4(), Format::mxfp8(), Format::nvfp4()})
      for (int tokens : {1, 40})
        all.push_back({fmt::format("linear_add {} n{}", format.name(), tokens),
                       {tokens > 1 ? Phase::kPrefill : Phase::kDecode, tokens, 1, 1},
                       [=](CaseBuilder& b) {
                         Value r = b.input({96});
                         Value x = b.input({128});
                         b.graph().mark_output(linear_add(r, x, b.matrix(96, 128, format)), "y");
                       },
                       128});
    return all;
  }
};

}  // namespace

std::string LinearParams::text() const { return has_bias ? "bias" : ""; }

const Op& linear_op() {
  static const Linear op;
  return op;
}
const Op& linear_add_op() {
  static const LinearAdd op;
  return op;
}

Value linear(Value x, const Weight* weight, const Weight* bias) {
  auto params = std::make_shared<LinearParams>();
  params->has_bias = bias != nullptr;
  const std::array<Value, 1> inputs{x};
  std::vector<const Weight*> weights{weight};
  if (bias != nullptr) weights.push_back(bias);
  return x.graph().add(linear_op(), params, inputs, weights).front();
}

Value linear_add(Value residual, Value x, const Weight* weight) {
  auto params = std::make_shared<LinearParams>();
  params->has_residual = true;
  return x.graph().add1(linear_add_op(), params, {residual, x}, {weight});
}

}  // namespace decant
