#pragma once

#include <memory>

#include "backend/backend.h"

namespace decant {

/// Runs the reference kernels of the ops, everything in host memory, one node after the other. The
/// yardstick of every other backend; never chosen unless asked for.
std::unique_ptr<Backend> make_reference_backend();

/// Pools in host memory, laid out as KvPool and StatePool say; used by the reference and the CPU.
class HostPools : public Pools {
 public:
  /// Errors: MemoryError when the memory cannot be had.
  explicit HostPools(PoolSpec spec);
  ~HostPools() override;
  const PoolSpec& spec() const override { return spec_; }
  void reset_slot(int64_t slot) override;
  std::unique_ptr<SlotSnapshot> save_slot(int64_t slot) const override;
  void restore_slot(int64_t slot, const SlotSnapshot& snapshot) override;
  std::span<KvPool> kv() { return kv_; }
  std::span<StatePool> states() { return states_; }

 private:
  PoolSpec spec_;
  std::byte* memory_ = nullptr;
  int64_t bytes_ = 0;
  std::vector<KvPool> kv_;
  std::vector<StatePool> states_;
};

}  // namespace decant
