#include "ops/case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checked.h"

namespace decant {
namespace {

ValueType case_type(const Graph& graph, DType dtype, const Shape& inner, Rows rows) {
  const int64_t count = rows == Rows::kOutputs ? graph.capacity().outputs : graph.capacity().tokens;
  std::vector<int64_t> dims{count};
  for (int64_t dim : inner.dims()) dims.push_back(dim);
  return {dtype, Shape(std::span<const int64_t>(dims)), rows};
}

void store(std::byte* at, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(at + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  std::memcpy(at + index * 2, &bits, 2);
}

// Random codes and scales of a micro format, for elements of about `spread`. Returns the tensor
// scale.
float fill_micro(const Format& format, int64_t rows, int64_t cols, float spread,
                 std::mt19937_64& random, std::byte* data, std::byte* scales) {
  for (int64_t i = 0; i < rows * format.data_row_bytes(cols); ++i) {
    auto code = static_cast<uint8_t>(random());
    if (format.bits == 8 && (code & 0x7Fu) == 0x7Fu) code ^= 1u;  // no NaN
    data[i] = static_cast<std::byte>(code);
  }
  // The deviation of elements whose codes are uniform.
  const float element = format.bits == 8 ? 105.0f : 2.93f;
  std::uniform_real_distribution<float> vary(0.5f, 1.5f);
  const bool nvfp4 = format.kind == Format::Kind::kNvfp4;
  const float tensor_scale = nvfp4 ? vary(random) : 1.0f;
  for (int64_t i = 0; i < rows * (cols / format.group); ++i) {
    const float scale = spread / element / tensor_scale * vary(random);
    const uint8_t code =
        nvfp4 ? float_to_e4m3(random() % 4 == 0 ? -scale : scale)
              : static_cast<uint8_t>(std::clamp<float>(127 + std::rint(std::log2(scale)), 0, 254));
    scales[i] = static_cast<std::byte>(code);
  }
  return tensor_scale;
}

}  // namespace

CaseBuilder::CaseBuilder(const Capacity& capacity, uint64_t seed)
    : graph_(capacity), random_(seed) {
  batch_.phase = capacity.phase;
  std::vector<std::pair<int64_t, int32_t>> each(static_cast<size_t>(capacity.sequences), {0, 1});
  each.front().second = capacity.tokens - capacity.sequences + 1;
  sequences(each);
}

Value CaseBuilder::input(const Shape& inner, Rows rows, float spread) {
  return add_input(case_type(graph_, DType::kF32, inner, rows), spread);
}

Value CaseBuilder::fixed_input(const Shape& shape, float spread) {
  return add_input({DType::kF32, shape, Rows::kFixed}, spread);
}

Value CaseBuilder::add_input(const ValueType& type, float spread) {
  Input made{type, {}, {}};
  std::normal_distribution<float> normal;
  made.floats.resize(static_cast<size_t>(made.type.shape.count()));
  for (float& x : made.floats) x = spread * normal(random_);
  inputs_.push_back(std::move(made));
  return graph_.input(static_cast<int>(inputs_.size()) - 1, inputs_.back().type);
}

Value CaseBuilder::int_input(int64_t width, int32_t limit, Rows rows) {
  Input made{case_type(graph_, DType::kI32, Shape{width}, rows), {}, {}};
  std::vector<int32_t> all(static_cast<size_t>(limit));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t row = 0; row < made.type.shape[0]; ++row) {
    std::shuffle(all.begin(), all.end(), random_);
    made.ints.insert(made.ints.end(), all.begin(), all.begin() + width);
  }
  inputs_.push_back(std::move(made));
  return graph_.input(static_cast<int>(inputs_.size()) - 1, inputs_.back().type);
}

const Weight* CaseBuilder::vector(const Shape& shape, float centre, float spread) {
  return add_weight(shape, Format::dense(DType::kF32), 1, 1, shape.count(), centre, spread);
}

const Weight* CaseBuilder::matrix(int64_t out, int64_t in, const Format& format) {
  return add_weight({out, in}, format, 1, out, in, 0, 1 / std::sqrt(static_cast<float>(in)));
}

const Weight* CaseBuilder::experts(int64_t experts, int64_t out, int64_t in, const Format& format) {
  return add_weight({experts, out, in}, format, experts, out, in, 0,
                    1 / std::sqrt(static_cast<float>(in)));
}

const Weight* CaseBuilder::add_weight(const Shape& shape, const Format& format, int64_t tables,
                                      int64_t rows, int64_t cols, float centre, float spread) {
  auto weight = std::make_unique<Weight>();
  weight->name = fmt::format("case.{}", weights_.size());
  weight->shape = shape;
  weight->format = format;
  // The planes start off any alignment, as those of a mapped file may.
  const int64_t data = rows * format.data_row_bytes(cols),
                scales = rows * format.scale_row_bytes(cols);
  auto bytes = std::make_shared<std::vector<std::byte>>(
      static_cast<size_t>(8 + tables * (data + 2 * scales)));
  std::byte* at = bytes->data() + 8;
  std::normal_distribution<float> normal(centre, spread);
  for (int64_t t = 0; t < tables; ++t) {
    MatrixView view{at, nullptr, nullptr, format, rows, cols};
    if (format.is_dense()) {
      for (int64_t i = 0; i < rows * cols; ++i) store(at, format.dtype, i, normal(random_));
      at += data;
    } else if (format.is_micro()) {
      view.scales = at + data;
      view.tensor_scale = fill_micro(format, rows, cols, spread, random_, at, at + data);
      at += data + scales;
    } else {
      for (int64_t i = 0; i < data; ++i) at[i] = static_cast<std::byte>(random_());
      at += data;
      view.scales = at;
      view.biases = at + scales;
      const float step = 2 * spread * 1.7f / static_cast<float>((1 << format.bits) - 1);
      std::uniform_real_distribution<float> vary(0.5f, 1.5f);
      for (int64_t i = 0; i < rows * (cols / format.group); ++i) {
        const float sign = random_() % 4 == 0 ? -1.0f : 1.0f;
        const float scale = sign * step * vary(random_);
        store(at, format.dtype, i, scale);
        store(at + scales, format.dtype, i,
              -scale * static_cast<float>((1 << format.bits) - 1) / 2 * vary(random_));
      }
      at += 2 * scales;
    }
    if (shape.rank() == 2 && tables == 1 && rows == 1) {  // a small f32 matrix given as a vector
      view.rows = shape[0];
      view.cols = shape[1];
    }
    weight->views.push_back(view);
  }
  weight->owners.push_back(bytes);
  weights_.push_back(std::move(weight));
  return weights_.back().get();
}

void CaseBuilder::sequences(const std::vector<std::pair<int64_t, int32_t>>& past_and_count,
                            int vocab, int groups) {
  batch_.tokens.clear();
  batch_.positions.clear();
  batch_.sequence_of.clear();
  batch_.sequences.clear();
  batch_.outputs.clear();
  batch_.page_tables.clear();
  tables_.clear();
  pages_ = 0;
  for (const auto& [past, count] : past_and_count) {
    Batch::Sequence sequence;
    sequence.first = static_cast<int32_t>(batch_.tokens.size());
    sequence.count = count;
    sequence.past = past;
    sequence.slot = static_cast<int32_t>(batch_.sequences.size());
    for (int32_t i = 0; i < count; ++i) {
      batch_.tokens.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab)));
      batch_.positions.push_back(static_cast<int32_t>(past + i));
      batch_.sequence_of.push_back(static_cast<int32_t>(batch_.sequences.size()));
    }
    batch_.outputs.push_back(static_cast<int32_t>(batch_.tokens.size()) - 1);
    batch_.sequences.push_back(sequence);
    pages_ += div_up<int64_t>(past + count, kPageSize);
  }
  batch_.sampling.resize(batch_.outputs.size());
  std::vector<int32_t> free(static_cast<size_t>(pages_));
  for (int group = 0; group < groups; ++group) {
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random_);
    size_t next = 0;
    for (const Batch::Sequence& sequence : batch_.sequences) {
      const auto wanted =
          static_cast<size_t>(div_up<int64_t>(sequence.past + sequence.count, kPageSize));
      tables_.emplace_back(free.begin() + static_cast<std::ptrdiff_t>(next),
                           free.begin() + static_cast<std::ptrdiff_t>(next + wanted));
      next += wanted;
    }
  }
  for (const auto& table : tables_) batch_.page_tables.push_back(table.data());
}

