#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/latent.h"

namespace decant::cpu {
namespace {

constexpr int64_t kSpreadRows = 64;  // with more, rows alone keep all threads busy

int64_t splits_of(int64_t keys) { return div_up<int64_t>(keys, kLatentSplit); }

/// (row, split) pairs there is room for: pages bound how many splits all sequences can have
/// together; no row has more than `longest` of them.
int64_t partial_capacity(int64_t rows, const KvSpec& spec, const PoolSpec& pools,
                         int64_t longest = INT64_MAX) {
  const int64_t keys = pools.pages_per_group[static_cast<size_t>(spec.group)] * kPageSize;
  const int64_t spread = std::min(rows, kSpreadRows);
  return std::min(spread * std::min(longest, splits_of(keys) + 1),
                  keys / kLatentSplit + 2 * kSpreadRows);
}

/// Tasks of (row, split of its keys), or whole rows: how the readers of a cache cut their work.
class Cutting {
 public:
  Cutting(int64_t rows, int64_t capacity) : capacity_(capacity) {
    first_.resize(static_cast<size_t>(rows) + 1);
  }
  /// keys(r) are the keys row r reads in splits.
  template <typename Keys>
  void cut(int64_t rows, const Keys& keys) {
    rows_ = rows;
    for (int64_t r = 0; r < rows; ++r)
      first_[static_cast<size_t>(r) + 1] = first_[static_cast<size_t>(r)] + splits_of(keys(r));
    spread_ = rows <= kSpreadRows && partials() <= capacity_;
  }
  bool spread() const { return spread_; }
  int64_t rows() const { return rows_; }
  int64_t partials() const { return first_[static_cast<size_t>(rows_)]; }
  int64_t first(int64_t row) const { return first_[static_cast<size_t>(row)]; }
  int64_t row_of(int64_t partial) const {
    return std::upper_bound(first_.begin(), first_.begin() + rows_ + 1, partial) - 1 -
           first_.begin();
  }

 private:
  int64_t capacity_;
  int64_t rows_ = 0;
  bool spread_ = false;
  std::vector<int64_t> first_;
};

class RowAppendKernel final : public CpuKernel {
 public:
  explicit RowAppendKernel(const BindContext& c)
      : vector_(c.vector), x_(c.inputs[0]), pool_(c.inputs[1].external) {}
  int64_t tiles(const StepContext& context, int) override {
    return div_up(context.batch.num_tokens(), kPerTask);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch&) override {
    const KvPool& pool = context.kv[static_cast<size_t>(pool_)];
    const int64_t end = std::min(context.batch.num_tokens(), (tile + 1) * kPerTask);
    for (int64_t n = tile * kPerTask; n < end; ++n) {
      const int32_t position = context.batch.positions[static_cast<size_t>(n)];
      const int32_t page = context.batch.pages(
          pool.spec.group, context.batch.sequence_of[static_cast<size_t>(n)])[position / kPageSize];
      for (int h = 0; h < pool.spec.kv_heads; ++h)
        vector_.row_store(pool, page, position % kPageSize, h,
                          x_.row(n) + int64_t{h} * pool.spec.head_dim);
    }
  }

 private:
  static constexpr int64_t kPerTask = 8;
  const VectorKernels& vector_;
  TensorRef x_;
  int pool_;
};

class RopeColumnsKernel final : public CpuKernel {
 public:
  explicit RopeColumnsKernel(const BindContext& c)
      : vector_(c.vector),
        begin_(c.node.as<RopeColumnsParams>().begin),
        rope_(*c.node.as<RopeColumnsParams>().rope),
        x_(c.inputs[0]),
        y_(c.outputs[0]) {}
  int64_t tiles(const StepContext& context, int) override {
    return div_up(context.live(y_), kPerTask);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const int64_t end = std::min(context.live(y_), (tile + 1) * kPerTask);
    const int64_t heads = y_.shape[1], width = y_.shape[2], half = width / 2;
    float* cos = reinterpret_cast<float*>(scratch.data);
    float* sin = cos + half;
    for (int64_t n = tile * kPerTask; n < end; ++n) {
      const int32_t position =
          context.batch.positions[static_cast<size_t>(context.token_of(y_, n))];
      vector_.angles(static_cast<float>(position), rope_.inv_freq.data(), rope_.attention_factor,
                     half, cos, sin);
      for (int64_t h = 0; h < heads; ++h)
        vector_.rotate(x_.row(n) + h * x_.shape[2] + begin_, cos, sin, half, width,
                       rope_.interleaved, y_.row(n) + h * width);
    }
  }

