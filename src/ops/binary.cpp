#include "ops/binary.h"

#include <algorithm>

#include "ops/case.h"

namespace decant {
namespace {

class BinaryOp final : public Op {
 public:
  std::string_view name() const override { return "binary"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& a = graph.value(node.inputs[0]).type;
    if (node.inputs.size() == 2) {
      const ValueType& b = graph.value(node.inputs[1]).type;
      require(graph, node,
              a.shape[0] == b.shape[0] && a.rows == b.rows &&
                  (a.width() == b.width() || b.width() == 1),
              "b: expected {} or one column, got {}", a.shape.to_string(), b.shape.to_string());
    } else {
      const Weight& b = *node.weights.at(0);
      require(graph, node,
              (b.shape.count() == a.width() || b.shape.count() == 1) &&
                  b.format == Format::dense(DType::kF32),
              "weight {}: expected {} f32 values or one, got {} {}", b.name, a.width(),
              b.shape.to_string(), b.format.name());
    }
    return {{DType::kF32, a.shape, a.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const Binary kind = io.node.as<BinaryParams>().kind;
    const bool from_weight = io.inputs.size() == 1;
    const int64_t b_width = from_weight ? io.node.weights[0]->shape.count() : io.inputs[1].width();
    const bool broadcast = b_width == 1;
    for (int64_t n = 0; n < io.inputs[0].rows; ++n)
      for (int64_t i = 0; i < io.inputs[0].width(); ++i) {
        const float a = io.inputs[0].row(n)[i];
        const float b = from_weight ? load_float(io.node.weights[0]->view().data, DType::kF32,
                                                 broadcast ? 0 : i)
                                    : io.inputs[1].row(n)[broadcast ? 0 : i];
        io.outputs[0].row(n)[i] = kind == Binary::kAdd   ? a + b
                                  : kind == Binary::kSub ? a - b
                                                         : a * b;
      }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (Binary kind : {Binary::kAdd, Binary::kSub, Binary::kMul}) {
      all.push_back({"binary of two values", {Phase::kPrefill, 6, 1, 1}, [kind](CaseBuilder& b) {
                       Value x = b.input({75});
                       b.graph().mark_output(binary(x, b.input({75}), kind), "y");
                     }});
      all.push_back({"binary with a column", {Phase::kPrefill, 6, 1, 1}, [kind](CaseBuilder& b) {
                       Value x = b.input({75});
                       b.graph().mark_output(binary(x, b.input({4}).columns(2, {1}), kind), "y");
                     }});
      all.push_back({"binary with a weight", {Phase::kDecode, 3, 3, 3}, [kind](CaseBuilder& b) {
                       Value x = b.input({40});
                       b.graph().mark_output(binary(x, b.vector({40}), kind), "y");
                     }});
      all.push_back({"binary with one weight", {Phase::kDecode, 3, 3, 3}, [kind](CaseBuilder& b) {
                       Value x = b.input({40});
                       b.graph().mark_output(binary(x, b.vector({1}, 0.7f, 0.2f), kind), "y");
                     }});
    }
    return all;
  }
};

class Concat final : public Op {
 public:
  struct Params : OpParams {
    Shape inner;
  };
  std::string_view name() const override { return "concat"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& first = graph.value(node.inputs[0]).type;
    const Shape& inner = node.as<Params>().inner;
    int64_t width = 0;
    for (int id : node.inputs) {
      const ValueType& part = graph.value(id).type;
      require(graph, node, part.shape[0] == first.shape[0] && part.rows == first.rows,
              "part: expected {} rows, got {}", first.shape[0], part.shape[0]);
      width += part.width();
    }
    require(graph, node, width == inner.count(), "parts: expected {} columns, got {}",
            inner.count(), width);
    std::vector<int64_t> dims{first.shape[0]};
    for (int64_t dim : inner.dims()) dims.push_back(dim);
    return {{DType::kF32, Shape(std::span<const int64_t>(dims)), first.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    for (int64_t n = 0; n < io.outputs[0].rows; ++n) {
      float* out = io.outputs[0].row(n);
      for (const HostTensor& part : io.inputs) out = std::copy_n(part.row(n), part.width(), out);
    }
  }
  std::vector<OpCase> cases() const override {
    return {{"concat", {Phase::kPrefill, 6, 1, 1}, [](CaseBuilder& b) {
               const std::vector<Value> parts{b.input({5}), b.input({30}).columns(7, {11}),
                                              b.input({16})};
               b.graph().mark_output(concat(parts, {4, 8}), "y");
             }}};
  }
};

}  // namespace

std::string BinaryParams::text() const {
  return kind == Binary::kAdd ? "add" : kind == Binary::kSub ? "sub" : "mul";
}

const Op& binary_op() {
  static const BinaryOp op;
  return op;
}
const Op& concat_op() {
  static const Concat op;
  return op;
}

Value binary(Value a, Value b, Binary kind) {
  auto params = std::make_shared<BinaryParams>();
  params->kind = kind;
  return a.graph().add1(binary_op(), params, {a, b});
}

Value binary(Value a, const Weight* b, Binary kind) {
  auto params = std::make_shared<BinaryParams>();
  params->kind = kind;
  return a.graph().add1(binary_op(), params, {a}, {b});
}

Value concat(std::span<const Value> parts, const Shape& inner) {
  auto params = std::make_shared<Concat::Params>();
  params->inner = inner;
  return parts[0].graph().add(concat_op(), params, parts, {}).front();
}

}  // namespace decant
