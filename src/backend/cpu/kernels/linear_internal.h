#pragma once

#include "backend/cpu/kernels/linear_kernels.h"

namespace decant::cpu::detail {

/// Tables of the instruction sets; null where this build has none (another processor family).
const LinearKernels* portable_kernels();
const LinearKernels* avx2_kernels();
const LinearKernels* avx512_kernels();

/// Refuses operands no kernel is written for. Not inline: sources compiled for an instruction set
/// may not emit functions that the linker could share with the others.
void check_int8(const MatrixView& w, const QuantizedRows& x, int64_t row_begin, int64_t row_end);
void check_f32(const MatrixView& w, int64_t row_begin, int64_t row_end);

}  // namespace decant::cpu::detail