 private:
  static constexpr int64_t kPerTask = 8;
  const VectorKernels& vector_;
  int64_t begin_;
  const RopeParams& rope_;
  TensorRef x_, y_;
};

/// Spread: a task per (row, split, few heads) leaves partial results in the workspace, a second
/// stage merges them. Local: a task takes a row and some heads through all splits. Both form the
/// same partials and merge them in the same order.
class LatentKernel final : public CpuKernel {
 public:
  explicit LatentKernel(const BindContext& c)
      : vector_(c.vector),
        scale_(c.node.as<LatentParams>().scale),
        qa_(c.inputs[0]),
        qr_(c.inputs[1]),
        y_(c.outputs[0]),
        pool_(c.inputs[2].external),
        workspace_(reinterpret_cast<float*>(c.workspace)),
        heads_(qa_.shape[1]),
        latent_(qa_.shape[2]),
        rotated_(qr_.shape[2]),
        cutting_(qa_.shape[0], capacity(c.graph, c.node, c.pools)) {
    if (c.inputs.size() > 3) chosen_ = c.inputs[3];
    const int64_t floats = kLocalHeads * (latent_ + rotated_ + 2 * partial_floats());
    DECANT_ASSERT(floats * 4 <= Scratch::kBytes, "queries and their results fit the scratch");
  }
  static int64_t capacity(const Graph& graph, const Node& node, const PoolSpec& pools) {
    const ValueType& q = graph.value(node.inputs[0]).type;
    const KvSpec& spec = graph.kv_specs().at(graph.value(node.inputs[2]).external_index);
    const int64_t longest =
        node.inputs.size() > 3 ? splits_of(graph.value(node.inputs[3]).type.width()) : INT64_MAX;
    return partial_capacity(q.shape[0], spec, pools, longest);
  }
  static int64_t workspace_bytes(const Graph& graph, const Node& node, const PoolSpec& pools) {
    const ValueType& q = graph.value(node.inputs[0]).type;
    return capacity(graph, node, pools) * q.shape[1] * (q.shape[2] + 2) * 4;
  }
  int stages() const override { return 2; }
  int64_t tiles(const StepContext& context, int stage) override {
    if (stage == 1) return cutting_.spread() ? cutting_.rows() * div_up(heads_, kMergeHeads) : 0;
    cutting_.cut(context.live(qa_), [&](int64_t r) { return keys_of(context, r); });
    return cutting_.spread() ? cutting_.partials() * div_up(heads_, kSpreadHeads)
                             : cutting_.rows() * div_up(heads_, kLocalHeads);
  }
  void run(const StepContext& context, int stage, int64_t tile, Scratch& scratch) override {
    auto* q = reinterpret_cast<float*>(scratch.data);
    if (stage == 1) {
      const int64_t blocks = div_up(heads_, kMergeHeads), row = tile / blocks;
      const int64_t end = std::min(heads_, (tile % blocks + 1) * kMergeHeads);
      for (int64_t h = tile % blocks * kMergeHeads; h < end; ++h) merge_spread(row, h, q);
      return;
    }
    const int64_t size = cutting_.spread() ? kSpreadHeads : kLocalHeads;
    const int64_t blocks = div_up(heads_, size), head = tile % blocks * size;
    const int64_t count = std::min(size, heads_ - head);
    if (cutting_.spread()) {
      const int64_t partial = tile / blocks, row = cutting_.row_of(partial);
      load_queries(row, head, count, q);
      attend(context, row, partial - cutting_.first(row), q, count,
             workspace_ + (partial * heads_ + head) * partial_floats());
      return;
    }
    const int64_t row = tile / blocks, splits = splits_of(keys_of(context, row));
    float* all = q + kLocalHeads * (latent_ + rotated_);
    float* one = all + kLocalHeads * partial_floats();
    load_queries(row, head, count, q);
    for (int64_t split = 0; split < splits; ++split) {
      attend(context, row, split, q, count, split == 0 ? all : one);
      if (split == 0) continue;
      for (int64_t i = 0; i < count; ++i)
        vector_.latent_merge(one + i * partial_floats(), latent_, all + i * partial_floats());
    }
    for (int64_t i = 0; i < count; ++i)
      vector_.latent_finish(all + i * partial_floats(), latent_,
                            y_.row(row) + (head + i) * latent_);
  }

