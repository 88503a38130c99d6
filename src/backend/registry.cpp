#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/thread_team.h"
#include "backend/reference/reference_backend.h"
#ifdef DECANT_HAVE_CUDA
#include "backend/cuda/cuda_backend.h"
#endif
#ifdef DECANT_HAVE_MLX
#include "backend/mlx/mlx_backend.h"
#endif

namespace decant {
namespace {

std::string cuda_reason() {
#ifdef DECANT_HAVE_CUDA
  return cuda_unavailable_reason();
#else
  return "this build has no CUDA backend (configure with -DDECANT_CUDA=ON)";
#endif
}

std::string mlx_reason() {
#ifdef DECANT_HAVE_MLX
  return {};
#else
  return "this build has no MLX backend (configure with -DDECANT_MLX=ON)";
#endif
}

[[noreturn]] void refuse(std::string_view name, const std::string& reason) {
  throw UsageError("[device] {}: not available: {}", name, reason);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> backend_list() {
  const auto state = [](const std::string& reason) {
    return reason.empty() ? std::string("available") : reason;
  };
  return {{"cpu", "available"},
          {"cuda", state(cuda_reason())},
          {"mlx", state(mlx_reason())},
          {"reference", "available"}};
}

CpuFacts cpu_facts() {
  CpuFacts out;
  out.threads = cpu::default_threads();
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512})
    out.sets.push_back({std::string(cpu::name_of(isa)), cpu::isa_available(isa), false});
  try {
    const std::string_view selected = cpu::name_of(cpu::selected_isa());
    for (CpuFacts::InstructionSet& set : out.sets) set.selected = set.name == selected;
  } catch (const UsageError& error) {
    out.problem = error.what();
  }
  return out;
}

std::unique_ptr<Backend> make_backend(std::string_view name, const BackendOptions& options) {
  // auto: the GPU and MLX backends hold a thin slice of the ops so far, so they are chosen only by
  // name.
  if (name == "cpu" || name == "auto") return make_cpu_backend(options);
  if (name == "reference") return make_reference_backend();
  if (name == "cuda") {
    if (const std::string reason = cuda_reason(); !reason.empty()) refuse(name, reason);
#ifdef DECANT_HAVE_CUDA
    return make_cuda_backend(options);
#endif
  }
  if (name == "mlx") {
    if (const std::string reason = mlx_reason(); !reason.empty()) refuse(name, reason);
#ifdef DECANT_HAVE_MLX
    return make_mlx_backend(options);
#endif
  }
  throw UsageError("[device] expected auto, cpu, cuda, mlx or reference, got {}", quote(name));
}

}  // namespace decant
