#include "backend/cpu/kernels/vector_kernels.h"

#include "backend/cpu/kernels/vector_internal.h"
#include "base/errors.h"

namespace decant::cpu {

const VectorKernels& vector_kernels(Isa isa) {
  DECANT_ASSERT(isa_available(isa), "kernels are asked for an available instruction set");
  const VectorKernels* table = nullptr;
  switch (isa) {
    case Isa::kPortable:
      table = detail::portable_vector_kernels();
      break;
    case Isa::kAvx2:
      table = detail::avx2_vector_kernels();
      break;
    case Isa::kAvx512:
      table = detail::avx512_vector_kernels();
      break;
  }
  DECANT_ASSERT(table != nullptr, "an available instruction set has vector kernels");
  return *table;
}

}  // namespace decant::cpu
