#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/launch.h"

namespace decant::cuda {

/// Errors: RuntimeError naming `call` and the runtime's reason; MemoryError where it is that the
/// device's memory is used up.
void check(cudaError_t status, std::string_view call);

/// The device all objects here live on, and the one stream they use in order.
class Device {
 public:
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  /// Makes it the calling thread's device: the first thing every entry point does.
  void use() const { check(cudaSetDevice(index_), "cudaSetDevice"); }
  cudaStream_t stream() const { return stream_; }
  void finish() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  int index_;
  cudaStream_t stream_ = nullptr;
};

/// Bytes in device memory; empty for 0 bytes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// `what` names the use in the MemoryError.
  DeviceBuffer(int64_t bytes, std::string_view what);
  ~DeviceBuffer() { release(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  void release();

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Page-locked host memory: what asynchronous copies need.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// The memory programs of one backend take turns in. It may move while it grows, which the
/// generation tells: what was captured before must be captured again.
struct Arena {
  DeviceBuffer memory;
  int generation = 0;
  const void* last_run = nullptr;  // the program whose results lie here
  void reserve(int64_t bytes);
};

/// A weight in device memory, its tables behind each other, plane by plane.
class DeviceWeight {
 public:
  /// Errors: RuntimeError naming the weight where its format has no kernel.
  explicit DeviceWeight(const Weight& weight);
  const Matrix& matrix() const { return matrix_; }

 private:
  DeviceBuffer memory_;
  Matrix matrix_;
};

/// Uploads each weight once for as long as a program holds it.
class WeightCache {
 public:
  std::shared_ptr<const DeviceWeight> get(const Weight& weight);

 private:
  std::map<const Weight*, std::weak_ptr<const DeviceWeight>> weights_;
};

/// Pools in device memory.
class DevicePools final : public CudaPools {
 public:
  DevicePools(std::shared_ptr<const Device> device, PoolSpec spec);
  const PoolSpec& spec() const override { return spec_; }
  void reset_slot(int64_t slot) override;
  std::unique_ptr<SlotSnapshot> save_slot(int64_t slot) const override;
  void restore_slot(int64_t slot, const SlotSnapshot& snapshot) override;
  void load(int index, const KvPool& from) override;
  void store(int index, const KvPool& to) const override;
  void load(int index, const StatePool& from) override;
  void store(int index, const StatePool& to) const override;
  KvView kv(int index) const;
  StateView state(int index) const;

 private:
  struct Kv {
    DeviceBuffer keys, values;
  };
  struct State {
    DeviceBuffer state, log;
  };
  void expect_same(const KvPool& pool, size_t index) const;
  void expect_same(const StatePool& pool, size_t index) const;
  std::shared_ptr<const Device> device_;
  PoolSpec spec_;
  std::vector<Kv> kv_;
  std::vector<State> states_;
};

}  // namespace decant::cuda
