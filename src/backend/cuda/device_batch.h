#pragma once

#include "backend/cuda/device_memory.h"

namespace decant::cuda {

/// A program's Batch in device memory. The fields lie at fixed addresses; the page tables come last
/// and unpadded, so that one copy of the used part brings a step over.
class DeviceBatch {
 public:
  DeviceBatch(const Capacity& capacity, const PoolSpec& pools);
  const BatchView& view() const { return view_; }
  /// Enqueues the copy of this batch. The copy of the batch before must be over. Errors:
  /// InternalError where the batch does not fit the capacity or the pools.
  void upload(const Batch& batch, cudaStream_t stream);

 private:
  template <typename T>
  T* host(const T* device) const {
    return reinterpret_cast<T*>(staging_->data() +
                                (reinterpret_cast<const std::byte*>(device) - memory_.data()));
  }
  Capacity capacity_;
  std::vector<int64_t> pages_per_group_;
  DeviceBuffer memory_;
  std::unique_ptr<PinnedBuffer> staging_;
  BatchView view_{};
};

}  // namespace decant::cuda
