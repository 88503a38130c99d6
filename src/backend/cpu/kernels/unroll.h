#pragma once

// Loops over arrays that must live in registers: GCC keeps an array in memory unless every index is
// a constant when it looks, which takes complete unrolling inside one function.

#define DECANT_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define DECANT_UNROLL _Pragma("unroll")
#else
#define DECANT_UNROLL _Pragma("GCC unroll 16")
#endif
