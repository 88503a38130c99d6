#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/case.h"

namespace decant {
namespace {

const KvSpec& spec_of(const Graph& graph, const Node& node, int input) {
  const ValueInfo& info = graph.value(node.inputs[static_cast<size_t>(input)]);
  require(graph, node, info.external == ExternalKind::kKvCache, "input {}: expected a KV cache",
          input);
  return graph.kv_specs().at(info.external_index);
}

void store_element(std::byte* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(data + index * 4, &value, 4);
  } else {
    const uint16_t bits = float_to_bf16(value);
    std::memcpy(data + index * 2, &bits, 2);
  }
}

// Of each sequence's step the second quarter is a span, and so is its end.
void add_spans(Batch& batch) {
  batch.last_seen = batch.positions;
  for (const Batch::Sequence& sequence : batch.sequences)
    for (const auto& [begin, end] : {std::pair{sequence.count / 4, sequence.count / 2},
                                     std::pair{3 * sequence.count / 4, sequence.count}})
      for (int32_t i = begin; i < end; ++i)
        batch.last_seen[static_cast<size_t>(sequence.first + i)] =
            static_cast<int32_t>(sequence.past) + end - 1;
}

class KvAppend final : public Op {
 public:
  std::string_view name() const override { return "kv_append"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const KvSpec& spec = spec_of(graph, node, 2);
    for (int i : {0, 1}) {
      const ValueType& x = graph.value(node.inputs[static_cast<size_t>(i)]).type;
      require(graph, node,
              x.shape == Shape{x.shape[0], spec.kv_heads, spec.head_dim} && x.rows == Rows::kTokens,
              "input {}: expected [N,{},{}], got {}", i, spec.kv_heads, spec.head_dim,
              x.shape.to_string());
    }
    return {{DType::kF32, Shape{0}, Rows::kFixed}};
  }
  void reference(const ReferenceIo& io) const override {
    const KvPool& pool = io.kv[static_cast<size_t>(index_of(io))];
    for (int64_t n = 0; n < io.batch.num_tokens(); ++n) {
      const int32_t position = io.batch.positions[static_cast<size_t>(n)];
      const int32_t* pages =
          io.batch.pages(pool.spec.group, io.batch.sequence_of[static_cast<size_t>(n)]);
      const int32_t page = pages[position / kPageSize];
      for (int h = 0; h < pool.spec.kv_heads; ++h)
        for (int d = 0; d < pool.spec.head_dim; ++d) {
          const int64_t column = int64_t{h} * pool.spec.head_dim + d;
          store_element(pool.keys, pool.dtype, pool.key_index(page, h, position % kPageSize, d),
                        io.inputs[0].row(n)[column]);
          store_element(pool.values, pool.dtype, pool.value_index(page, h, position % kPageSize, d),
                        io.inputs[1].row(n)[column]);
        }
    }
  }
  static int index_of(const ReferenceIo& io) { return io.inputs.back().external; }
  // Attention's cases append before they read; the pool's bytes are compared there.
};

class Attention final : public Op {
 public:
  std::string_view name() const override { return "attention"; }
  std::vector<ValueType> infer(const Graph& graph, const Node& node) const override {
    const KvSpec& spec = spec_of(graph, node, 1);
    const ValueType& q = graph.value(node.inputs[0]).type;
    require(graph, node,
            q.shape.rank() == 3 && q.shape[2] == spec.head_dim && q.shape[1] % spec.kv_heads == 0,
            "q: expected [N, multiple of {}, {}], got {}", spec.kv_heads, spec.head_dim,
            q.shape.to_string());
    require(graph, node, q.rows == Rows::kTokens || q.rows == Rows::kOutputs,
            "q: expected rows of tokens");
    return {q};
  }
  void reference(const ReferenceIo& io) const override {
    const auto& params = io.node.as<AttentionParams>();
    const KvPool& pool = io.kv[static_cast<size_t>(KvAppend::index_of(io))];
    const int64_t heads = io.inputs[0].shape[1], dim = io.inputs[0].shape[2];
    const bool narrowed = io.inputs[0].rows != io.batch.num_tokens();
    std::vector<double> scores, sum(static_cast<size_t>(dim));
    for (int64_t r = 0; r < io.inputs[0].rows; ++r) {
      const auto token = static_cast<size_t>(narrowed ? io.batch.outputs[static_cast<size_t>(r)]
                                                      : static_cast<int32_t>(r));
      const int64_t position = io.batch.positions[token];
      const int32_t* pages = io.batch.pages(pool.spec.group, io.batch.sequence_of[token]);
      const int64_t first =
          pool.spec.window > 0 ? std::max<int64_t>(0, position - pool.spec.window + 1) : 0;
      const int64_t last = params.both_ways && !io.batch.last_seen.empty()
                               ? std::max<int64_t>(position, io.batch.last_seen[token])
                               : position;
      for (int64_t h = 0; h < heads; ++h) {
        const int kv = static_cast<int>(h / (heads / pool.spec.kv_heads));
        const float* q = io.inputs[0].row(r) + h * dim;
        scores.clear();
        double top = -INFINITY;
        for (int64_t j = first; j <= last; ++j) {
          double s = 0;
          for (int d = 0; d < dim; ++d)
            s += static_cast<double>(q[d]) *
                 load_float(
                     pool.keys, pool.dtype,
                     pool.key_index(pages[j / kPageSize], kv, static_cast<int>(j % kPageSize), d));
          s *= params.scale;
          if (params.softcap > 0) s = params.softcap * std::tanh(s / params.softcap);
          scores.push_back(s);
          top = std::max(top, s);
        }
        double total = 0;
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t j = first; j <= last; ++j) {
          const double p = std::exp(scores[static_cast<size_t>(j - first)] - top);
          total += p;
          for (int d = 0; d < dim; ++d)
            sum[static_cast<size_t>(d)] +=
                p * load_float(pool.values, pool.dtype,
                               pool.value_index(pages[j / kPageSize], kv,
                                                static_cast<int>(j % kPageSize), d));
        }
        for (int64_t d = 0; d < dim; ++d)
          io.outputs[0].row(r)[h * dim + d] =
              static_cast<float>(sum[static_cast<size_t>(d)] / total);
      }
    }
  }
  Cost cost(const Graph& graph, const Node& node, const StepStats& stats) const override {
    Cost cost = Op::cost(graph, node, stats);
    const ValueInfo& cache = graph.value(node.inputs[1]);
    const KvSpec& spec = graph.kv_specs().at(cache.external_index);
    const ValueType& q = graph.value(node.inputs[0]).type;
    for (const Batch::Sequence& sequence : stats.batch.sequences) {
      const int64_t last = sequence.past + sequence.count;
      const int64_t seen =
          spec.window > 0 ? std::min<int64_t>(last, spec.window + sequence.count - 1) : last;
      cost.kv_bytes += static_cast<double>(seen) * 2 * spec.kv_heads * spec.head_dim * 2;
      const double pairs = static_cast<double>(seen) * sequence.count;
      cost.flops += 4.0 * pairs * static_cast<double>(q.shape[1] * q.shape[2]);
    }
    return cost;
  }
  std::vector<OpCase> cases() const override {
    struct Setting {
      std::vector<std::pair<int64_t, int32_t>> sequences;
      int heads, kv_heads, dim, window;
      float softcap;
      DType dtype;
      bool both_ways = false;
    };
    std::vector<OpCase> all;
    const std::vector<Setting> settings = {
        {{{0, 1}}, 4, 2, 64, 0, 0, DType::kF32},
        {{{0, 37}}, 4, 4, 16, 0, 0, DType::kF32},
        {{{63, 1}, {64, 1}, {1300, 1}}, 8, 2, 128, 0, 0, DType::kF32},
        {{{0, 1}, {5, 1}, {200, 1}}, 6, 1, 64, 0, 0, DType::kBF16},
        {{{100, 70}, {0, 3}}, 4, 2, 64, 0, 0, DType::kBF16},
        {{{100, 70}, {0, 90}}, 4, 2, 64, 16, 0, DType::kF32},
        {{{700, 1}, {3, 1}}, 8, 2, 256, 128, 50.0f, DType::kF32},
        {{{0, 150}, {0, 200}}, 3, 3, 72, 0, 0, DType::kF32, true},
        {{{40, 150}, {1000, 90}}, 4, 2, 64, 32, 0, DType::kBF16, true},
    };
    for (const Setting& s : settings) {
      int tokens = 0;
      for (const auto& [past, count] : s.sequences) tokens += count;
      const auto sequences = static_cast<int>(s.sequences.size());
      all.push_back(
          {fmt::format("attention h{}/{} d{} window {} {} n{}{}", s.heads, s.kv_heads, s.dim,
                       s.window, name_of(s.dtype), tokens, s.both_ways ? " both ways" : ""),
           {tokens > sequences ? Phase::kPrefill : Phase::kDecode, tokens, sequences, sequences},
           [s](CaseBuilder& b) {
             b.sequences(s.sequences);
             if (s.both_ways) add_spans(b.batch());
             Value cache = b.kv_cache({s.kv_heads, s.dim, s.window, 0}, s.dtype);
             Value k = b.input({s.kv_heads, s.dim});
             Value v = b.input({s.kv_heads, s.dim});
             Value q = b.input({s.heads, s.dim});
             cache = kv_append(k, v, cache);
             b.graph().mark_output(attention(q, cache, 1 / std::sqrt(static_cast<float>(s.dim)),
                                             s.softcap, s.both_ways),
                                   "y");
           },
           1400,
           s.dtype == DType::kBF16});
    }
    return all;
  }
};

}  // namespace

std::string AttentionParams::text() const {
  return fmt::format("scale={}{}{}", scale, softcap > 0 ? fmt::format(" softcap={}", softcap) : "",
                     both_ways ? " both ways" : "");
}

const Op& kv_append_op() {
  static const KvAppend op;
  return op;
}
const Op& attention_op() {
  static const Attention op;
  return op;
}

Value kv_append(Value k, Value v, Value cache) {
  return k.graph().add1(kv_append_op(), nullptr, {k, v, cache});
}

Value attention(Value q, Value cache, float scale, float softcap, bool both_ways) {
  auto params = std::make_shared<AttentionParams>();
  params->scale = scale;
  params->softcap = softcap;
  params->both_ways = both_ways;
  return q.graph().add1(attention_op(), params, {q, cache});
}

}  // namespace decant
