#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace decant {

/// Why CUDA cannot be used on this machine (no driver, no device, a device older than sm_80), or
/// empty if it can. Never throws; needs no driver to be present.
std::string cuda_unavailable_reason();

/// Device 0. Errors: UsageError with cuda_unavailable_reason() where that is not empty.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options);

/// Pools in device memory, laid out byte for byte as KvPool and StatePool lie in host memory. What
/// make_pools of the CUDA backend returns; tests and state snapshots reach the bytes through it.
class CudaPools : public Pools {
 public:
  /// Copies whole pools between host memory of the same spec and the device. Errors: RuntimeError.
  virtual void load(int index, const KvPool& from) = 0;
  virtual void store(int index, const KvPool& to) const = 0;
  virtual void load(int index, const StatePool& from) = 0;
  virtual void store(int index, const StatePool& to) const = 0;
};

}  // namespace decant
