#include "cpu_layouts.h"

#if defined(__AVX2__)
#include "cpu_layouts_simd.h"

namespace decant::bench {
InterleavedProduct interleaved_avx2() { return cpu::detail::interleaved_product; }
}  // namespace decant::bench
#else
namespace decant::bench {
InterleavedProduct interleaved_avx2() { return nullptr; }
}  // namespace decant::bench
#endif
