#include <algorithm>
#include <vector>

#include "backend/cpu/bindings.h"
#include "base/checked.h"
#include "ops/attention.h"

namespace decant::cpu {
namespace {

constexpr int64_t kSplitKeys = int64_t{kAttentionSplit} * kPageSize;
constexpr int64_t kQueryTokens = 16;  // tokens of one sequence that a prefill task takes together

class AppendKernel final : public CpuKernel {
 public:
  explicit AppendKernel(const BindContext& c)
      : vector_(c.vector), k_(c.inputs[0]), v_(c.inputs[1]), pool_(c.inputs[2].external) {}
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
        vector_.kv_store(pool, page, position % kPageSize, h,
                         k_.row(n) + int64_t{h} * pool.spec.head_dim,
                         v_.row(n) + int64_t{h} * pool.spec.head_dim);
    }
  }

 private:
  static constexpr int64_t kPerTask = 8;
  const VectorKernels& vector_;
  TensorRef k_, v_;
  int pool_;
};

/// Two ways to cut the same work. Spread: a task per (row, KV head, split) leaves partial results
/// in the workspace, a second stage merges them; for few rows. Local: a task takes a block of rows
/// of one sequence and a KV head through all splits in its own scratch. Both form the same partials
/// and merge them in the same order.
class AttentionKernel final : public CpuKernel {
 public:
  explicit AttentionKernel(const BindContext& c)
      : vector_(c.vector),
        params_(c.node.as<AttentionParams>()),
        q_(c.inputs[0]),
        y_(c.outputs[0]),
        pool_(c.inputs[1].external),
        workspace_(reinterpret_cast<float*>(c.workspace)),
        spec_(c.pools.kv[static_cast<size_t>(pool_)]) {
    const int64_t rows = q_.shape[0];
    capacity_ = partial_capacity(rows, spec_, c.pools);
    first_partial_.resize(static_cast<size_t>(rows) + 1);
    blocks_.reserve(static_cast<size_t>(rows));
    group_ = q_.shape[1] / spec_.kv_heads;
  }
  /// (row, split) pairs the spread form has room for: pages bound how many splits all sequences can
  /// have together.
  static int64_t partial_capacity(int64_t rows, const KvSpec& spec, const PoolSpec& pools) {
    const int64_t pages = pools.pages_per_group[static_cast<size_t>(spec.group)];
    const int64_t longest = spec.window > 0 ? spec.window / kSplitKeys + 2
                                            : div_up<int64_t>(pages, kAttentionSplit) + 1;
    return std::min(std::min(rows, kSpreadRows) * longest,
                    pages / kAttentionSplit + 2 * kSpreadRows);
  }
  static int64_t workspace_bytes(const Graph& graph, const Node& node, const PoolSpec& pools) {
    const ValueType& q = graph.value(node.inputs[0]).type;
    const KvSpec& spec = graph.kv_specs().at(graph.value(node.inputs[1]).external_index);
    return partial_capacity(q.shape[0], spec, pools) * q.shape[1] * (q.shape[2] + 2) * 4;
  }
  int stages() const override { return 2; }

