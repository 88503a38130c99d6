#include "backend/mlx/mlx_pools.h"

#include <cstring>

#include "backend/mlx/mlx_backend.h"
#include "base/units.h"

namespace decant::mlx {

MlxPools::MlxPools(PoolSpec spec) : spec_(std::move(spec)) {
  const auto limit = static_cast<int64_t>(mx::get_memory_limit());
  const auto used = static_cast<int64_t>(mx::get_active_memory());
  if (spec_.bytes() > limit - used)
    throw MemoryError("[memory] cache pools: expected at most {}, got {}",
                      format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, limit - used))),
                      format_bytes(static_cast<uint64_t>(spec_.bytes())));
  try {
    std::vector<mx::array> all;
    for (const KvSpec& layer : spec_.kv) {
      const int64_t pages = spec_.pages_per_group.at(static_cast<size_t>(layer.group));
      const mx::Shape shape{dim(pages + 1), kPageSize, layer.kv_heads, layer.head_dim};
      const mx::Dtype dtype = to_mlx(spec_.kv_dtype);
      mx::Shape values = shape;
      if (layer.kind != KvKind::kPair) values[0] = 0;
      kv.push_back({mx::zeros(shape, dtype), mx::zeros(values, dtype)});
      all.insert(all.end(), {kv.back().keys, kv.back().values});
    }
    for (const StateSpec& layer : spec_.states) {
      const int slots = dim(spec_.slots + 1);
      states.push_back({mx::zeros({slots, dim(layer.width)}, mx::float32),
                        mx::zeros({slots, layer.log_tokens, dim(layer.log_width)}, mx::float32)});
      all.insert(all.end(), {states.back().state, states.back().log});
    }
    mx::eval(std::move(all));
  } catch (const std::exception& error) {
    throw MemoryError("[memory] cache pools: expected {}, MLX says {}",
                      format_bytes(static_cast<uint64_t>(spec_.bytes())), quote(error.what()));
  }
}

void MlxPools::reset_slot(int64_t slot) {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  for (StateArrays& layer : states) {
    const auto clear = [&](mx::array& pool) {
      mx::Shape start(pool.ndim(), 0), stop = pool.shape();
      start[0] = dim(slot);
      stop[0] = dim(slot + 1);
      mx::Shape row = pool.shape();
      row[0] = 1;
      pool = mx::slice_update(pool, mx::zeros(row, mx::float32), start, stop);
    };
    clear(layer.state);
    clear(layer.log);
    mx::eval(layer.state, layer.log);
  }
}

namespace {

struct MlxSnapshot final : SlotSnapshot {
  std::vector<mx::array> rows;  // per layer: state, log; one slot each
  int64_t bytes() const override {
    int64_t total = 0;
    for (const mx::array& row : rows) total += static_cast<int64_t>(row.nbytes());
    return total;
  }
};

// Where a slot lies in a pool.
std::pair<mx::Shape, mx::Shape> range_of_slot(const mx::array& pool, int64_t slot) {
  mx::Shape start(pool.ndim(), 0), stop = pool.shape();
  start[0] = dim(slot);
  stop[0] = dim(slot + 1);
  return {start, stop};
}

}  // namespace

std::unique_ptr<SlotSnapshot> MlxPools::save_slot(int64_t slot) const {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  auto out = std::make_unique<MlxSnapshot>();
  for (const StateArrays& layer : states)
    for (const mx::array* pool : {&layer.state, &layer.log}) {
      const auto [start, stop] = range_of_slot(*pool, slot);
      // A slice shares the pool's buffer, which then could not be updated in place: the product is
      // a buffer of its own.
      out->rows.push_back(mx::multiply(mx::slice(*pool, start, stop), mx::array(1.0f)));
    }
  mx::eval(out->rows);
  return out;
}

