#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace decant {

/// Element types of tensors in files and of activations. Names are those of the safetensors format.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF64,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kI8,
  kU8,
  kI16,
  kU16,
  kI32,
  kU32,
  kI64,
  kU64,
  kBool
};

/// Bytes of one element.
constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
    case DType::kU16:
      return 2;
    default:
      return 1;
  }
}

/// "F32", "BF16", ...: the spelling of safetensors files.
std::string_view name_of(DType dtype);
/// The type a safetensors name stands for, if we know it.
std::optional<DType> dtype_from_name(std::string_view name);
/// True for f32, f16 and bf16: the types a dense weight may have.
constexpr bool is_dense_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

inline float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Round to nearest even; NaN stays a quiet NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

float f16_to_float(uint16_t bits);
/// Round to nearest even, subnormals and infinities included.
uint16_t float_to_f16(float value);
/// OCP E4M3 (no infinities; 0x7f and 0xff are NaN, whose sign is kept).
float e4m3_to_float(uint8_t bits);
/// Round to nearest even; what passes 448 becomes 448. Not for NaN.
uint8_t float_to_e4m3(float value);

/// The scale of the mx formats as MLX reads it: 2^(bits - 127) down to 2^-127, 255 is infinity.
inline float e8m0_to_float(uint8_t bits) {
  return std::bit_cast<float>(bits == 0 ? 0x00400000u : static_cast<uint32_t>(bits) << 23);
}

/// The 4-bit element 0, 0.5, 1, 1.5, 2, 3, 4, 6 with its sign in bit 3.
inline float e2m1_to_float(uint8_t bits) {
  constexpr float kValues[] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  return kValues[bits & 15];
}

/// Element `index` of a dense f32, f16 or bf16 array at an address of any alignment.
inline float load_float(const std::byte* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, 2);
  return dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

}  // namespace decant
