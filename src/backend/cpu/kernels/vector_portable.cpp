#include "backend/cpu/kernels/vector_internal.h"

// clang-format off: each part needs the one before it
#define DECANT_LANES 4
#include "backend/cpu/kernels/vector_simd.inc"
#include "backend/cpu/kernels/vector_math.inc"
#include "backend/cpu/kernels/vector_kernels.inc"
#include "backend/cpu/kernels/attention_kernels.inc"
#include "backend/cpu/kernels/recurrent_kernels.inc"
#include "backend/cpu/kernels/latent_kernels.inc"
#include "backend/cpu/kernels/picture_kernels.inc"
#include "backend/cpu/kernels/frame_kernels.inc"
// clang-format on

namespace decant::cpu::detail {
namespace {
constexpr VectorKernels kVectorKernels = DECANT_VECTOR_TABLE(Isa::kPortable);
}  // namespace

const VectorKernels* portable_vector_kernels() { return &kVectorKernels; }

}  // namespace decant::cpu::detail
