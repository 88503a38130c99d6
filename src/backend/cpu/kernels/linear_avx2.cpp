#include "backend/cpu/kernels/linear_internal.h"

#if defined(__AVX2__)

#include "backend/cpu/kernels/linear_simd_kernels.h"

namespace decant::cpu::detail {
namespace {
constexpr LinearKernels kKernels = {Isa::kAvx2, quantize_rows, int8, f32, decode_row};
}  // namespace

const LinearKernels* avx2_kernels() { return &kKernels; }

}  // namespace decant::cpu::detail

#else

namespace decant::cpu::detail {
const LinearKernels* avx2_kernels() { return nullptr; }
}  // namespace decant::cpu::detail

#endif
