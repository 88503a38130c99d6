#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/mlx/mlx_arrays.h"

namespace decant::mlx {

/// Keys and values of one layer, [pages + 1, kPageSize, heads, dim]: token-major, unlike host
/// pools, so that one token is one run of memory. The last page takes what padding rows write and
/// stands for absent pages.
struct KvArrays {
  mx::array keys;
  mx::array values;
};

/// [slots + 1, width] and [slots + 1, log_tokens, log_width]; the last slot is that of padding.
struct StateArrays {
  mx::array state;
  mx::array log;
};

/// Caches as evaluated arrays. A step takes handles, and hands back the versions it made; because
/// no other handle is left when it is evaluated, MLX updates keys and values in place. Recurrent
/// state is read before it is written in the same step, so its update may find the reader still
/// queued and copy the layer's pool.
class MlxPools final : public Pools {
 public:
  /// Errors: MemoryError when they do not fit.
  explicit MlxPools(PoolSpec spec);
  const PoolSpec& spec() const override { return spec_; }
  void reset_slot(int64_t slot) override;
  std::unique_ptr<SlotSnapshot> save_slot(int64_t slot) const override;
  void restore_slot(int64_t slot, const SlotSnapshot& snapshot) override;

  /// Set while a step that updates the caches runs, and left set when it failed: their buffers may
  /// have been given away by then.
  bool lost = false;
  std::vector<KvArrays> kv;
  std::vector<StateArrays> states;

 private:
  PoolSpec spec_;
};

/// The pools of this backend. Errors: InternalError for those of another.
MlxPools& mlx_pools(Pools& pools);

}  // namespace decant::mlx
