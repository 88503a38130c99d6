#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cpu/kernels/linear_kernels.h"

namespace decant {

/// The CPU: weights are read where they are mapped, products take int8 activations unless exact.
/// Errors: UsageError when DECANT_CPU_ISA names what this processor lacks.
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);
/// The same with a given instruction set, for tests.
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options, cpu::Isa isa);

namespace cpu {
/// Best of `rounds` read-only sums over `bytes` of memory with all threads of a team: the yardstick
/// of decode. GB/s.
double read_bandwidth(int threads, int64_t bytes = int64_t{1} << 30, int rounds = 5);
}  // namespace cpu

}  // namespace decant
