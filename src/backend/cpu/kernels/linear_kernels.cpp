#include "backend/cpu/kernels/linear_kernels.h"

#include <array>
#include <cstdlib>
#include <string>
#include <utility>

#include "backend/cpu/kernels/linear_internal.h"
#include "base/checked.h"
#include "base/errors.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace decant::cpu {
namespace {

struct Features {
  bool avx2 = false;
  bool avx512 = false;
};

#if defined(__x86_64__)
constexpr bool bit(uint32_t word, int index) { return (word >> index & 1u) != 0; }

/// What the processor has and the operating system saves: the upper halves of the vector registers
/// survive a context switch only if XCR0 says so.
Features probe() {
  Features out;
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return out;
  const bool fma = bit(c, 12);
  const bool osxsave = bit(c, 27);
  const bool avx = bit(c, 28);
  const bool f16c = bit(c, 29);
  if (!osxsave || !avx) return out;
  uint32_t xcr0 = 0;
  uint32_t xcr0_high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
  if ((xcr0 & 0x6u) != 0x6u) return out;  // XMM and YMM state
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return out;
  out.avx2 = bit(b, 5) && fma && f16c;
  const bool zmm_state = (xcr0 & 0xE0u) == 0xE0u;  // opmask, upper ZMM, ZMM16-31
  out.avx512 = out.avx2 && zmm_state && bit(b, 16) /* F */ && bit(b, 17) /* DQ */ &&
               bit(b, 30) /* BW */ && bit(b, 31) /* VL */ && bit(c, 11) /* VNNI */;
  return out;
}
#else
Features probe() { return {}; }
#endif

const Features& features() {
  static const Features kFeatures = probe();
  return kFeatures;
}

const LinearKernels* table_of(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return detail::portable_kernels();
    case Isa::kAvx2:
      return detail::avx2_kernels();
    case Isa::kAvx512:
      return detail::avx512_kernels();
  }
  return nullptr;
}

constexpr std::array<Isa, 3> kStrongestFirst = {Isa::kAvx512, Isa::kAvx2, Isa::kPortable};

Isa select() {
  if (const char* text = std::getenv("DECANT_CPU_ISA"); text != nullptr && *text != '\0') {
    for (const Isa isa : kStrongestFirst) {
      if (name_of(isa) != text) continue;
      if (!isa_available(isa))
        throw UsageError("[cpu] DECANT_CPU_ISA: expected a set this processor has, got {}", text);
      return isa;
    }
    throw UsageError("[cpu] DECANT_CPU_ISA: expected portable, avx2 or avx512, got {}",
                     quote(text));
  }
  for (const Isa isa : kStrongestFirst)
    if (isa_available(isa)) return isa;
  return Isa::kPortable;
}

constexpr int64_t kAlign = 64;
int64_t value_bytes(int64_t rows, int64_t cols) { return round_up(rows * cols, kAlign); }
int64_t group_bytes(int64_t rows, int64_t cols) {
  return round_up(rows * (cols / QuantizedRows::kGroup) * int64_t{sizeof(float)}, kAlign);
}

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "?";
}

bool isa_available(Isa isa) {
  if (table_of(isa) == nullptr) return false;
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return features().avx2;
    case Isa::kAvx512:
      return features().avx512;
  }
  return false;
}

Isa selected_isa() { return select(); }

int64_t QuantizedRows::bytes(int64_t rows, int64_t cols) {
  return value_bytes(rows, cols) + 2 * group_bytes(rows, cols);
}

QuantizedRows QuantizedRows::over(std::byte* buffer, int64_t rows, int64_t cols) {
  QuantizedRows out;
  out.values = reinterpret_cast<int8_t*>(buffer);
  buffer += value_bytes(rows, cols);
  out.scales = reinterpret_cast<float*>(buffer);
  buffer += group_bytes(rows, cols);
  out.sums = reinterpret_cast<float*>(buffer);
  out.cols = cols;
  return out;
}

bool int8_supported(const Format& format, int64_t cols) {
  switch (format.kind) {
    case Format::Kind::kAffine:
      return affine_supported(format.bits, format.group) && cols % format.group == 0;
    case Format::Kind::kMxfp4:
    case Format::Kind::kNvfp4:
      return cols % QuantizedRows::kGroup == 0;
    case Format::Kind::kDense:
    case Format::Kind::kMxfp8:
      break;
  }
  return false;
}

const LinearKernels& linear_kernels(Isa isa) {
  DECANT_ASSERT(isa_available(isa), "kernels are asked for an available instruction set");
  return *table_of(isa);
}

namespace detail {

void check_int8(const MatrixView& w, const QuantizedRows& x, int64_t row_begin, int64_t row_end) {
  DECANT_ASSERT(int8_supported(w.format, w.cols),
                "the int8 route takes whole groups of affine, mxfp4 and nvfp4 weights");
  DECANT_ASSERT(w.cols == x.cols, "columns are as many as the activations have");
  DECANT_ASSERT(row_begin >= 0 && row_end <= w.rows, "a row range lies within the weight");
}

void check_f32(const MatrixView& w, int64_t row_begin, int64_t row_end) {
  const bool dense = w.format.is_dense() && is_dense_float(w.format.dtype);
  const bool affine =
      w.format.kind == Format::Kind::kAffine && affine_supported(w.format.bits, w.format.group);
  const bool packed = (affine || w.format.is_micro()) && w.cols % w.format.group == 0;
  DECANT_ASSERT(dense || packed,
                "the f32 route takes dense weights and packed ones of whole groups");
  DECANT_ASSERT(row_begin >= 0 && row_end <= w.rows, "a row range lies within the weight");
}

}  // namespace detail
}  // namespace decant::cpu
