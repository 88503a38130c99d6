#include <algorithm>
#include <array>

#include "backend/mlx/step.h"
#include "ops/attention.h"
#include "ops/leaky_sum.h"
#include "ops/sample.h"
#include "sampling/sampler.h"

namespace decant::mlx {
namespace {

/// Scores that exist at once where MLX has no fused attention for a shape.
constexpr int64_t kMaxScores = int64_t{1} << 26;

const KvSpec& spec_of(const Step& step, int cache) {
  return step.graph().kv_specs().at(step.graph().value(cache).external_index);
}

void lower_kv_append(Step& step, const Node& node, NodeWeights) {
  const KvSpec& spec = spec_of(step, node.inputs[2]);
  const auto& [page, slot] = step.destinations(spec.group);
  const auto stored = [&](const mx::array& pool, int id) {
    const mx::array x = mx::reshape(mx::astype(step.value(id), pool.dtype()),
                                    {page.shape(0), 1, 1, spec.kv_heads, spec.head_dim});
    return mx::scatter(pool, {page, slot}, x, {0, 1});
  };
  const KvArrays& old = step.kv(node.inputs[2]);
  KvArrays version{stored(old.keys, node.inputs[0]), stored(old.values, node.inputs[1])};
  step.set_kv(node.outputs[0], std::move(version));
}

/// softmax(softcap(q k^T * scale)) v where the mask lets it: [E, H, L, D] over [E, Hkv, K, D].
mx::array attend(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& mask,
                 const AttentionParams& params) {
  if (params.softcap <= 0)
    return mx::fast::scaled_dot_product_attention(q, k, v, params.scale, "array", mask);
  const int entries = q.shape(0), heads = q.shape(1), length = q.shape(2), size = q.shape(3);
  const int kv_heads = k.shape(1), shared = heads / kv_heads;
  const mx::array grouped = mx::reshape(mx::multiply(q, mx::array(params.scale)),
                                        {entries, kv_heads, shared, length, size});
  const mx::array cap(params.softcap);
  mx::array scores = mx::matmul(grouped, mx::expand_dims(mx::swapaxes(k, 2, 3), 2));
  scores = mx::multiply(cap, mx::tanh(mx::divide(scores, cap)));
  scores = mx::where(mx::expand_dims(mask, 1), scores,
                     mx::array(-std::numeric_limits<float>::infinity()));
  const mx::array weights = mx::softmax(scores, -1, true);
  return mx::reshape(mx::matmul(weights, mx::expand_dims(v, 2)), q.shape());
}

void lower_attention(Step& step, const Node& node, NodeWeights) {
  const Rows rows = step.graph().value(node.inputs[0]).type.rows;
  const KvSpec& spec = spec_of(step, node.inputs[1]);
  const Layout& layout = step.layout(rows);
  const KeyWindow& window = step.keys(rows, spec);
  const int entries = layout.entries, length = layout.length, seen = window.pages * kPageSize;
  const KvArrays& cache = step.kv(node.inputs[1]);
  const auto gathered = [&](const mx::array& pool) {
    return mx::reshape(mx::take(pool, window.page_of, 0),
                       {entries, seen, spec.kv_heads, spec.head_dim});
  };
  const auto heads_first = [](const mx::array& x) {
    return mx::astype(mx::transpose(x, {0, 2, 1, 3}), mx::float32);
  };
  const mx::array k = heads_first(gathered(cache.keys));
  // What earlier owners of a page left behind may be NaN, and 0 * NaN would reach the sum.
  const mx::array values = gathered(cache.values);
  const mx::array v =
      heads_first(mx::where(window.written, values, mx::array(0.0f, values.dtype())));
  const mx::array q = heads_first(layout.to_entries(step.value(node.inputs[0])));

  const int heads = q.shape(1);
  const auto& params = node.as<AttentionParams>();
  const int at_once =
      dim(std::clamp<int64_t>(kMaxScores / (int64_t{entries} * heads * seen), 1, length));
  std::vector<mx::array> parts;
  for (int begin = 0; begin < length; begin += at_once) {
    const int end = std::min(begin + at_once, length);
    parts.push_back(attend(mx::slice(q, {0, 0, begin, 0}, {entries, heads, end, spec.head_dim}), k,
                           v, mx::slice(window.mask, {0, 0, begin, 0}, {entries, 1, end, seen}),
                           params));
  }
  const mx::array all = parts.size() == 1 ? parts[0] : mx::concatenate(std::move(parts), 2);
  step.set(node.outputs[0], layout.to_rows(mx::transpose(all, {0, 2, 1, 3})));
}

void lower_leaky_sum(Step& step, const Node& node, NodeWeights weights) {
  const Batch& batch = step.batch();
  const StateArrays& pool = step.state(node.inputs[1]);
  const Layout& layout = step.layout(Rows::kTokens);
  const int entries = layout.entries, width = pool.state.shape(1), log_tokens = pool.log.shape(1);
  const int32_t padding = pool.state.shape(0) - 1;
  std::vector<int32_t> slot(static_cast<size_t>(entries), padding), commit(slot.size(), 0);
  int32_t most = 0;
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    slot[s] = batch.sequences[s].slot;
    commit[s] = batch.sequences[s].commit;
    DECANT_ASSERT(slot[s] >= 0 && slot[s] < padding, "a recurrent sequence owns a slot");
    DECANT_ASSERT(commit[s] <= log_tokens, "no more tokens are committed than were logged");
    most = std::max(most, commit[s]);
  }
  const mx::array slots = int_array(slot, {entries});
  const mx::array commits = int_array(commit, {entries, 1});
  const mx::array gate = mx::reshape(weights[0]->data, {1, width});
  mx::array state = mx::take(pool.state, slots, 0);                  // [E, C]
  mx::array log = mx::take(pool.log, slots, 0);                      // [E, T, C]
  const mx::array x = layout.to_entries(step.flat(node.inputs[0]));  // [E, L, C]
  // Steps beyond an entry's own count leave its state alone.
  const auto advance = [&](const mx::array& counts, int32_t t, const mx::array& in) {
    return mx::where(mx::greater(counts, mx::array(t, mx::int32)),
                     mx::add(mx::multiply(gate, state), in), state);
  };
  for (int32_t t = 0; t < most; ++t) state = advance(commits, t, mx::take(log, t, 1));
  const mx::array committed = state;
  std::vector<mx::array> results;
  for (int32_t t = 0; t < layout.length; ++t) {
    state = advance(layout.counts, t, mx::take(x, t, 1));
    results.push_back(state);
  }
  step.set(node.outputs[0], layout.to_rows(mx::stack(results, 1)));

