#include "ops/conv2d.h"

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "ops/case.h"
#include "ops/linear.h"

namespace decant {
namespace {

const Window2d& window_of(const Node& node) { return node.as<Window2dParams>().window; }

/// x of a picture op: rows are the pixels of its window.
const ValueType& picture_of(const Graph& graph, const Node& node) {
  const ValueType& x = graph.value(node.inputs[0]).type;
  const Window2d& w = window_of(node);
  require(graph, node, x.dtype == DType::kF32, "x: expected F32, got {}", name_of(x.dtype));
  require(graph, node, x.rows == Rows::kFixed && x.shape[0] == w.height * w.width,
          "x: expected {} x {} pixels as fixed rows, got {}", w.height, w.width,
          x.shape.to_string());
  require(graph, node,
          w.rows > 0 && w.columns > 0 && w.row_stride > 0 && w.column_stride > 0 &&
              std::min({w.top, w.bottom, w.left, w.right}) >= 0,
          "window: expected sizes and strides of at least 1, got {}",
          node.as<Window2dParams>().text());
  require(graph, node,
          w.height + w.top + w.bottom >= w.rows && w.width + w.left + w.right >= w.columns,
          "window: expected at most the picture and its border, got {}",
          node.as<Window2dParams>().text());
  return x;
}

/// Calls take(tap, pixel) for the taps of output pixel `n` that lie on the picture, ascending.
template <typename Take>
void each_tap(const Window2d& w, int64_t n, const Take& take) {
  const int64_t row = n / w.out_width() * w.row_stride - w.top;
  const int64_t column = n % w.out_width() * w.column_stride - w.left;
  for (int64_t r = 0; r < w.rows; ++r)
    for (int64_t c = 0; c < w.columns; ++c)
      if (row + r >= 0 && row + r < w.height && column + c >= 0 && column + c < w.width)
        take(r * w.columns + c, (row + r) * w.width + column + c);
}

std::shared_ptr<const Window2dParams> window_params(const Window2d& window) {
  auto params = std::make_shared<Window2dParams>();
  params->window = window;
  return params;
}

// Windows of all kinds: strides and borders that differ by side, and one larger than the picture.
struct WindowCase {
  const char* name;
  Window2d window;
};
std::vector<WindowCase> window_cases() {
  return {
      {"3x3", Window2d::same(7, 5, 3, 1)},
      {"3x3 s2", Window2d::same(8, 6, 3, 2)},
      {"5x5 s2 odd", Window2d::same(9, 7, 5, 2)},
      {"3x3 s2 sides",
       {.height = 6,
        .width = 9,
        .rows = 3,
        .columns = 3,
        .row_stride = 2,
        .column_stride = 2,
        .bottom = 2,
        .left = 1,
        .right = 1}},
      {"2x5",
       {.height = 4,
        .width = 11,
        .rows = 2,
        .columns = 5,
        .column_stride = 3,
        .top = 1,
        .right = 2}},
      {"5x5 on 2x3", Window2d::same(2, 3, 5, 1)},
  };
}

class PatchRows final : public Op {
 public:
  std::string_view name() const override { return "patch_rows"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = picture_of(graph, node);
    const Window2d& w = window_of(node);
    return {{DType::kF32, {w.out_pixels(), w.taps(), x.width()}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t channels = io.inputs[0].width();
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      std::fill_n(io.outputs[0].row(n), io.outputs[0].width(), 0.0f);
      each_tap(window_of(io.node), n, [&](int64_t tap, int64_t pixel) {
        std::copy_n(io.inputs[0].row(pixel), channels, io.outputs[0].row(n) + tap * channels);
      });
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const WindowCase& each : window_cases())
      all.push_back({fmt::format("patch_rows {}", each.name),
                     {Phase::kPrefill, 1, 1, 1},
                     [each](CaseBuilder& b) {
                       Value x = b.fixed_input({each.window.height * each.window.width, 3});
                       b.graph().mark_output(patch_rows(x, each.window), "y");
                     }});
    return all;
  }
};

class Conv2d final : public Op {
 public:
  std::string_view name() const override { return "conv2d"; }
  bool composite() const override { return true; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = picture_of(graph, node);
    const Window2d& w = window_of(node);
    const Weight& weight = *node.weights[0];
    require(graph, node,
            weight.format.is_dense() && weight.shape.rank() == 2 &&
                weight.shape[1] == w.taps() * x.width(),
            "weight {}: expected {} dense columns, got {} {}", weight.name, w.taps() * x.width(),
            weight.format.name(), weight.shape.to_string());
    if (node.weights.size() > 1)
      require(graph, node, node.weights[1]->shape == Shape{weight.shape[0]},
              "bias {}: expected {}, got {}", node.weights[1]->name, weight.shape[0],
              node.weights[1]->shape.to_string());
    return {{DType::kF32, {w.out_pixels(), weight.shape[0]}, Rows::kFixed}};
  }
  std::vector<Value> expand(Graph&, const Node& node, std::span<const Value> in) const override {
    const Weight* bias = node.weights.size() > 1 ? node.weights[1] : nullptr;
    const Window2d& window = window_of(node);
    Window2d pixel;
    pixel.height = window.height;
    pixel.width = window.width;
    if (window == pixel) return {linear(in[0], node.weights[0], bias)};
    const Value patches = patch_rows(in[0], window);
    return {linear(patches.reshape({patches.type().width()}), node.weights[0], bias)};
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    cost.flops =
        2.0 * static_cast<double>(window_of(node).out_pixels() * node.weights[0]->shape.count());
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const auto add_case = [&](const WindowCase& each, DType dtype, int64_t in, int64_t out,
                              bool bias) {
      all.push_back({fmt::format("conv2d {} {} {} to {}{}", each.name, name_of(dtype), in, out,
                                 bias ? " bias" : ""),
                     {Phase::kPrefill, 1, 1, 1},
                     [=](CaseBuilder& b) {
                       const Window2d& w = each.window;
                       Value x = b.fixed_input({w.height * w.width, in});
                       b.graph().mark_output(
                           conv2d(x, b.matrix(out, w.taps() * in, Format::dense(dtype)), w,
                                  bias ? b.vector({out}) : nullptr),
                           "y");
                     },
                     each.window.taps() * in});
    };
    for (const WindowCase& each : window_cases()) {
      add_case(each, DType::kBF16, 3, 37, true);
      add_case(each, DType::kF32, 1, 16, false);
    }
    add_case({"3x3 many", Window2d::same(40, 33, 3, 2)}, DType::kBF16, 20, 130, false);
    add_case({"3x3 deep", Window2d::same(5, 4, 3, 1)}, DType::kF16, 700, 33, false);
    add_case({"1x1", Window2d::same(5, 4, 1, 1)}, DType::kBF16, 40, 24, false);
    add_case({"1x1 many", Window2d::same(31, 17, 1, 1)}, DType::kBF16, 300, 130, true);
    add_case({"5x5 many", Window2d::same(33, 35, 5, 2)}, DType::kF16, 40, 67, false);
    add_case({"1x1 s2", Window2d::same(5, 4, 1, 2)}, DType::kBF16, 40, 24, true);
    return all;
  }
};

class DepthwiseConv2d final : public Op {
 public:
  std::string_view name() const override { return "depthwise_conv2d"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = picture_of(graph, node);
    const Window2d& w = window_of(node);
    const Weight& weight = *node.weights[0];
    require(
        graph, node,
        weight.format == Format::dense(DType::kF32) && weight.shape == Shape({w.taps(), x.width()}),
        "weight {}: expected F32 ({},{}), got {} {}", weight.name, w.taps(), x.width(),
        weight.format.name(), weight.shape.to_string());
    return {{DType::kF32, {w.out_pixels(), x.width()}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const int64_t channels = io.inputs[0].width();
    const std::byte* weight = io.node.weights[0]->view().data;
    std::vector<double> sums(static_cast<size_t>(channels));
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      std::fill(sums.begin(), sums.end(), 0.0);
      each_tap(window_of(io.node), n, [&](int64_t tap, int64_t pixel) {
        for (int64_t c = 0; c < channels; ++c)
          sums[static_cast<size_t>(c)] +=
              static_cast<double>(load_float(weight, DType::kF32, tap * channels + c)) *
              io.inputs[0].row(pixel)[c];
      });
      for (int64_t c = 0; c < channels; ++c)
        io.outputs[0].row(n)[c] = static_cast<float>(sums[static_cast<size_t>(c)]);
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    cost.flops =
        2.0 * static_cast<double>(window_of(node).out_pixels() * node.weights[0]->shape.count());
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const WindowCase& each : window_cases())
      for (int64_t channels : {5, 64, 147})
        all.push_back({fmt::format("depthwise_conv2d {} of {}", each.name, channels),
                       {Phase::kPrefill, 1, 1, 1},
                       [=](CaseBuilder& b) {
                         const Window2d& w = each.window;
                         Value x = b.fixed_input({w.height * w.width, channels});
                         b.graph().mark_output(
                             depthwise_conv2d(x, b.vector({w.taps(), channels}), w), "y");
                       },
                       each.window.taps()});
    return all;
  }
};

}  // namespace

Window2d Window2d::same(int64_t height, int64_t width, int64_t size, int64_t stride) {
  Window2d w;
  w.height = height;
  w.width = width;
  w.rows = w.columns = size;
  w.row_stride = w.column_stride = stride;
  const auto border = [&](int64_t side) {
    const int64_t results = div_up(side, stride);
    return std::max<int64_t>(0, (results - 1) * stride + size - side);
  };
  w.top = border(height) / 2;
  w.bottom = border(height) - w.top;
  w.left = border(width) / 2;
  w.right = border(width) - w.left;
  return w;
}

std::string Window2dParams::text() const {
  return fmt::format("{}x{} of {}x{} stride {}x{} border {},{},{},{}", window.rows, window.columns,
                     window.height, window.width, window.row_stride, window.column_stride,
                     window.top, window.bottom, window.left, window.right);
}

const Op& patch_rows_op() {
  static const PatchRows op;
  return op;
}
const Op& conv2d_op() {
  static const Conv2d op;
  return op;
}
const Op& depthwise_conv2d_op() {
  static const DepthwiseConv2d op;
  return op;
}

Value patch_rows(Value x, const Window2d& window) {
  return x.graph().add1(patch_rows_op(), window_params(window), {x});
}

Value conv2d(Value x, const Weight* weight, const Window2d& window, const Weight* bias) {
  const std::array<Value, 1> inputs{x};
  const std::array<const Weight*, 2> weights{weight, bias};
  return x.graph()
      .add(conv2d_op(), window_params(window), inputs,
           std::span(weights).first(bias != nullptr ? 2 : 1))
      .front();
}

Value depthwise_conv2d(Value x, const Weight* weight, const Window2d& window) {
  return x.graph().add1(depthwise_conv2d_op(), window_params(window), {x}, {weight});
}

}  // namespace decant
