#pragma once

#include "backend/cpu/kernels/vector_kernels.h"
#include "ops/attention.h"
#include "ops/gated_delta.h"

namespace decant::cpu::detail {

/// Tables of the instruction sets; null where this build has none (another processor family).
const VectorKernels* portable_vector_kernels();
const VectorKernels* avx2_vector_kernels();
const VectorKernels* avx512_vector_kernels();

}  // namespace decant::cpu::detail
