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

}  // namespace decant