 private:
  static constexpr int64_t kSpreadHeads = 8;
  static constexpr int64_t kLocalHeads = 16;
  static constexpr int64_t kMergeHeads = 16;
  int64_t partial_floats() const { return latent_ + 2; }
  int64_t keys_of(const StepContext& context, int64_t row) const {
    const int64_t seen =
        int64_t{context.batch.positions[static_cast<size_t>(context.token_of(qa_, row))]} + 1;
    return chosen_.data == nullptr ? seen : std::min(seen, chosen_.width);
  }
  void load_queries(int64_t row, int64_t head, int64_t count, float* q) const {
    for (int64_t i = 0; i < count; ++i, q += latent_ + rotated_) {
      vector_.unary(Unary::kScale, qa_.row(row) + (head + i) * latent_, scale_, latent_, q);
      vector_.unary(Unary::kScale, qr_.row(row) + (head + i) * rotated_, scale_, rotated_,
                    q + latent_);
    }
  }
  // Split `split` of the row's keys, in tiles of one page's worth.
  void attend(const StepContext& context, int64_t row, int64_t split, const float* q, int64_t count,
              float* partial) const {
    const KvPool& pool = context.kv[static_cast<size_t>(pool_)];
    const int64_t token = context.token_of(qa_, row);
    const int32_t* pages =
        context.batch.pages(pool.spec.group, context.batch.sequence_of[static_cast<size_t>(token)]);
    const int64_t row_bytes = (latent_ + rotated_) * size_of(pool.dtype);
    const int64_t keys = keys_of(context, row);
    for (int64_t i = 0; i < count; ++i) {
      float* own = partial + i * partial_floats();
      own[0] = -INFINITY;
      std::fill_n(own + 1, latent_ + 1, 0.0f);
    }
    const int32_t* chosen = chosen_.data == nullptr ? nullptr : chosen_.int_row(row);
    const std::byte* rows[kPageSize];
    const int64_t end = std::min<int64_t>(keys, (split + 1) * kLatentSplit);
    for (int64_t at = split * kLatentSplit; at < end; at += kPageSize) {
      const int64_t n = std::min<int64_t>(kPageSize, end - at);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t position = chosen == nullptr ? at + i : chosen[at + i];
        const int64_t slot =
            int64_t{pages[position / kPageSize]} * kPageSize + position % kPageSize;
        rows[i] = pool.keys + slot * row_bytes;
      }
      vector_.latent_tile({rows, n, latent_ + rotated_, latent_, pool.dtype}, q, count, partial);
    }
  }
  void merge_spread(int64_t row, int64_t head, float* all) const {
    for (int64_t partial = cutting_.first(row); partial < cutting_.first(row + 1); ++partial) {
      const float* part = workspace_ + (partial * heads_ + head) * partial_floats();
      if (partial == cutting_.first(row))
        std::copy_n(part, partial_floats(), all);
      else
        vector_.latent_merge(part, latent_, all);
    }
    vector_.latent_finish(all, latent_, y_.row(row) + head * latent_);
  }

  const VectorKernels& vector_;
  float scale_;
  TensorRef qa_, qr_, y_, chosen_;
  int pool_;
  float* workspace_;
  int64_t heads_, latent_, rotated_;
  Cutting cutting_;
};

/// The best k of scores that arrive in ascending order of position; ties go to the lower position.
class BestPositions {
 public:
  BestPositions(std::byte* memory, int64_t k)
      : k_(k), room_(room(k)), keys_(reinterpret_cast<uint64_t*>(memory)), sorted_(keys_ + room_) {}
  static int64_t bytes(int64_t k) { return 2 * room(k) * int64_t{sizeof(uint64_t)}; }

  void add(const float* scores, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t key = key_of(scores[i], first + i);
      if (key > worst_) continue;
      keys_[size_++] = key;
      if (size_ == room_) keep_best();
    }
  }
  /// Their positions ascending, -1 after the last.
  void finish(int32_t* ids) {
    if (size_ > k_) keep_best();
    for (int64_t i = 0; i < k_; ++i)
      ids[i] = i < size_ ? static_cast<int32_t>(keys_[i] & 0xFFFFFFFFu) : -1;
  }

 private:
  static int64_t room(int64_t k) { return k + std::max<int64_t>(k, 4096); }
  // Ascending keys are descending scores, then ascending positions; NaN is the lowest score.
  static uint64_t key_of(float score, int64_t position) {
    const auto bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 is 0
    const uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    const uint32_t key = std::isnan(score) ? UINT32_MAX : ~order;
    return uint64_t{key} << 32 | static_cast<uint64_t>(position);
  }
  void keep_best() {
    std::copy_n(keys_, size_, sorted_);
    std::nth_element(sorted_, sorted_ + k_ - 1, sorted_ + size_);
    worst_ = sorted_[k_ - 1];
    size_ =
        std::remove_if(keys_, keys_ + size_, [&](uint64_t key) { return key > worst_; }) - keys_;
  }
  int64_t k_, room_, size_ = 0;
  uint64_t* keys_;
  uint64_t* sorted_;
  uint64_t worst_ = UINT64_MAX;
};

