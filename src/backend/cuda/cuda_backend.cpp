#include "backend/cuda/cuda_backend.h"

#include "backend/cuda/cuda_program.h"
#include "base/units.h"

namespace decant {
namespace {

constexpr int kDevice = 0;

class CudaBackend final : public Backend {
 public:
  CudaBackend()
      : device_(std::make_shared<cuda::Device>(kDevice)), arena_(std::make_shared<cuda::Arena>()) {
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, kDevice), "cudaGetDeviceProperties");
    description_ = fmt::format("{}, sm_{}{}, {} multiprocessors, {}", properties.name,
                               properties.major, properties.minor, properties.multiProcessorCount,
                               format_bytes(properties.totalGlobalMem));
  }
  std::string_view name() const override { return "cuda"; }
  std::string description() const override { return description_; }
  std::unique_ptr<Pools> make_pools(const PoolSpec& spec) override {
    device_->use();
    return std::make_unique<cuda::DevicePools>(device_, spec);
  }
  std::unique_ptr<Program> compile(const Graph& graph, Pools& pools,
                                   const CompileOptions& options) override {
    auto* own = dynamic_cast<cuda::DevicePools*>(&pools);
    DECANT_ASSERT(own != nullptr, "a program runs on pools of its own backend");
    if (options.reference)
      throw RuntimeError("[cuda] route reference: expected a backend in host memory, got cuda");
    device_->use();
    return std::make_unique<cuda::CudaProgram>(device_, arena_, weights_, graph, *own);
  }
  int64_t free_bytes() const override {
    device_->use();
    size_t free = 0, total = 0;
    cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(free);
  }

 private:
  std::shared_ptr<const cuda::Device> device_;
  std::shared_ptr<cuda::Arena> arena_;
  cuda::WeightCache weights_;
  std::string description_;
};

}  // namespace

std::string cuda_unavailable_reason() {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count == 0) status = cudaErrorNoDevice;
  int major = 0, minor = 0;
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, kDevice);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, kDevice);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return fmt::format("no usable CUDA device: {}", cudaGetErrorString(status));
  }
  if (major < 8)
    return fmt::format("device {}: expected sm_80 or later, got sm_{}{}", kDevice, major, minor);
  return {};
}

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions&) {
  if (const std::string reason = cuda_unavailable_reason(); !reason.empty())
    throw UsageError("[cuda] backend: {}", reason);
  return std::make_unique<CudaBackend>();
}

}  // namespace decant
