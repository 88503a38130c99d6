#include "ops/rows.h"

#include <algorithm>

#include "ops/case.h"

namespace decant {
namespace {

class NarrowRows final : public Op {
 public:
  std::string_view name() const override { return "narrow_rows"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    require(graph, node, x.rows == Rows::kTokens, "x: expected rows of tokens");
    std::vector<int64_t> dims(x.shape.dims().begin(), x.shape.dims().end());
    dims[0] = graph.capacity().outputs;
    return {{x.dtype, Shape(std::span<const int64_t>(dims)), Rows::kOutputs}};
  }
  void reference(const ReferenceIo& io) const override {
    for (int64_t i = 0; i < io.outputs[0].rows; ++i)
      std::copy_n(io.inputs[0].row(io.batch.outputs[static_cast<size_t>(i)]), io.inputs[0].width(),
                  io.outputs[0].row(i));
  }
  Cost cost(const Graph&, const Node&, const StepStats&) const override { return {}; }
  std::vector<OpCase> cases() const override {
    return {{"narrow_rows", {Phase::kPrefill, 12, 3, 3}, [](CaseBuilder& b) {
               b.sequences({{0, 5}, {9, 1}, {2, 6}});
               b.graph().mark_output(narrow_rows(b.input({33})), "y");
             }}};
  }
};

class GatherColumns final : public Op {
 public:
  std::string_view name() const override { return "gather_columns"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const auto& params = node.as<GatherColumnsParams>();
    int64_t total = 0;
    for (const ColumnRun& run : params.runs) {
      require(graph, node, run.first >= 0 && run.count > 0 && run.first + run.count <= x.width(),
              "run: expected columns of {}, got {} from {}", x.width(), run.count, run.first);
      total += run.count;
    }
    require(graph, node, total == params.inner.count(), "inner: expected {} elements, got {}",
            total, params.inner.to_string());
    std::vector<int64_t> dims{x.shape[0]};
    for (int64_t dim : params.inner.dims()) dims.push_back(dim);
    return {{x.dtype, Shape(std::span<const int64_t>(dims)), x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      float* y = io.outputs[0].row(n);
      for (const ColumnRun& run : io.node.as<GatherColumnsParams>().runs)
        y = std::copy_n(io.inputs[0].row(n) + run.first, run.count, y);
    }
  }
  std::vector<OpCase> cases() const override {
    return {{"gather_columns", {Phase::kPrefill, 5, 2, 2}, [](CaseBuilder& b) {
               Value x = b.input({100}).columns(2, {96});
               auto runs = column_runs(4, 24, 3, 5);
               runs.push_back({90, 4});
               b.graph().mark_output(gather_columns(x, runs, {2, 12}), "y");
             }}};
  }
};

class ReduceOp final : public Op {
 public:
  std::string_view name() const override { return "reduce"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    return {{DType::kF32, {x.shape[0], 1}, x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto size = static_cast<double>(io.inputs[0].width());
    for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
      const float* x = io.inputs[0].row(n);
      double mean = 0, squares = 0;
      for (int64_t i = 0; i < io.inputs[0].width(); ++i) mean += x[i] / size;
      for (int64_t i = 0; i < io.inputs[0].width(); ++i)
        squares += (x[i] - mean) * (x[i] - mean) / size;
      io.outputs[0].row(n)[0] =
          static_cast<float>(io.node.as<ReduceParams>().kind == Reduce::kMean ? mean : squares);
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (Reduce kind : {Reduce::kMean, Reduce::kVariance})
      all.push_back(
          {kind == Reduce::kMean ? "reduce mean" : "reduce variance",
           {Phase::kPrefill, 5, 1, 1},
           [kind](CaseBuilder& b) { b.graph().mark_output(reduce(b.input({160}), kind), "y"); },
           160});
    return all;
  }
};

}  // namespace

const Op& narrow_rows_op() {
  static const NarrowRows op;
  return op;
}
const Op& reduce_op() {
  static const ReduceOp op;
  return op;
}

const Op& gather_columns_op() {
  static const GatherColumns op;
  return op;
}

std::string GatherColumnsParams::text() const { return fmt::format("runs={}", runs.size()); }

std::vector<ColumnRun> column_runs(int64_t groups, int64_t stride, int64_t first, int64_t count) {
  std::vector<ColumnRun> runs;
  for (int64_t g = 0; g < groups; ++g) runs.push_back({g * stride + first, count});
  return runs;
}

Value gather_columns(Value x, std::vector<ColumnRun> runs, const Shape& inner) {
  auto params = std::make_shared<GatherColumnsParams>();
  params->runs = std::move(runs);
  params->inner = inner;
  return x.graph().add1(gather_columns_op(), std::move(params), {x});
}

Value narrow_rows(Value x) { return x.graph().add1(narrow_rows_op(), nullptr, {x}); }

Value reduce(Value x, Reduce kind) {
  auto params = std::make_shared<ReduceParams>();
  params->kind = kind;
  return x.graph().add1(reduce_op(), params, {x});
}

}  // namespace decant