  int64_t tiles(const StepContext& context, int stage) override {
    if (stage == 1) return spread_ ? div_up(rows_ * spec_.kv_heads, kMergeHeads) : 0;
    rows_ = context.live(q_);
    first_partial_[0] = 0;
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t token = context.token_of(q_, r);
      const int64_t position = context.batch.positions[static_cast<size_t>(token)];
      first_partial_[static_cast<size_t>(r) + 1] = first_partial_[static_cast<size_t>(r)] +
                                                   last_split(last_seen(context, token)) -
                                                   first_split(position) + 1;
    }
    const int64_t partials = first_partial_[static_cast<size_t>(rows_)];
    spread_ = rows_ <= kSpreadRows && partials <= capacity_;
    if (spread_) return partials * spec_.kv_heads;
    make_blocks(context);
    return static_cast<int64_t>(blocks_.size()) * spec_.kv_heads;
  }

  void run(const StepContext& context, int stage, int64_t tile, Scratch& scratch) override {
    if (!spread_) {
      run_local(context, tile, scratch);
    } else if (stage == 0) {
      run_split(context, tile);
    } else {
      const int64_t end = std::min(rows_ * spec_.kv_heads, (tile + 1) * kMergeHeads);
      for (int64_t i = tile * kMergeHeads; i < end; ++i)
        merge_spread(i / spec_.kv_heads, i % spec_.kv_heads);
    }
  }

 private:
  static constexpr int64_t kSpreadRows = 64;
  static constexpr int64_t kMergeHeads = 16;
  struct Block {
    int64_t row, rows;  // consecutive rows of one sequence
    int64_t first_split, last_split;
  };

  int64_t first_visible(int64_t position) const {
    return spec_.window > 0 ? std::max<int64_t>(0, position - spec_.window + 1) : 0;
  }
  int64_t first_split(int64_t position) const { return first_visible(position) / kSplitKeys; }
  int64_t last_split(int64_t last) const { return last / kSplitKeys; }
  int64_t last_seen(const StepContext& context, int64_t token) const {
    const int64_t own = context.batch.positions[static_cast<size_t>(token)];
    if (!params_.both_ways || context.batch.last_seen.empty()) return own;
    return std::max<int64_t>(own, context.batch.last_seen[static_cast<size_t>(token)]);
  }
  int64_t partial_floats() const { return spec_.head_dim + 2; }
  const int32_t* pages_of(const StepContext& context, int64_t row) const {
    return context.batch.pages(
        spec_.group, context.batch.sequence_of[static_cast<size_t>(context.token_of(q_, row))]);
  }
  AttentionQuery query(const StepContext& context, int64_t row, int64_t head) const {
    const int64_t token = context.token_of(q_, row);
    return {q_.row(row) + head * spec_.head_dim,
            context.batch.positions[static_cast<size_t>(token)], last_seen(context, token)};
  }

  void run_split(const StepContext& context, int64_t tile) const {
    const int64_t kv_head = tile % spec_.kv_heads, partial = tile / spec_.kv_heads;
    const auto found =
        std::upper_bound(first_partial_.begin(), first_partial_.begin() + rows_ + 1, partial) - 1;
    const int64_t row = found - first_partial_.begin();
    AttentionQuery queries[kMaxGroup];
    for (int64_t g = 0; g < group_; g += kMaxGroup) {
      const int64_t count = std::min(kMaxGroup, group_ - g);
      for (int64_t i = 0; i < count; ++i)
        queries[i] = query(context, row, kv_head * group_ + g + i);
      vector_.attention_split(
          context.kv[static_cast<size_t>(pool_)], pages_of(context, row), static_cast<int>(kv_head),
          first_split(queries[0].position) + partial - *found, queries, count, params_.scale,
          params_.softcap,
          workspace_ + (partial * q_.shape[1] + kv_head * group_ + g) * partial_floats());
    }
  }
  void merge_spread(int64_t row, int64_t kv_head) const {
    const int64_t first = first_partial_[static_cast<size_t>(row)],
                  count = first_partial_[static_cast<size_t>(row) + 1] - first;
    for (int64_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head)
      vector_.attention_merge(workspace_ + (first * q_.shape[1] + head) * partial_floats(),
                              q_.shape[1] * partial_floats(), count, spec_.head_dim,
                              y_.row(row) + head * spec_.head_dim);
  }

  void make_blocks(const StepContext& context) {
    blocks_.clear();
    const int64_t room = Scratch::kBytes / 4;
    for (int64_t r = 0; r < rows_;) {
      const int64_t token = context.token_of(q_, r);
      const int64_t first = first_split(context.batch.positions[static_cast<size_t>(token)]);
      Block block{r, 0, first, first};
      while (r + block.rows < rows_ && block.rows < kQueryTokens) {
        const int64_t next = context.token_of(q_, r + block.rows);
        if (context.batch.sequence_of[static_cast<size_t>(next)] !=
            context.batch.sequence_of[static_cast<size_t>(token)])
          break;
        const int64_t last = last_split(last_seen(context, next));
        if (block.rows > 0 &&
            (block.rows + 1) * group_ * (last - first + 1) * partial_floats() > room)
          break;
        block.last_split = std::max(block.last_split, last);
        ++block.rows;
      }
      blocks_.push_back(block);
      r += block.rows;
    }
  }
  void run_local(const StepContext& context, int64_t tile, Scratch& scratch) const {
    const Block& block = blocks_[static_cast<size_t>(tile / spec_.kv_heads)];
    const int64_t kv_head = tile % spec_.kv_heads,
                  splits = block.last_split - block.first_split + 1;
    const int64_t room = Scratch::kBytes / 4 / (splits * partial_floats());
    DECANT_ASSERT(room >= 1, "the partial results of one query fit the scratch");
    auto* partials = reinterpret_cast<float*>(scratch.data);
    const int64_t queries_total = block.rows * group_;
    AttentionQuery queries[kQueryTokens * kMaxGroup];
    for (int64_t at = 0; at < queries_total;) {
      const int64_t count = std::min({queries_total - at, room, kQueryTokens * kMaxGroup});
      for (int64_t i = 0; i < count; ++i)
        queries[i] =
            query(context, block.row + (at + i) / group_, kv_head * group_ + (at + i) % group_);
      for (int64_t s = 0; s < splits; ++s)
        vector_.attention_split(context.kv[static_cast<size_t>(pool_)],
                                pages_of(context, block.row), static_cast<int>(kv_head),
                                block.first_split + s, queries, count, params_.scale,
                                params_.softcap, partials + s * count * partial_floats());
      for (int64_t i = 0; i < count; ++i) {
        // A query merges exactly the splits it sees: an empty one in front would change nothing but
        // the bits.
        const int64_t own_first = first_split(queries[i].position) - block.first_split;
        const int64_t own_last = last_split(queries[i].last) - block.first_split;
        vector_.attention_merge(partials + (own_first * count + i) * partial_floats(),
                                count * partial_floats(), own_last - own_first + 1, spec_.head_dim,
                                y_.row(block.row + (at + i) / group_) +
                                    (kv_head * group_ + (at + i) % group_) * spec_.head_dim);
      }
      at += count;
    }
  }

  static constexpr int64_t kMaxGroup = 16;
  const VectorKernels& vector_;
  const AttentionParams& params_;
  TensorRef q_, y_;
  int pool_;
  float* workspace_;
  KvSpec spec_;
  int64_t group_ = 1;
  int64_t capacity_ = 0;
  int64_t rows_ = 0;
  bool spread_ = false;
  std::vector<int64_t> first_partial_;
  std::vector<Block> blocks_;
};

}  // namespace

std::vector<Binding> attention_bindings() {
  return {
      {&kv_append_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<AppendKernel>(c);
       }},
      {&attention_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<AttentionKernel>(c);
       },
       &AttentionKernel::workspace_bytes},
  };
}

}  // namespace decant::cpu
