#include "tensor/format.h"

#include <fmt/format.h>

namespace decant {

Format Format::dense(DType dtype) {
  return {Kind::kDense, dtype, static_cast<int>(size_of(dtype) * 8), 0};
}

Format Format::affine(int bits, int group, DType scale_dtype) {
  return {Kind::kAffine, scale_dtype, bits, group};
}

Format Format::mxfp4() { return {Kind::kMxfp4, DType::kU8, 4, 32}; }
Format Format::mxfp8() { return {Kind::kMxfp8, DType::kU8, 8, 32}; }
Format Format::nvfp4() { return {Kind::kNvfp4, DType::kU8, 4, 16}; }

int64_t Format::scale_row_bytes(int64_t cols) const {
  switch (kind) {
    case Kind::kDense:
      return 0;
    case Kind::kAffine:
      return cols / group * size_of(dtype);
    case Kind::kMxfp4:
    case Kind::kMxfp8:
    case Kind::kNvfp4:
      return cols / group;
  }
  return 0;
}

std::string Format::name() const {
  switch (kind) {
    case Kind::kDense:
      return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
    case Kind::kAffine:
      return fmt::format("{}bit-g{}", bits, group);
    case Kind::kMxfp4:
      return "mxfp4";
    case Kind::kMxfp8:
      return "mxfp8";
    case Kind::kNvfp4:
      return "nvfp4";
  }
  return "?";
}

bool affine_supported(int bits, int group) {
  return (bits >= 1 && bits <= 8 && bits != 7) && (group == 32 || group == 64 || group == 128);
}

}  // namespace decant
