#include "ops/latent.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "ops/case.h"
#include "ops/rows.h"

namespace decant {
namespace {

const KvSpec& cache_of(const Graph& graph, const Node& node, size_t input, KvKind kind) {
  const ValueInfo& info = graph.value(node.inputs[input]);
  require(graph, node, info.external == ExternalKind::kKvCache, "input {}: expected a cache",
          input);
  const KvSpec& spec = graph.kv_specs().at(info.external_index);
  require(graph, node, spec.kind == kind && spec.kv_heads == 1 && spec.window == 0,
          "cache: expected one head, no window, and {}",
          kind == KvKind::kRows ? "rows" : "keys only");
  return spec;
}

// The token behind row r of a value of token or output rows.
size_t token_of(const ReferenceIo& io, const HostTensor& x, int64_t r) {
  return static_cast<size_t>(x.rows != io.batch.num_tokens()
                                 ? io.batch.outputs[static_cast<size_t>(r)]
                                 : static_cast<int32_t>(r));
}

int64_t rows_of(const ValueType& type, const StepStats& stats) {
  return type.rows == Rows::kOutputs ? stats.batch.num_outputs() : stats.batch.num_tokens();
}

// Positions that each live row of `type` may read, summed, at most `limit` for each (0: no limit).
double pairs_of(const ValueType& type, const StepStats& stats, int64_t limit) {
  double pairs = 0;
  for (int64_t r = 0; r < rows_of(type, stats); ++r) {
    const auto token = static_cast<size_t>(
        type.rows == Rows::kOutputs ? stats.batch.outputs[static_cast<size_t>(r)] : r);
    const int64_t seen = int64_t{stats.batch.positions[token]} + 1;
    pairs += static_cast<double>(limit > 0 ? std::min(seen, limit) : seen);
  }
  return pairs;
}

// What a step reads of a cache: every sequence's positions once, or what each row chose.
double cached_of(const ValueType& type, const StepStats& stats, int64_t limit) {
  double all = 0;
  for (const Batch::Sequence& sequence : stats.batch.sequences)
    all += static_cast<double>(sequence.past + sequence.count);
  return limit > 0 ? std::min(all, pairs_of(type, stats, limit)) : all;
}

class HeadLinear final : public Op {
 public:
  std::string_view name() const override { return "head_linear"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const Weight& w = *node.weights[0];
    require(graph, node,
            w.shape.rank() == 3 && x.shape.rank() == 3 && x.shape[1] == w.shape[0] &&
                x.shape[2] >= w.shape[2],
            "weight {} {}: expected heads of x {}", w.name, w.shape.to_string(),
            x.shape.to_string());
    return {{DType::kF32, {x.shape[0], w.shape[0], w.shape[1]}, x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const Weight& w = *io.node.weights[0];
    const int64_t heads = w.shape[0], out = w.shape[1], in = w.shape[2];
    const int64_t step = io.inputs[0].shape[2];
    std::vector<float> row(static_cast<size_t>(in));
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t r = 0; r < out; ++r) {
        dequantize_row(w.views[static_cast<size_t>(h)], r, row.data());
        for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
          const float* x = io.inputs[0].row(n) + h * step;
          double sum = 0;
          for (int64_t i = 0; i < in; ++i)
            sum += static_cast<double>(row[static_cast<size_t>(i)]) * x[i];
          io.outputs[0].row(n)[h * out + r] = static_cast<float>(sum);
        }
      }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const Weight& w = *node.weights[0];
    cost.flops = 2.0 * static_cast<double>(rows_of(graph.value(node.inputs[0]).type, stats) *
                                           w.shape[0] * w.shape[1] * w.shape[2]);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const Format& format : {Format::dense(DType::kBF16), Format::dense(DType::kF32),
                                 Format::affine(4, 64), Format::affine(8, 32)})
      for (int tokens : {1, 3, 40})
        for (int64_t width : {128, 160})
          all.push_back({fmt::format("head_linear {} n{} of {}", format.name(), tokens, width),
                         {tokens > 8 ? Phase::kPrefill : Phase::kDecode, tokens, 1, 1},
                         [=](CaseBuilder& b) {
                           b.graph().mark_output(
                               head_linear(b.input({3, width}), b.experts(3, 72, 128, format)),
                               "y");
                         },
                         128});
    return all;
  }
};

class RopeColumns final : public Op {
 public:
  std::string_view name() const override { return "rope_columns"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueType& x = graph.value(node.inputs[0]).type;
    const auto& params = node.as<RopeColumnsParams>();
    const auto width = 2 * static_cast<int64_t>(params.rope->inv_freq.size());
    require(graph, node,
            x.shape.rank() == 3 && (x.rows == Rows::kTokens || x.rows == Rows::kOutputs),
            "x: expected [N, H, D] of tokens or outputs, got {}", x.shape.to_string());
    require(graph, node, params.begin >= 0 && params.begin + width <= x.shape[2],
            "columns: expected {} from {} within {}", width, params.begin, x.shape[2]);
    return {{x.dtype, {x.shape[0], x.shape[1], width}, x.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<RopeColumnsParams>();
    const RopeParams& rope = *params.rope;
    const auto half = static_cast<int64_t>(rope.inv_freq.size());
    const int64_t heads = io.inputs[0].shape[1], dim = io.inputs[0].shape[2];
    for (int64_t n = 0; n < io.inputs[0].rows; ++n) {
      const auto position = static_cast<float>(io.batch.positions[token_of(io, io.inputs[0], n)]);
      for (int64_t h = 0; h < heads; ++h) {
        const float* x = io.inputs[0].row(n) + h * dim + params.begin;
        float* y = io.outputs[0].row(n) + h * 2 * half;
        for (int64_t i = 0; i < half; ++i) {
          const float angle = position * rope.inv_freq[static_cast<size_t>(i)];
          const double c = std::cos(static_cast<double>(angle)) * rope.attention_factor;
          const double s = std::sin(static_cast<double>(angle)) * rope.attention_factor;
          const int64_t first = rope.interleaved ? 2 * i : i;
          const int64_t second = rope.interleaved ? 2 * i + 1 : i + half;
          const float a = x[first], b = x[second];
          y[first] = static_cast<float>(a * c - b * s);
          y[second] = static_cast<float>(b * c + a * s);
        }
      }
    }
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    for (const auto& [begin, rotary, interleaved] :
         {std::tuple{48, 16, true}, std::tuple{0, 64, false}, std::tuple{3, 20, true}})
      all.push_back({fmt::format("rope_columns {} from {}", rotary, begin),
                     {Phase::kPrefill, 20, 2, 2},
                     [=](CaseBuilder& b) {
                       b.sequences({{0, 13}, {30011, 7}});
                       auto params = std::make_shared<RopeParams>();
                       for (int i = 0; i < rotary / 2; ++i)
                         params->inv_freq.push_back(std::pow(
                             10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary)));
                       params->interleaved = interleaved;
                       b.graph().mark_output(rope_columns(b.input({3, 64}), begin, params), "y");
                     },
                     8});
    return all;
  }
};

class RowAppend final : public Op {
 public:
  std::string_view name() const override { return "row_append"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const ValueInfo& info = graph.value(node.inputs[1]);
    require(graph, node, info.external == ExternalKind::kKvCache, "input 1: expected a cache");
    const KvSpec& spec = graph.kv_specs().at(info.external_index);
    require(graph, node, spec.kind != KvKind::kPair, "cache: expected keys only or rows");
    const ValueType& x = graph.value(node.inputs[0]).type;
    require(graph, node,
            x.shape == Shape{x.shape[0], spec.kv_heads, spec.head_dim} && x.rows == Rows::kTokens,
            "x: expected [N,{},{}], got {}", spec.kv_heads, spec.head_dim, x.shape.to_string());
    return {{DType::kF32, Shape{0}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const KvPool& pool = io.kv[static_cast<size_t>(io.inputs[1].external)];
    for (int64_t n = 0; n < io.batch.num_tokens(); ++n) {
      const int32_t position = io.batch.positions[static_cast<size_t>(n)];
      const int32_t page = io.batch.pages(
          pool.spec.group, io.batch.sequence_of[static_cast<size_t>(n)])[position / kPageSize];
      for (int h = 0; h < pool.spec.kv_heads; ++h)
        for (int d = 0; d < pool.spec.head_dim; ++d) {
          const int slot = position % kPageSize;
          const int64_t at = pool.spec.kind == KvKind::kRows ? pool.row_index(page, h, slot, d)
                                                             : pool.key_index(page, h, slot, d);
          const float value = io.inputs[0].row(n)[int64_t{h} * pool.spec.head_dim + d];
          if (pool.dtype == DType::kF32) {
            std::memcpy(pool.keys + at * 4, &value, 4);
          } else {
            const uint16_t bits = float_to_bf16(value);
            std::memcpy(pool.keys + at * 2, &bits, 2);
          }
        }
    }
  }
  // The cases of the readers append before they read.
};

struct Reading {
  std::vector<std::pair<int64_t, int32_t>> sequences;
  int heads, wide, narrow;  // of one row: latent and rotated part, or the width of a key and top_k
  DType dtype;
  Capacity capacity() const {
    int tokens = 0;
    for (const auto& [past, count] : sequences) tokens += count;
    const auto n = static_cast<int>(sequences.size());
    return {tokens > n ? Phase::kPrefill : Phase::kDecode, tokens, n, n};
  }
};

class IndexTopK final : public Op {
 public:
  std::string_view name() const override { return "index_top_k"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const KvSpec& spec = cache_of(graph, node, 2, KvKind::kKeys);
    const ValueType& q = graph.value(node.inputs[0]).type;
    const ValueType& weights = graph.value(node.inputs[1]).type;
    const int top_k = node.as<IndexParams>().top_k;
    require(graph, node, q.shape.rank() == 3 && q.shape[2] == spec.head_dim,
            "q: expected [N, H, {}], got {}", spec.head_dim, q.shape.to_string());
    require(graph, node, weights.width() == q.shape[1] && weights.rows == q.rows,
            "weights: expected [N, {}], got {}", q.shape[1], weights.shape.to_string());
    require(graph, node, top_k >= 1, "top_k: expected at least 1, got {}", top_k);
    return {{DType::kI32, {q.shape[0], top_k}, q.rows}};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<IndexParams>();
    const KvPool& pool = io.kv[static_cast<size_t>(io.inputs[2].external)];
    const int64_t heads = io.inputs[0].shape[1], dim = io.inputs[0].shape[2];
    std::vector<double> scores;
    std::vector<int32_t> order;
    for (int64_t r = 0; r < io.inputs[0].rows; ++r) {
      const size_t token = token_of(io, io.inputs[0], r);
      const int32_t position = io.batch.positions[token];
      const int32_t* pages = io.batch.pages(pool.spec.group, io.batch.sequence_of[token]);
      int32_t* ids = io.outputs[0].int_row(r);
      std::fill_n(ids, params.top_k, -1);
      scores.clear();
      order.clear();
      for (int32_t j = 0; j <= position; ++j) {
        order.push_back(j);
        double score = 0;
        for (int64_t h = 0; h < heads; ++h) {
          double dot = 0;
          for (int d = 0; d < dim; ++d)
            dot += static_cast<double>(io.inputs[0].row(r)[h * dim + d]) *
                   load_float(pool.keys, pool.dtype,
                              pool.key_index(pages[j / kPageSize], 0, j % kPageSize, d));
          score += static_cast<double>(io.inputs[1].row(r)[h]) * params.scale * std::max(dot, 0.0);
        }
        scores.push_back(score);
      }
      const auto kept = std::min(order.size(), static_cast<size_t>(params.top_k));
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
      });
      std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept));
      std::copy_n(order.begin(), kept, ids);
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const KvSpec& spec = graph.kv_specs().at(graph.value(node.inputs[2]).external_index);
    const ValueType& q = graph.value(node.inputs[0]).type;
    const int top_k = node.as<IndexParams>().top_k;
    double pairs = 0, read = 0;  // a row that keeps everything scores nothing
    for (const Batch::Sequence& sequence : stats.batch.sequences) {
      if (sequence.past + sequence.count <= top_k) continue;
      read += static_cast<double>(sequence.past + sequence.count);
    }
    if (read > 0) pairs = pairs_of(q, stats, 0);
    cost.kv_bytes += read * spec.head_dim * 2;
    cost.flops += 2.0 * pairs * static_cast<double>(q.shape[1] * q.shape[2]);
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const std::vector<Reading> settings = {
        {{{0, 1}}, 4, 32, 3, DType::kF32},
        {{{0, 70}}, 5, 32, 12, DType::kF32},
        {{{63, 1}, {5, 1}, {1500, 1}}, 8, 64, 100, DType::kBF16},
        {{{1100, 130}, {7, 5}}, 3, 40, 64, DType::kF32},
        {{{5300, 66}}, 2, 16, 257, DType::kF32},
    };
    for (const Reading& s : settings)
      for (const float spread : {1.0f, 0.0f})
        all.push_back({fmt::format("index_top_k {} of h{} d{} n{}{}", s.narrow, s.heads, s.wide,
                                   s.capacity().tokens, spread == 0 ? " all equal" : ""),
                       s.capacity(),
                       [s, spread](CaseBuilder& b) {
                         b.sequences(s.sequences);
                         Value cache = b.kv_cache({1, s.wide, 0, 0, KvKind::kKeys}, s.dtype);
                         cache = row_append(b.input({1, s.wide}), cache);
                         Value q = b.input({s.heads, s.wide});
                         Value weights = b.input({s.heads}, Rows::kTokens, spread);
                         b.graph().mark_output(index_top_k(q, weights, cache, s.narrow, 0.1f),
                                               "chosen");
                       },
                       0});
    return all;
  }
};

class LatentAttention final : public Op {
 public:
  std::string_view name() const override { return "latent_attention"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const KvSpec& spec = cache_of(graph, node, 2, KvKind::kRows);
    const ValueType& qa = graph.value(node.inputs[0]).type;
    const ValueType& qr = graph.value(node.inputs[1]).type;
    require(graph, node,
            qa.shape.rank() == 3 && qr.shape.rank() == 3 && qa.shape[1] == qr.shape[1] &&
                qa.shape[2] + qr.shape[2] == spec.head_dim && qa.rows == qr.rows,
            "queries {} and {}: expected heads of {} together", qa.shape.to_string(),
            qr.shape.to_string(), spec.head_dim);
    if (node.inputs.size() > 3) {
      const ValueType& chosen = graph.value(node.inputs[3]).type;
      require(graph, node, chosen.dtype == DType::kI32 && chosen.rows == qa.rows,
              "chosen: expected positions for the rows of the queries");
    }
    return {qa};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<LatentParams>();
    const KvPool& pool = io.kv[static_cast<size_t>(io.inputs[2].external)];
    const int64_t heads = io.inputs[0].shape[1];
    const auto latent = static_cast<int>(io.inputs[0].shape[2]);
    const auto rotated = static_cast<int>(io.inputs[1].shape[2]);
    std::vector<int32_t> seen;
    std::vector<double> scores, sum(static_cast<size_t>(latent));
    for (int64_t r = 0; r < io.inputs[0].rows; ++r) {
      const size_t token = token_of(io, io.inputs[0], r);
      const int32_t* pages = io.batch.pages(pool.spec.group, io.batch.sequence_of[token]);
      const auto element = [&](int32_t j, int d) {
        return static_cast<double>(load_float(
            pool.keys, pool.dtype, pool.row_index(pages[j / kPageSize], 0, j % kPageSize, d)));
      };
      seen.clear();
      if (io.inputs.size() > 3) {
        for (int64_t k = 0; k < io.inputs[3].width(); ++k)
          if (io.inputs[3].int_row(r)[k] >= 0) seen.push_back(io.inputs[3].int_row(r)[k]);
      } else {
        for (int32_t j = 0; j <= io.batch.positions[token]; ++j) seen.push_back(j);
      }
      for (int64_t h = 0; h < heads; ++h) {
        const float* qa = io.inputs[0].row(r) + h * latent;
        const float* qr = io.inputs[1].row(r) + h * rotated;
        scores.clear();
        double top = -INFINITY, total = 0;
        for (const int32_t j : seen) {
          double s = 0;
          for (int d = 0; d < latent; ++d) s += qa[d] * element(j, d);
          for (int d = 0; d < rotated; ++d) s += qr[d] * element(j, latent + d);
          scores.push_back(s * params.scale);
          top = std::max(top, scores.back());
        }
        std::fill(sum.begin(), sum.end(), 0.0);
        for (size_t i = 0; i < seen.size(); ++i) {
          const double p = std::exp(scores[i] - top);
          total += p;
          for (int d = 0; d < latent; ++d) sum[static_cast<size_t>(d)] += p * element(seen[i], d);
        }
        for (int d = 0; d < latent; ++d)
          io.outputs[0].row(r)[h * latent + d] =
              static_cast<float>(sum[static_cast<size_t>(d)] / total);
      }
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const KvSpec& spec = graph.kv_specs().at(graph.value(node.inputs[2]).external_index);
    const ValueType& qa = graph.value(node.inputs[0]).type;
    const int64_t limit =
        node.inputs.size() > 3 ? graph.value(node.inputs[3]).type.width() : int64_t{0};
    cost.kv_bytes += cached_of(qa, stats, limit) * spec.head_dim * 2;
    cost.flops += 2.0 * pairs_of(qa, stats, limit) *
                  static_cast<double>(qa.shape[1] * (spec.head_dim + qa.shape[2]));
    return cost;
  }
  std::vector<OpCase> cases() const override {
    std::vector<OpCase> all;
    const std::vector<Reading> settings = {
        {{{0, 1}}, 4, 64, 16, DType::kF32},
        {{{0, 37}}, 3, 40, 12, DType::kF32},
        {{{63, 1}, {64, 1}, {2300, 1}}, 20, 128, 64, DType::kF32},
        {{{0, 1}, {5, 1}, {200, 1}}, 5, 64, 32, DType::kBF16},
        {{{1000, 70}, {0, 5}}, 9, 72, 10, DType::kBF16},
    };
    for (const Reading& s : settings)
      for (const int top_k : {0, 33})
        all.push_back(
            {fmt::format("latent_attention h{} d{}+{} {} n{}{}", s.heads, s.wide, s.narrow,
                         name_of(s.dtype), s.capacity().tokens, top_k > 0 ? " of chosen" : ""),
             s.capacity(),
             [s, top_k](CaseBuilder& b) {
               b.sequences(s.sequences);
               const int width = s.wide + s.narrow;
               Value cache = b.kv_cache({1, width, 0, 0, KvKind::kRows}, s.dtype);
               cache = row_append(b.input({1, width}), cache);
               Value chosen;
               if (top_k > 0) {
                 Value keys = b.kv_cache({1, 16, 0, 0, KvKind::kKeys}, s.dtype);
                 keys = row_append(b.input({1, 16}), keys);
                 chosen = index_top_k(b.input({2, 16}), b.input({2}), keys, top_k, 1.0f);
               }
               Value qa = b.input({s.heads, s.wide});
               Value qr = b.input({s.heads, s.narrow});
               const float scale = 1 / std::sqrt(static_cast<float>(width));
               b.graph().mark_output(latent_attention(qa, qr, cache, scale, chosen), "y");
             },
             2400, s.dtype == DType::kBF16});
    return all;
  }
};

}  // namespace

std::string LatentParams::text() const { return fmt::format("scale={}", scale); }
std::string IndexParams::text() const { return fmt::format("top_k={} scale={}", top_k, scale); }
std::string RopeColumnsParams::text() const {
  return fmt::format("from {} {}", begin, rope->text());
}

const Op& head_linear_op() {
  static const HeadLinear op;
  return op;
}
const Op& rope_columns_op() {
  static const RopeColumns op;
  return op;
}
const Op& row_append_op() {
  static const RowAppend op;
  return op;
}
const Op& latent_attention_op() {
  static const LatentAttention op;
  return op;
}
const Op& index_top_k_op() {
  static const IndexTopK op;
  return op;
}

Value head_linear(Value x, const Weight* table) {
  return x.graph().add1(head_linear_op(), nullptr, {x}, {table});
}

Value rope_columns(Value x, int64_t begin, std::shared_ptr<const RopeParams> rope_params) {
  auto params = std::make_shared<RopeColumnsParams>();
  params->begin = begin;
  params->rope = std::move(rope_params);
  return x.graph().add1(rope_columns_op(), params, {x});
}

Value row_append(Value x, Value cache) {
  return x.graph().add1(row_append_op(), nullptr, {x, cache});
}

Value latent_attention(Value qa, Value qr, Value cache, float scale, Value chosen) {
  auto params = std::make_shared<LatentParams>();
  params->scale = scale;
  if (!chosen.valid()) return qa.graph().add1(latent_attention_op(), params, {qa, qr, cache});
  return qa.graph().add1(latent_attention_op(), params, {qa, qr, cache, chosen});
}

Value index_top_k(Value q, Value weights, Value cache, int top_k, float scale) {
  auto params = std::make_shared<IndexParams>();
  params->top_k = top_k;
  params->scale = scale;
  return q.graph().add1(index_top_k_op(), params, {q, weights, cache});
}

Graph without_choice(const Graph& graph) {
  return graph.transform([](Graph& out, const Node& node,
                            std::span<const Value> in) -> std::optional<std::vector<Value>> {
    // What chose is dropped, and what narrowed a choice.
    if (node.op == &index_top_k_op() || (node.op == &narrow_rows_op() && !in[0].valid()))
      return std::vector<Value>(node.outputs.size());
    if (node.op != &latent_attention_op() || in.size() < 4) return std::nullopt;
    return out.add(*node.op, node.params, in.first(3), node.weights);
  });
}

}  // namespace decant
