#include "ops/frames.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/case.h"
#include "ops/unary.h"

namespace decant {
namespace {

void require_fixed(const Graph& graph, const Node& node, const ValueType& x) {
  require(graph, node, x.rows == Rows::kFixed && x.dtype == DType::kF32,
          "x: expected fixed rows of F32, got {}", x.shape.to_string());
}

class FrameConv final : public Op {
 public:
  std::string_view name() const override { return "frame_conv"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const int taps = node.as<FrameConvParams>().taps;
    require_fixed(graph, node, x);
    require(graph, node, taps >= 1 && node.weights[0]->shape.count() == x.width() * taps,
            "weight {}: expected {} channels times 1 tap or more, got {}", node.weights[0]->name,
            x.width(), node.weights[0]->shape.to_string());
    return {x};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<FrameConvParams>();
    const std::byte* weight = io.node.weights[0]->view().data;
    for (int64_t t = 0; t < io.outputs[0].rows; ++t)
      for (int64_t c = 0; c < io.inputs[0].width(); ++c) {
        double sum = 0;
        for (int64_t j = std::max<int64_t>(0, params.taps - 1 - t); j < params.taps; ++j)
          sum += static_cast<double>(load_float(weight, DType::kF32, c * params.taps + j)) *
                 io.inputs[0].row(t - params.taps + 1 + j)[c];
        io.outputs[0].row(t)[c] =
            static_cast<float>(params.bound > 0 ? apply(Unary::kClamp, sum, params.bound) : sum);
      }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const ValueType& x = graph.value(node.inputs[0]).type;
    cost.weight_bytes = static_cast<double>(node.weights[0]->shape.count() * 4);
    cost.flops = 2.0 * static_cast<double>(x.shape.count() * node.as<FrameConvParams>().taps);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const auto& [name, frames, taps, bound] :
         {std::tuple{"frame_conv", 37, 5, 0.0f}, std::tuple{"frame_conv of few frames", 3, 5, 0.0f},
          std::tuple{"frame_conv of one tap", 6, 1, 0.0f},
          std::tuple{"frame_conv with a bound", 21, 3, 0.75f}})
      all.push_back({name,
                     {Phase::kPrefill, 1, 1, 1},
                     [count = frames, width = taps, limit = bound](CaseBuilder& b) {
                       Value x = b.fixed_input({count, 150}).columns(10, {75});
                       b.graph().mark_output(frame_conv(x, b.vector({75, width}, 0, 0.5f), limit),
                                             "y");
                     },
                     2 * taps});
    return all;
  }
};

class CumulativeNorm final : public Op {
 public:
  std::string_view name() const override { return "cumulative_norm"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const auto& params = node.as<CumulativeNormParams>();
    require_fixed(graph, node, x);
    require(graph, node, params.rows >= 1 && x.shape[0] % params.rows == 0,
            "x: expected frames of {} rows, got {}", params.rows, x.shape.to_string());
    require(graph, node, node.weights[0]->shape == Shape{x.width()},
            "weight {}: expected {}, got {}", node.weights[0]->name, x.width(),
            node.weights[0]->shape.to_string());
    return {x};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<CumulativeNormParams>();
    const int64_t width = io.inputs[0].width();
    const std::byte* weight = io.node.weights[0]->view().data;
    double count = 0, sum = 0, squares = 0;
    for (int64_t first = 0; first < io.inputs[0].rows; first += params.rows) {
      const auto each = [&](const auto& visit) {
        for (int64_t n = first; n < first + params.rows; ++n)
          for (int64_t c = 0; c < width; ++c) visit(n, c, io.inputs[0].row(n)[c]);
      };
      each([&](int64_t, int64_t, double x) { sum += x; });
      count += static_cast<double>(params.rows * width);
      const double mean = sum / count;
      each([&](int64_t, int64_t, double x) { squares += (x - mean) * (x - mean); });
      const double inverse = 1 / std::sqrt(squares / count + params.eps);
      each([&](int64_t n, int64_t c, double x) {
        io.outputs[0].row(n)[c] =
            static_cast<float>((x - mean) * inverse * load_float(weight, DType::kF32, c));
      });
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const auto& [name, frames, rows, spread] :
         {std::tuple{"cumulative_norm", 9, 16, 1.0f},
          std::tuple{"cumulative_norm, one row each", 5, 1, 3.0f},
          std::tuple{"cumulative_norm of small values", 4, 8, 1e-2f}})
      all.push_back({name,
                     {Phase::kPrefill, 1, 1, 1},
                     [count = frames, of_each = rows, deviation = spread](CaseBuilder& b) {
                       Value x = b.fixed_input({count * of_each, 37}, deviation);
                       b.graph().mark_output(
                           cumulative_norm(x, b.vector({37}, 1, 0.2f), of_each, 1e-3f), "y");
                     },
                     64});
    return all;
  }
};

class PickRows final : public Op {
 public:
  std::string_view name() const override { return "pick_rows"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const auto& rows = node.as<PickRowsParams>().rows;
    const ValueType& first = graph.value(node.inputs[0]).type;
    int64_t total = 0;
    for (const int input : node.inputs) {
      const ValueType& part = graph.value(input).type;
      require(graph, node, part.dtype == DType::kF32 && part.width() == first.width(),
              "parts: expected F32 rows of {}, got {}", first.width(), part.shape.to_string());
      require(graph, node, part.rows != Rows::kOutputs, "parts: expected fixed rows or tokens");
      total += part.shape[0];
    }
    require(graph, node, !rows.empty(), "rows: expected one or more");
    for (const int64_t row : rows)
      require(graph, node, row >= 0 && row < total, "rows: expected 0 to {}, got {}", total - 1,
              row);
    std::vector<int64_t> dims(first.shape.dims().begin(), first.shape.dims().end());
    dims[0] = static_cast<int64_t>(rows.size());
    return {{DType::kF32, Shape(std::span<const int64_t>(dims)), Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& rows = io.node.as<PickRowsParams>().rows;
    for (size_t i = 0; i < rows.size(); ++i) {
      int64_t row = rows[i];
      size_t part = 0;
      while (row >= io.inputs[part].shape[0]) row -= io.inputs[part++].shape[0];
      std::copy_n(io.inputs[part].row(row), io.inputs[part].width(),
                  io.outputs[0].row(static_cast<int64_t>(i)));
    }
  }
  std::vector<OpCase> cases() const override {
    return {{"pick_rows",
             {Phase::kPrefill, 1, 1, 1},
             [](CaseBuilder& b) {
               const std::array parts{b.fixed_input({7, 3, 20}),
                                      b.fixed_input({4, 80}).columns(10, {3, 20})};
               b.graph().mark_output(pick_rows(parts, {0, 4, 10, 7, 7, 2}), "y");
             }},
            {"pick_rows of tokens", {Phase::kPrefill, 3, 1, 1}, [](CaseBuilder& b) {
               const std::array parts{b.fixed_input({5, 33}), b.input({33})};
               b.graph().mark_output(pick_rows(parts, {5, 0, 7, 4, 6}), "y");
             }}};
  }
};

}  // namespace

std::string FrameConvParams::text() const {
  return bound > 0 ? fmt::format("taps={} bound={}", taps, bound) : fmt::format("taps={}", taps);
}
std::string CumulativeNormParams::text() const { return fmt::format("rows={} eps={}", rows, eps); }
std::string PickRowsParams::text() const { return fmt::format("rows={}", rows.size()); }

const Op& frame_conv_op() {
  static const FrameConv op;
  return op;
}
const Op& cumulative_norm_op() {
  static const CumulativeNorm op;
  return op;
}
const Op& pick_rows_op() {
  static const PickRows op;
  return op;
}

Value frame_conv(Value x, const Weight* weight, float bound) {
  auto params = std::make_shared<FrameConvParams>();
  params->taps = static_cast<int>(weight->shape.count() / x.type().width());
  params->bound = bound;
  return x.graph().add1(frame_conv_op(), std::move(params), {x}, {weight});
}

Value cumulative_norm(Value x, const Weight* weight, int64_t rows, float eps) {
  auto params = std::make_shared<CumulativeNormParams>();
  params->rows = rows;
  params->eps = eps;
  return x.graph().add1(cumulative_norm_op(), std::move(params), {x}, {weight});
}

Value pick_rows(std::span<const Value> parts, std::vector<int64_t> rows) {
  auto params = std::make_shared<PickRowsParams>();
  params->rows = std::move(rows);
  return parts[0].graph().add(pick_rows_op(), std::move(params), parts, {})[0];
}

}  // namespace decant