void MlxPools::restore_slot(int64_t slot, const SlotSnapshot& snapshot) {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  const auto* own = dynamic_cast<const MlxSnapshot*>(&snapshot);
  DECANT_ASSERT(
      own != nullptr && own->rows.size() == 2 * states.size() && own->bytes() == spec_.slot_bytes(),
      "a snapshot goes back into pools of its specs");
  size_t next = 0;
  for (StateArrays& layer : states) {
    for (mx::array* pool : {&layer.state, &layer.log}) {
      const auto [start, stop] = range_of_slot(*pool, slot);
      *pool = mx::slice_update(*pool, own->rows[next++], start, stop);
    }
    mx::eval(layer.state, layer.log);
  }
}

MlxPools& mlx_pools(Pools& pools) {
  auto* own = dynamic_cast<MlxPools*>(&pools);
  DECANT_ASSERT(own != nullptr, "programs of MLX run on pools of MLX");
  return *own;
}

}  // namespace decant::mlx

namespace decant {

void load_mlx_pools(Pools& pools, std::span<const KvPool> kv, std::span<const StatePool> states) {
  mlx::MlxPools& own = mlx::mlx_pools(pools);
  DECANT_ASSERT(kv.size() == own.kv.size() && states.size() == own.states.size(),
                "pools are loaded from pools of the same specs");
  for (size_t i = 0; i < kv.size(); ++i) {
    const KvPool& from = kv[i];
    const KvSpec& spec = from.spec;
    DECANT_ASSERT(spec == own.spec().kv[i] && from.dtype == own.spec().kv_dtype &&
                      from.pages == own.kv[i].keys.shape(0) - 1,
                  "a cache is loaded from one of its spec");
    const auto bytes = static_cast<size_t>(size_of(from.dtype));
    // The page beyond the last one is left zero.
    const auto load = [&](const std::byte* data, auto index_of) {
      return mlx::filled_array(
          own.kv[i].keys.shape(), mlx::to_mlx(from.dtype), [&](std::byte* out) {
            std::memset(out, 0, own.kv[i].keys.nbytes());
            for (int64_t page = 0; page < from.pages; ++page)
              for (int slot = 0; slot < kPageSize; ++slot)
                for (int head = 0; head < spec.kv_heads; ++head)
                  for (int d = 0; d < spec.head_dim; ++d, out += bytes)
                    std::memcpy(out,
                                data + static_cast<size_t>(index_of(page, head, slot, d)) * bytes,
                                bytes);
          });
    };
    own.kv[i].keys = load(from.keys, [&](int64_t page, int head, int slot, int d) {
      return spec.kind == KvKind::kRows ? from.row_index(page, head, slot, d)
                                        : from.key_index(page, head, slot, d);
    });
    if (spec.kind != KvKind::kPair) continue;
    own.kv[i].values = load(from.values, [&](int64_t page, int head, int slot, int d) {
      return from.value_index(page, head, slot, d);
    });
  }
  for (size_t i = 0; i < states.size(); ++i) {
    const StatePool& from = states[i];
    DECANT_ASSERT(from.spec == own.spec().states[i] && from.slots == own.spec().slots,
                  "a state is loaded from one of its spec");
    const auto load = [&](const mlx::mx::array& like, const float* data, int64_t count) {
      return mlx::filled_array(like.shape(), mlx::mx::float32, [&](std::byte* out) {
        std::memset(out, 0, like.nbytes());
        std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      });
    };
    own.states[i].state = load(own.states[i].state, from.state, from.slots * from.spec.width);
    own.states[i].log =
        load(own.states[i].log, from.log, from.slots * from.spec.log_tokens * from.spec.log_width);
  }
}

std::vector<float> read_mlx_state(const Pools& pools, int index) {
  const auto* own = dynamic_cast<const mlx::MlxPools*>(&pools);
  DECANT_ASSERT(own != nullptr, "the state of MLX is read from pools of MLX");
  const mlx::mx::array& state = own->states.at(static_cast<size_t>(index)).state;
  const int64_t count = own->spec().slots * own->spec().states[static_cast<size_t>(index)].width;
  const auto* data = state.data<float>();
  return {data, data + count};
}

}  // namespace decant
