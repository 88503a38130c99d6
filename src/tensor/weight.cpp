#include "tensor/weight.h"

namespace decant {
namespace {

void dequantize_micro(const MatrixView& matrix, const std::byte* data, const std::byte* scales,
                      float* out) {
  const Format& format = matrix.format;
  for (int64_t i = 0; i < matrix.cols; ++i) {
    const auto code = static_cast<uint8_t>(scales[i / format.group]);
    const float scale = format.kind == Format::Kind::kNvfp4
                            ? e4m3_to_float(code) * matrix.tensor_scale
                            : e8m0_to_float(code);
    const auto byte = static_cast<uint8_t>(data[i * format.bits / 8]);
    const float element = format.bits == 8
                              ? e4m3_to_float(byte)
                              : e2m1_to_float(static_cast<uint8_t>(i % 2 == 0 ? byte : byte >> 4));
    out[i] = element * scale;
  }
}

}  // namespace

MatrixView MatrixView::slice_rows(int64_t begin, int64_t count) const {
  DECANT_ASSERT(begin >= 0 && count >= 0 && begin + count <= rows,
                "a row slice lies within its matrix");
  MatrixView out = *this;
  out.data += begin * format.data_row_bytes(cols);
  if (scales != nullptr) out.scales += begin * format.scale_row_bytes(cols);
  if (biases != nullptr) out.biases += begin * format.bias_row_bytes(cols);
  out.rows = count;
  return out;
}

void dequantize_row(const MatrixView& matrix, int64_t row, float* out) {
  const Format& format = matrix.format;
  const std::byte* data = matrix.data + row * format.data_row_bytes(matrix.cols);
  if (format.is_dense()) {
    for (int64_t i = 0; i < matrix.cols; ++i) out[i] = load_float(data, format.dtype, i);
    return;
  }
  const std::byte* scales = matrix.scales + row * format.scale_row_bytes(matrix.cols);
  if (format.is_micro()) return dequantize_micro(matrix, data, scales, out);
  const std::byte* biases = matrix.biases + row * format.bias_row_bytes(matrix.cols);
  for (int64_t i = 0; i < matrix.cols; ++i) {
    // A little-endian bit stream, lowest bits first: an element lies in at most two bytes.
    const int64_t bit = i * format.bits;
    uint32_t word = static_cast<uint32_t>(data[bit / 8]);
    if (bit % 8 + format.bits > 8) word |= static_cast<uint32_t>(data[bit / 8 + 1]) << 8;
    const uint32_t code = word >> (bit % 8) & ((1u << format.bits) - 1u);
    const float product =
        load_float(scales, format.dtype, i / format.group) * static_cast<float>(code);
    out[i] = product + load_float(biases, format.dtype, i / format.group);
  }
}

int64_t Weight::bytes() const {
  int64_t total = 0;
  for (const MatrixView& part : views) total += part.rows * part.format.row_bytes(part.cols);
  return total;
}

}  // namespace decant