/// Spread: tasks per (row, split) leave scores in the workspace, a second stage chooses. Local: a
/// task scores and chooses for one row. A row that keeps all its positions scores nothing.
class IndexKernel final : public CpuKernel {
 public:
  explicit IndexKernel(const BindContext& c)
      : vector_(c.vector),
        scale_(c.node.as<IndexParams>().scale),
        q_(c.inputs[0]),
        weights_(c.inputs[1]),
        ids_(c.outputs[0]),
        pool_(c.inputs[2].external),
        workspace_(reinterpret_cast<float*>(c.workspace)),
        top_k_(c.node.as<IndexParams>().top_k),
        cutting_(q_.shape[0], capacity(c.graph, c.node, c.pools)) {
    DECANT_ASSERT(BestPositions::bytes(top_k_) + (q_.shape[1] + kPageSize) * 4 <= Scratch::kBytes,
                  "the candidates of a row fit the scratch");
  }
  static int64_t capacity(const Graph& graph, const Node& node, const PoolSpec& pools) {
    const KvSpec& spec = graph.kv_specs().at(graph.value(node.inputs[2]).external_index);
    return partial_capacity(graph.value(node.inputs[0]).type.shape[0], spec, pools);
  }
  static int64_t workspace_bytes(const Graph& graph, const Node& node, const PoolSpec& pools) {
    return capacity(graph, node, pools) * kLatentSplit * 4;
  }
  int stages() const override { return 2; }
  int64_t tiles(const StepContext& context, int stage) override {
    if (stage == 1) return cutting_.spread() ? cutting_.rows() : 0;
    cutting_.cut(context.live(q_), [&](int64_t r) {
      const int64_t seen = seen_of(context, r);
      return seen > top_k_ ? seen : 0;
    });
    return cutting_.spread() ? cutting_.partials() : cutting_.rows();
  }
  void run(const StepContext& context, int stage, int64_t tile, Scratch& scratch) override {
    auto* weights = reinterpret_cast<float*>(scratch.data);
    float* scores = weights + q_.shape[1];
    std::byte* candidates = scratch.data + round_up((q_.shape[1] + kPageSize) * 4, int64_t{64});
    if (stage == 0 && cutting_.spread()) {
      const int64_t row = cutting_.row_of(tile);
      load_weights(row, weights);
      const int64_t first = (tile - cutting_.first(row)) * kLatentSplit;
      const int64_t end = std::min<int64_t>(seen_of(context, row), first + kLatentSplit);
      for (int64_t at = first; at < end; at += kPageSize)
        score(context, row, at, weights, workspace_ + tile * kLatentSplit + (at - first));
      return;
    }
    const int64_t seen = seen_of(context, tile);
    int32_t* ids = ids_.int_row(tile);
    if (seen <= top_k_) {
      for (int64_t i = 0; i < top_k_; ++i) ids[i] = i < seen ? static_cast<int32_t>(i) : -1;
      return;
    }
    BestPositions best(candidates, top_k_);
    if (stage == 1) {
      best.add(workspace_ + cutting_.first(tile) * kLatentSplit, 0, seen);
    } else {
      load_weights(tile, weights);
      for (int64_t at = 0; at < seen; at += kPageSize) {
        score(context, tile, at, weights, scores);
        best.add(scores, at, std::min<int64_t>(kPageSize, seen - at));
      }
    }
    best.finish(ids);
  }

 private:
  int64_t seen_of(const StepContext& context, int64_t row) const {
    return int64_t{context.batch.positions[static_cast<size_t>(context.token_of(q_, row))]} + 1;
  }
  void load_weights(int64_t row, float* weights) const {
    vector_.unary(Unary::kScale, weights_.row(row), scale_, q_.shape[1], weights);
  }
  void score(const StepContext& context, int64_t row, int64_t position, const float* weights,
             float* scores) const {
    const KvPool& pool = context.kv[static_cast<size_t>(pool_)];
    const int64_t token = context.token_of(q_, row);
    const int32_t page = context.batch.pages(
        pool.spec.group,
        context.batch.sequence_of[static_cast<size_t>(token)])[position / kPageSize];
    vector_.index_scores(pool, page, q_.row(row), weights, q_.shape[1], scores);
  }

  const VectorKernels& vector_;
  float scale_;
  TensorRef q_, weights_, ids_;
  int pool_;
  float* workspace_;
  int64_t top_k_;
  Cutting cutting_;
};

}  // namespace

std::vector<Binding> latent_bindings() {
  return {{&row_append_op(), make<RowAppendKernel>},
          {&rope_columns_op(), make<RopeColumnsKernel>},
          {&latent_attention_op(), make<LatentKernel>, &LatentKernel::workspace_bytes},
          {&index_top_k_op(), make<IndexKernel>, &IndexKernel::workspace_bytes}};
}

}  // namespace decant::cpu
