#include "checkpoint/transcode.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"

namespace decant {
namespace {

constexpr int64_t kTile = 16;  // words: a cache line
constexpr int64_t kCodes = 256;
constexpr std::array<int, 8> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};

const std::array<float, kCodes>& e4m3_values() {
  static const auto values = [] {
    std::array<float, kCodes> out{};
    for (size_t i = 0; i < out.size(); ++i) out[i] = e4m3_to_float(static_cast<uint8_t>(i));
    return out;
  }();
  return values;
}

float scale_at(const ScaleGrid& grid, int64_t index) {
  if (grid.dtype != DType::kF8E8M0) return load_float(grid.data, grid.dtype, index);
  return e8m0_to_float(std::to_integer<uint8_t>(grid.data[index]));
}

}  // namespace

void fp8_rows_to_bf16(const std::byte* in, const ScaleGrid& grid, int64_t begin, int64_t end,
                      int64_t cols, std::byte* out) {
  const auto& values = e4m3_values();
  const int64_t grid_rows = div_up(grid.matrix_rows, grid.block_rows);
  const int64_t grid_cols = div_up(cols, grid.block_cols);
  std::array<uint16_t, kCodes> table;
  for (int64_t row = begin; row < end;) {
    const int64_t matrix = row / grid.matrix_rows, inside = row % grid.matrix_rows;
    const int64_t block = inside / grid.block_rows;
    const int64_t left = std::min((block + 1) * grid.block_rows, grid.matrix_rows) - inside;
    const int64_t rows = std::min(left, end - row);
    const int64_t scales = (matrix * grid_rows + block) * grid_cols;
    for (int64_t c = 0; c < grid_cols; ++c) {
      const float scale = scale_at(grid, scales + c);
      const int64_t first = c * grid.block_cols;
      const int64_t width = std::min(grid.block_cols, cols - first);
      const bool by_table = rows * width >= kCodes;
      if (by_table)
        for (size_t i = 0; i < table.size(); ++i) table[i] = float_to_bf16(values[i] * scale);
      for (int64_t r = 0; r < rows; ++r) {
        const std::byte* from = in + (row + r) * cols + first;
        std::byte* to = out + ((row - begin + r) * cols + first) * 2;
        for (int64_t i = 0; i < width; ++i) {
          const auto code = std::to_integer<size_t>(from[i]);
          const uint16_t bits = by_table ? table[code] : float_to_bf16(values[code] * scale);
          std::memcpy(to + i * 2, &bits, 2);
        }
      }
    }
    row += rows;
  }
}

void transpose_words(const std::byte* in, int64_t words, int64_t total, int64_t begin, int64_t end,
                     std::byte* out) {
  for (int64_t o = begin; o < end; o += kTile)
    for (int64_t w = 0; w < words; w += kTile)
      for (int64_t i = w; i < std::min(w + kTile, words); ++i)
        for (int64_t j = o; j < std::min(o + kTile, end); ++j)
          std::memcpy(out + ((j - begin) * words + i) * 4, in + (i * total + j) * 4, 4);
}

int awq_shift(int64_t index) {
  const auto at = std::find(kAwqOrder.begin(), kAwqOrder.end(), static_cast<int>(index));
  return static_cast<int>(at - kAwqOrder.begin()) * 4;
}

void transpose_awq(const std::byte* in, int64_t cols, int64_t total, int64_t begin, int64_t end,
                   std::byte* out) {
  const int64_t in_words = total / 8, out_words = cols / 8;
  using Lanes = std::array<uint32_t, kTile>;  // of words beside each other
  std::array<Lanes, 8> block{};               // by input; afterwards by place in the word
  // Swaps the fields of `shift` bits above in `a` with those below in `b`.
  const auto swap = [](Lanes& a, Lanes& b, int shift, uint32_t mask) {
    for (size_t i = 0; i < a.size(); ++i) {
      const uint32_t other = ((a[i] >> shift) ^ b[i]) & mask;
      b[i] ^= other;
      a[i] ^= other << shift;
    }
  };
  for (int64_t o = begin / 8; o < end / 8; o += kTile) {
    const int64_t lanes = std::min(kTile, end / 8 - o);
    for (int64_t k = 0; k < out_words; ++k) {
      for (int64_t i = 0; i < 8; ++i)
        std::memcpy(block[static_cast<size_t>(i)].data(), in + ((k * 8 + i) * in_words + o) * 4,
                    static_cast<size_t>(lanes * 4));
      for (size_t i = 0; i < 8; i += 2) swap(block[i], block[i + 1], 4, 0x0F0F0F0Fu);
      for (size_t i : {0u, 1u, 4u, 5u}) swap(block[i], block[i + 2], 8, 0x00FF00FFu);
      for (size_t i = 0; i < 4; ++i) swap(block[i], block[i + 4], 16, 0x0000FFFFu);
      for (int64_t place = 0; place < 8; ++place) {
        const Lanes& words = block[static_cast<size_t>(place)];
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t row = (o + lane) * 8 + kAwqOrder[static_cast<size_t>(place)] - begin;
          std::memcpy(out + (row * out_words + k) * 4, &words[static_cast<size_t>(lane)], 4);
        }
      }
    }
  }
}

}  // namespace decant
