#include "ops/blend_rows.h"

#include <algorithm>
#include <cmath>

#include "ops/case.h"

namespace decant {
namespace {

class BlendRows final : public Op {
 public:
  std::string_view name() const override { return "blend_rows"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const RowBlend& blend = node.as<BlendRowsParams>().blend;
    require(graph, node, x.dtype == DType::kF32 && x.rows == Rows::kFixed,
            "x: expected F32 of fixed rows, got {}", name_of(x.dtype));
    require(graph, node,
            blend.first.back() == std::ssize(blend.rows) &&
                blend.rows.size() == blend.weights.size() &&
                std::is_sorted(blend.first.begin(), blend.first.end()),
            "blend: expected {} rows with weights, got {} and {}", blend.first.back(),
            blend.rows.size(), blend.weights.size());
    for (int64_t row : blend.rows)
      require(graph, node, row >= 0 && row < x.shape[0], "blend: expected rows below {}, got {}",
              x.shape[0], row);
    std::vector<int64_t> dims(x.shape.dims().begin(), x.shape.dims().end());
    dims[0] = blend.count();
    return {{DType::kF32, Shape(std::span<const int64_t>(dims)), Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const RowBlend& blend = io.node.as<BlendRowsParams>().blend;
    for (int64_t n = 0; n < io.outputs[0].rows; ++n)
      for (int64_t c = 0; c < io.outputs[0].width(); ++c) {
        double sum = 0;
        for (auto j = static_cast<size_t>(blend.first[static_cast<size_t>(n)]);
             j < static_cast<size_t>(blend.first[static_cast<size_t>(n) + 1]); ++j)
          sum += static_cast<double>(blend.weights[j]) * io.inputs[0].row(blend.rows[j])[c];
        io.outputs[0].row(n)[c] = static_cast<float>(sum);
      }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const auto add_case = [&](const char* name, const RowBlend& blend, int64_t rows,
                              int64_t accumulation) {
      all.push_back({name,
                     {Phase::kPrefill, 1, 1, 1},
                     [=](CaseBuilder& b) {
                       b.graph().mark_output(blend_rows(b.fixed_input({rows, 75}), blend), "y");
                     },
                     accumulation});
    };
    add_case("average_pool", RowBlend::average_pool(9, 4, 3, 2), 36, 6);
    add_case("nearest", RowBlend::nearest(3, 4, 6, 9), 12, 1);
    add_case("bilinear", RowBlend::bilinear(7, 5, 4, 9), 35, 4);
    RowBlend none;  // a row of nothing is zeros
    none.end_row();
    none.take(1, -0.5f);
    none.end_row();
    add_case("rows of none and one", none, 2, 1);
    return all;
  }
};

/// The two places of one axis a result lies between, and the second one's share.
struct Between {
  int64_t low, high;
  float share;
};
Between between(int64_t i, int64_t from, int64_t to) {
  const float step = static_cast<float>(from) / static_cast<float>(to);
  const float at = std::max(0.0f, (static_cast<float>(i) + 0.5f) * step - 0.5f);
  const int64_t low = std::min(static_cast<int64_t>(at), from - 1);
  return {low, std::min(low + 1, from - 1), at - static_cast<float>(low)};
}

int64_t nearest_of(int64_t i, int64_t from, int64_t to) {
  const float step = static_cast<float>(from) / static_cast<float>(to);
  return std::min(static_cast<int64_t>(static_cast<float>(i) * step), from - 1);
}

}  // namespace

RowBlend RowBlend::average_pool(int64_t height, int64_t width, int64_t to_height,
                                int64_t to_width) {
  DECANT_ASSERT(to_height > 0 && to_width > 0 && height % to_height == 0 && width % to_width == 0,
                "pooled sides are multiples of the results'");
  const int64_t rows = height / to_height, columns = width / to_width;
  const float share = 1.0f / static_cast<float>(rows * columns);
  RowBlend out;
  for (int64_t y = 0; y < to_height; ++y)
    for (int64_t x = 0; x < to_width; ++x) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          out.take((y * rows + r) * width + x * columns + c, share);
      out.end_row();
    }
  return out;
}

RowBlend RowBlend::nearest(int64_t height, int64_t width, int64_t to_height, int64_t to_width) {
  RowBlend out;
  for (int64_t y = 0; y < to_height; ++y)
    for (int64_t x = 0; x < to_width; ++x) {
      out.take(nearest_of(y, height, to_height) * width + nearest_of(x, width, to_width), 1);
      out.end_row();
    }
  return out;
}

RowBlend RowBlend::bilinear(int64_t height, int64_t width, int64_t to_height, int64_t to_width) {
  RowBlend out;
  for (int64_t y = 0; y < to_height; ++y)
    for (int64_t x = 0; x < to_width; ++x) {
      const Between v = between(y, height, to_height), h = between(x, width, to_width);
      out.take(v.low * width + h.low, (1 - v.share) * (1 - h.share));
      out.take(v.low * width + h.high, (1 - v.share) * h.share);
      out.take(v.high * width + h.low, v.share * (1 - h.share));
      out.take(v.high * width + h.high, v.share * h.share);
      out.end_row();
    }
  return out;
}

std::string BlendRowsParams::text() const {
  return fmt::format("{} rows of {}", blend.count(), blend.rows.size());
}

const Op& blend_rows_op() {
  static const BlendRows op;
  return op;
}

Value blend_rows(Value x, RowBlend blend) {
  auto params = std::make_shared<BlendRowsParams>();
  params->blend = std::move(blend);
  return x.graph().add1(blend_rows_op(), std::move(params), {x});
}

}  // namespace decant