Value CaseBuilder::kv_cache(const KvSpec& spec, DType dtype) {
  Kv kv{spec, dtype, {}, {}};
  const int64_t elements = pages_ * spec.kv_heads * kPageSize * spec.head_dim;
  kv.keys.resize(static_cast<size_t>(elements * size_of(dtype)));
  kv.values.resize(spec.kind == KvKind::kPair ? kv.keys.size() : 0);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < elements; ++i) {
    store(kv.keys.data(), dtype, i, normal(random_));
    if (!kv.values.empty()) store(kv.values.data(), dtype, i, normal(random_));
  }
  kv_.push_back(std::move(kv));
  return graph_.kv_cache(static_cast<int>(kv_.size()) - 1, spec);
}

Value CaseBuilder::state(const StateSpec& spec) {
  const auto slots = static_cast<int64_t>(batch_.sequences.size());
  State made{spec, slots, {}, {}};
  std::normal_distribution<float> normal;
  made.state.resize(static_cast<size_t>(slots * spec.width));
  made.log.resize(static_cast<size_t>(slots * spec.log_tokens * spec.log_width));
  for (float& x : made.state) x = normal(random_);
  for (float& x : made.log) x = normal(random_);
  states_.push_back(std::move(made));
  return graph_.state(static_cast<int>(states_.size()) - 1, spec);
}

std::vector<KvPool> CaseBuilder::kv_pools() const {
  std::vector<KvPool> pools;
  for (const Kv& kv : kv_)
    pools.push_back({kv.spec, kv.dtype, pages_, const_cast<std::byte*>(kv.keys.data()),
                     const_cast<std::byte*>(kv.values.data())});
  return pools;
}

std::vector<StatePool> CaseBuilder::state_pools() const {
  std::vector<StatePool> pools;
  for (const State& s : states_)
    pools.push_back(
        {s.spec, s.slots, const_cast<float*>(s.state.data()), const_cast<float*>(s.log.data())});
  return pools;
}

}  // namespace decant
