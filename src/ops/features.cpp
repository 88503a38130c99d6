#include "ops/features.h"

#include <algorithm>

#include "ops/case.h"

namespace decant {
namespace {

class MergeFeatures final : public Op {
 public:
  std::string_view name() const override { return "merge_features"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const ValueType& features = graph.value(node.inputs[1]).type;
    require(graph, node, x.rows == Rows::kTokens && x.shape == features.shape,
            "features: expected {} of tokens, got {}", x.shape.to_string(),
            features.shape.to_string());
    return {x};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& places = io.batch.feature_of;
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      const int32_t from = places.empty() ? -1 : places[static_cast<size_t>(n)];
      std::copy_n(from < 0 ? io.inputs[0].row(n) : io.inputs[1].row(from), io.outputs[0].width(),
                  io.outputs[0].row(n));
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    const int64_t width = graph.value(node.inputs[0]).type.width();
    return {.activation_bytes = 8.0 * static_cast<double>(stats.batch.num_tokens() * width)};
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const bool any : {true, false})
      all.push_back({any ? "merge_features" : "merge_features of text",
                     {Phase::kPrefill, 12, 2, 2},
                     [any](CaseBuilder& b) {
                       b.sequences({{0, 7}, {30, 5}});
                       if (any) b.batch().feature_of = {-1, 0, 1, 2, -1, -1, -1, 5, 4, -1, 3, -1};
                       Value x = b.input({40});
                       b.graph().mark_output(merge_features(x, b.input({40})), "y");
                     }});
    return all;
  }
};

class FoldRows final : public Op {
 public:
  std::string_view name() const override { return "fold_rows"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const auto& params = node.as<FoldParams>();
    require(graph, node, x.rows != Rows::kOutputs && params.count >= 1,
            "x: expected rows of tokens or fixed ones, got {}", x.shape.to_string());
    const int64_t width = params.kind == Fold::kMean ? x.width() : params.count * x.width();
    if (x.rows == Rows::kFixed) {
      require(graph, node, x.shape[0] % params.count == 0,
              "x: expected a multiple of {} rows, got {}", params.count, x.shape[0]);
      return {{DType::kF32, {x.shape[0] / params.count, width}, Rows::kFixed}};
    }
    require(graph, node, graph.capacity().outputs * params.count >= x.shape[0],
            "outputs: expected at least {} of {} rows, got {}", x.shape[0] / params.count,
            x.shape[0], graph.capacity().outputs);
    return {{DType::kF32, {graph.capacity().outputs, width}, Rows::kOutputs}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<FoldParams>();
    const int64_t width = io.inputs[0].width();
    for (int64_t i = 0; i < io.outputs[0].rows; ++i) {
      float* y = io.outputs[0].row(i);
      if (params.kind == Fold::kConcat) {
        for (int64_t k = 0; k < params.count; ++k)
          y = std::copy_n(io.inputs[0].row(i * params.count + k), width, y);
        continue;
      }
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t k = 0; k < params.count; ++k) sum += io.inputs[0].row(i * params.count + k)[c];
        y[c] = static_cast<float>(sum / static_cast<double>(params.count));
      }
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const Fold kind : {Fold::kConcat, Fold::kMean})
      all.push_back({kind == Fold::kMean ? "fold_rows mean" : "fold_rows concat",
                     {Phase::kPrefill, 24, 1, 8},
                     [kind](CaseBuilder& b) {
                       b.sequences({{0, 21}});
                       b.batch().outputs = {0, 1, 2, 3, 4, 5, 6};
                       b.graph().mark_output(fold_rows(b.input({37}), 3, kind), "y");
                     },
                     3});
    for (const Fold kind : {Fold::kConcat, Fold::kMean})
      all.push_back({kind == Fold::kMean ? "fold_rows mean, fixed" : "fold_rows concat, fixed",
                     {Phase::kPrefill, 1, 1, 1},
                     [kind](CaseBuilder& b) {
                       Value x = b.fixed_input({64, 40}).columns(2, {37});
                       b.graph().mark_output(fold_rows(x, 32, kind), "y");
                     },
                     32});
    return all;
  }
};

class WeightedRows final : public Op {
 public:
  std::string_view name() const override { return "weighted_rows"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& ids = graph.value(node.inputs[0]).type;
    const ValueType& weights = graph.value(node.inputs[1]).type;
    const Weight& table = *node.weights[0];
    require(graph, node, ids.dtype == DType::kI32 && ids.shape == weights.shape,
            "ids and weights: expected equal shapes, got {} and {}", ids.shape.to_string(),
            weights.shape.to_string());
    require(graph, node, table.shape.rank() == 2 && table.format.is_dense(),
            "table: expected a dense matrix, got {} {}", table.format.name(),
            table.shape.to_string());
    return {{DType::kF32, {ids.shape[0], table.shape[1]}, ids.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const MatrixView& table = io.node.weights[0]->view();
    std::vector<float> row(static_cast<size_t>(table.cols));
    std::vector<double> sum(row.size());
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t k = 0; k < io.inputs[0].width(); ++k) {
        const int32_t id = io.inputs[0].int_row(n)[k];
        if (id < 0) continue;
        dequantize_row(table, id, row.data());
        for (size_t i = 0; i < row.size(); ++i)
          sum[i] += static_cast<double>(io.inputs[1].row(n)[k]) * row[i];
      }
      for (size_t i = 0; i < row.size(); ++i) io.outputs[0].row(n)[i] = static_cast<float>(sum[i]);
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const ValueType& ids = graph.value(node.inputs[0]).type;
    const MatrixView& table = node.weights[0]->view();
    cost.weight_bytes = static_cast<double>(stats.batch.num_tokens() * ids.width() *
                                            table.format.row_bytes(table.cols));
    cost.flops = 2.0 * static_cast<double>(stats.batch.num_tokens() * ids.width() * table.cols);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const DType dtype : {DType::kBF16, DType::kF32})
      all.push_back({fmt::format("weighted_rows {}", name_of(dtype)),
                     {Phase::kPrefill, 10, 1, 1},
                     [dtype](CaseBuilder& b) {
                       b.sequences({{0, 10}});
                       Value ids = b.int_input(4, 33);
                       b.graph().mark_output(
                           weighted_rows(ids, b.input({4}), b.matrix(33, 70, Format::dense(dtype))),
                           "y");
                     },
                     8});
    return all;
  }
};

}  // namespace

std::string FoldParams::text() const {
  return fmt::format("{} of {}", kind == Fold::kMean ? "mean" : "concat", count);
}

const Op& merge_features_op() {
  static const MergeFeatures op;
  return op;
}
const Op& fold_rows_op() {
  static const FoldRows op;
  return op;
}
const Op& weighted_rows_op() {
  static const WeightedRows op;
  return op;
}

Value merge_features(Value x, Value features) {
  return x.graph().add1(merge_features_op(), nullptr, {x, features});
}

Value fold_rows(Value x, int64_t count, Fold kind) {
  auto params = std::make_shared<FoldParams>();
  params->kind = kind;
  params->count = count;
  return x.graph().add1(fold_rows_op(), std::move(params), {x});
}

Value weighted_rows(Value ids, Value weights, const Weight* table) {
  return ids.graph().add1(weighted_rows_op(), nullptr, {ids, weights}, {table});
}

}  // namespace decant
