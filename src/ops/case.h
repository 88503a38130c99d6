#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace decant {

/// Random data around an op: what a case builds its graph from, and what parity tests and op
/// benchmarks run. The same seed gives the same data on every backend.
class CaseBuilder {
 public:
  CaseBuilder(const Capacity& capacity, uint64_t seed);

  Graph& graph() { return graph_; }
  Batch& batch() { return batch_; }
  const Batch& batch() const { return batch_; }

  /// A float input value of these rows with normal data times `spread`.
  Value input(const Shape& inner, Rows rows = Rows::kTokens, float spread = 1.0f);
  /// The same of [rows, ...] whatever the batch.
  Value fixed_input(const Shape& shape, float spread = 1.0f);
  /// An int32 input value with entries in [0, limit), different within a row.
  Value int_input(int64_t width, int32_t limit, Rows rows = Rows::kTokens);
  /// A vector of floats around `centre`, or a small f32 matrix.
  const Weight* vector(const Shape& shape, float centre = 0.0f, float spread = 1.0f);
  /// A matrix [out, in] of this format with entries of about 1/sqrt(in).
  const Weight* matrix(int64_t out, int64_t in, const Format& format);
  /// `experts` such matrices as one table.
  const Weight* experts(int64_t experts, int64_t out, int64_t in, const Format& format);

  /// Lays the live tokens out as sequences: {past, count} each. Fills tokens, positions and page
  /// tables for `group` groups; pages are handed out in a scrambled order. Call before reading
  /// batch().
  void sequences(const std::vector<std::pair<int64_t, int32_t>>& past_and_count, int vocab = 97,
                 int groups = 1);
  /// A cache whose pages hold random keys and values.
  Value kv_cache(const KvSpec& spec, DType dtype);
  Value state(const StateSpec& spec);

  struct Input {
    ValueType type;
    std::vector<float> floats;
    std::vector<int32_t> ints;
  };
  const std::vector<Input>& inputs() const { return inputs_; }
  std::vector<KvPool> kv_pools() const;  // pools over this object's bytes
  std::vector<StatePool> state_pools() const;
  int64_t pages() const { return pages_; }
  const std::vector<std::unique_ptr<Weight>>& weights() const { return weights_; }

 private:
  Value add_input(const ValueType& type, float spread);
  const Weight* add_weight(const Shape& shape, const Format& format, int64_t tables, int64_t rows,
                           int64_t cols, float centre, float spread);
  struct Kv {
    KvSpec spec;
    DType dtype;
    std::vector<std::byte> keys, values;
  };
  struct State {
    StateSpec spec;
    int64_t slots;
    std::vector<float> state, log;
  };
  Graph graph_;
  Batch batch_;
  std::mt19937_64 random_;
  std::vector<Input> inputs_;
  std::vector<std::unique_ptr<Weight>> weights_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<Kv> kv_;
  std::vector<State> states_;
  int64_t pages_ = 0;
};

inline constexpr double kParitySlack = 4.0;

/// Every op of the engine, in the order of the design's list.
const std::vector<const Op*>& all_ops();

}  // namespace decant
