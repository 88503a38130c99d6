#pragma once

#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "backend/mlx/mlx_pools.h"
#include "backend/mlx/mlx_weights.h"
#include "ops/rope.h"

namespace decant::mlx {

/// Rows of a step's values arranged as entries: consecutive rows of one sequence.
///
/// Token rows give one entry per sequence, output rows one entry each. Places beyond an entry's
/// rows show row 0, whose results nobody reads.
struct Layout {
  struct Entry {
    int32_t sequence = 0;
    int64_t first = 0;  // position of its first row
    int32_t count = 0;
  };
  std::vector<Entry> live;
  int entries = 1;        // E, padded
  int length = 1;         // L, rows of an entry, padded
  int rows = 1;           // N, padded
  bool identity = false;  // E == N, L == 1, entry i is row i
  mx::array row_of;       // [E * L] row shown at each place
  mx::array place_of;     // [N] place of each row
  mx::array counts;       // [E, 1] live rows of each entry

  /// [N, inner...] -> [E, L, inner...]
  mx::array to_entries(const mx::array& x) const;
  /// [E, L, inner...] -> [N, inner...]
  mx::array to_rows(const mx::array& y) const;
};

/// The cached positions that entries may see.
struct KeyWindow {
  int pages = 1;      // P per entry, padded
  mx::array page_of;  // [E * P] physical page
  mx::array mask;     // [E, 1, L, P * kPageSize] bool: this row sees this position
  mx::array written;  // [E, P * kPageSize, 1, 1] bool: someone wrote this position
};

/// What a sample node leaves to the host: rows that are not greedy.
struct HostSample {
  int value = -1;
  mx::array logits;  // [rows, V]
};

/// One step on its way to becoming an MLX graph: the values made so far, and what all layers share.
///
/// Row counts are the live ones rounded up to a power of two (at most the capacity). A program then
/// has a handful of shapes, so that buffers, kernels and plans that MLX caches by shape are found
/// again, while a lone row does not pay for sixty-four.
class Step {
 public:
  struct Input {
    std::vector<float> floats;
    std::vector<int32_t> ints;
  };

  Step(const Graph& graph, const Batch& batch, const MlxPools& pools,
       const std::map<int, Input>& inputs)
      : graph_(graph), batch_(batch), pools_(pools), inputs_(inputs) {}

  const Graph& graph() const { return graph_; }
  const Batch& batch() const { return batch_; }
  int rows(const ValueType& type) const;

  /// A value as [rows, inner...]; views are cut out of the value they show.
  mx::array value(int id);
  /// The same as [rows, width].
  mx::array flat(int id);
  /// Takes a node's result in any shape of the same size.
  void set(int id, const mx::array& result);

  /// The arrays of a cache's version.
  const KvArrays& kv(int id) const;
  const StateArrays& state(int id) const;
  void set_kv(int id, KvArrays version);
  void set_state(int id, StateArrays version);
  const std::map<int, KvArrays>& new_kv() const { return new_kv_; }
  const std::map<int, StateArrays>& new_states() const { return new_states_; }

  const Layout& layout(Rows rows);
  const KeyWindow& keys(Rows rows, const KvSpec& spec);
  /// Page and slot of each token row, [N]; padding rows write to the last page.
  const std::pair<mx::array, mx::array>& destinations(int group);
  /// cos and sin of each token row, [N, 1, rotary / 2].
  const std::pair<mx::array, mx::array>& angles(const RopeParams& params);
  /// The row of each output row, [O].
  const mx::array& output_rows();

  std::vector<HostSample> host_samples;
  std::vector<std::pair<int, mx::array>> expert_ids;  // by node: [N, K], to count the distinct ones

 private:
  const Graph& graph_;
  const Batch& batch_;
  const MlxPools& pools_;
  const std::map<int, Input>& inputs_;
  std::map<int, mx::array> values_;
  std::map<int, KvArrays> kv_versions_;        // by value
  std::map<int, StateArrays> state_versions_;  // by value
  std::map<int, KvArrays> new_kv_;             // by cache: the last version
  std::map<int, StateArrays> new_states_;
  std::map<Rows, Layout> layouts_;
  std::map<std::tuple<Rows, int, int>, KeyWindow> keys_;
  std::map<int, std::pair<mx::array, mx::array>> destinations_;
  std::map<const RopeParams*, std::pair<mx::array, mx::array>> angles_;
  std::unique_ptr<mx::array> output_rows_;
};

using NodeWeights = std::span<const std::shared_ptr<const DeviceWeight>>;

/// How one primitive becomes MLX calls.
struct Lowering {
  const Op* op;
  void (*lower)(Step& step, const Node& node, NodeWeights weights);
  WeightUse use = WeightUse::kProduct;  // of its first weight
};

std::span<const Lowering> row_lowerings();
std::span<const Lowering> product_lowerings();
std::span<const Lowering> sequence_lowerings();

}  // namespace decant::mlx