  const auto written = [&](const mx::array& to, const mx::array& rows) {
    return mx::scatter(to, slots, mx::expand_dims(rows, 1), 0);
  };
  if (batch.phase == Phase::kPrefill)
    return step.set_state(node.outputs[1], {written(pool.state, state), pool.log});
  // Decode keeps the committed state and logs its tokens, so that taking them back costs nothing.
  const int logged = std::min(layout.length, log_tokens);
  const auto head = [&](const mx::array& from) {
    return mx::slice(from, {0, 0, 0}, {entries, logged, width});
  };
  const mx::array live = mx::less(mx::reshape(mx::arange(0, logged, 1), {1, logged, 1}),
                                  mx::reshape(layout.counts, {entries, 1, 1}));
  log = mx::slice_update(log, mx::where(live, head(x), head(log)), mx::Shape{0, 0, 0},
                         mx::Shape{entries, logged, width});
  step.set_state(node.outputs[1], {written(pool.state, committed), written(pool.log, log)});
}

void lower_sample(Step& step, const Node& node, NodeWeights) {
  const mx::array logits = step.flat(node.inputs[0]);
  const mx::array ids = mx::astype(mx::argmax(logits, 1), mx::int32);
  const mx::array finite = mx::isfinite(mx::max(logits, 1));
  step.set(node.outputs[0],
           mx::where(mx::any(mx::isnan(logits), 1), mx::array(kNanLogits, mx::int32),
                     mx::where(finite, ids, mx::array(kInfiniteLogits, mx::int32))));
  const auto& rows = step.batch().sampling;
  const auto not_greedy = [](const SamplingRow& r) {
    return r.temperature > 0 || adjusts_logits(r);
  };
  if (std::any_of(rows.begin(), rows.end(), not_greedy))
    step.host_samples.push_back({node.outputs[0], mx::contiguous(logits)});
}

}  // namespace

std::span<const Lowering> sequence_lowerings() {
  static const std::array all{
      Lowering{&kv_append_op(), lower_kv_append},
      Lowering{&attention_op(), lower_attention},
      Lowering{&leaky_sum_op(), lower_leaky_sum},
      Lowering{&sample_op(), lower_sample},
  };
  return all;
}

}  // namespace decant::mlx
