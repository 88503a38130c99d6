#include "backend/cpu/kernels/linear_internal.h"

#if defined(__AVX512VNNI__)

#include "backend/cpu/kernels/linear_simd_kernels.h"

namespace decant::cpu::detail {
namespace {
constexpr LinearKernels kKernels = {Isa::kAvx512, quantize_rows, int8, f32, decode_row};
}  // namespace

const LinearKernels* avx512_kernels() { return &kKernels; }

}  // namespace decant::cpu::detail

#else

namespace decant::cpu::detail {
const LinearKernels* avx512_kernels() { return nullptr; }
}  // namespace decant::cpu::detail

#endif
