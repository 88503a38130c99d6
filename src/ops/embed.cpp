#include "ops/embed.h"

#include "ops/case.h"

namespace decant {
namespace {

class Embed final : public Op {
 public:
  std::string_view name() const override { return "embed"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const Weight& table = *node.weights[0];
    require(graph, node, table.shape.rank() == 2, "table: expected rank 2, got {}",
            table.shape.to_string());
    return {{DType::kF32, {graph.capacity().tokens, table.shape[1]}, Rows::kTokens}};
  }
  void reference(const ReferenceIo& io) const override {
    const MatrixView& table = io.node.weights[0]->view();
    const bool clamp = io.node.as<EmbedParams>().out_of_range_is_row_zero;
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      int64_t id = io.batch.tokens[static_cast<size_t>(n)];
      if (clamp && id >= table.rows) id = 0;
      dequantize_row(table, id, io.outputs[0].row(n));
    }
  }
  Cost cost(const Graph&, const Node& node, const StepStats& stats) const override {
    const MatrixView& table = node.weights[0]->view();
    const auto rows = static_cast<double>(stats.batch.num_tokens());
    return {.weight_bytes = rows * static_cast<double>(table.format.row_bytes(table.cols)),
            .activation_bytes = rows * static_cast<double>(table.cols) * 4};
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const Format& format :
         {Format::dense(DType::kBF16), Format::affine(4, 64), Format::affine(3, 32),
          Format::mxfp4(), Format::mxfp8(), Format::nvfp4()})
      all.push_back(
          {"embed " + format.name(), {Phase::kPrefill, 5, 2, 2}, [format](CaseBuilder& b) {
             b.graph().mark_output(embed(b.graph(), b.matrix(97, 128, format)), "y");
           }});
    all.push_back({"embed beyond the table", {Phase::kPrefill, 9, 1, 1}, [](CaseBuilder& b) {
                     b.graph().mark_output(
                         embed(b.graph(), b.matrix(50, 64, Format::dense(DType::kF16)), true), "y");
                   }});
    return all;
  }
};

}  // namespace

const Op& embed_op() {
  static const Embed op;
  return op;
}

Value embed(Graph& graph, const Weight* table, bool out_of_range_is_row_zero) {
  auto params = std::make_shared<EmbedParams>();
  params->out_of_range_is_row_zero = out_of_range_is_row_zero;
  return graph.add1(embed_op(), params, {}, {table});
}

}  // namespace decant
