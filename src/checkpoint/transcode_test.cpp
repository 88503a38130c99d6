#include "checkpoint/transcode.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/checked.h"

namespace decant {
namespace {

std::vector<std::byte> random_bytes(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(count);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random() & 255u);
  return out;
}

uint32_t nibble(const std::vector<std::byte>& words, int64_t word, int64_t place) {
  uint32_t value;
  std::memcpy(&value, words.data() + word * 4, 4);
  return value >> (4 * place) & 15u;
}

// Every element under scales of every type, with partial blocks, several matrices and cuts that
// fall inside a block.
TEST(Transcode, Fp8RowsAreProductsRoundedOnce) {
  const int64_t matrices = 2, rows = 19, cols = 70;
  const std::vector<std::byte> codes = random_bytes(static_cast<size_t>(matrices * rows * cols), 3);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E8M0})
    for (const auto& [block_rows, block_cols] :
         {std::pair<int64_t, int64_t>{8, 32}, {1, 70}, {19, 70}, {1, 3}}) {
      const int64_t grid_cols = div_up(cols, block_cols), grid_rows = div_up(rows, block_rows);
      const int64_t scales = matrices * grid_rows * grid_cols;
      std::vector<std::byte> plane(static_cast<size_t>(scales * size_of(dtype)));
      std::vector<float> values;
      std::mt19937 random(7);
      for (int64_t i = 0; i < scales; ++i) {
        const float value = static_cast<float>(random() % 5000 + 1) / 65536.0f;
        const auto bf16 = float_to_bf16(value), f16 = float_to_f16(value);
        const auto e8m0 = static_cast<uint8_t>(100 + random() % 40);
        if (dtype == DType::kF32) std::memcpy(plane.data() + i * 4, &value, 4);
        if (dtype == DType::kBF16) std::memcpy(plane.data() + i * 2, &bf16, 2);
        if (dtype == DType::kF16) std::memcpy(plane.data() + i * 2, &f16, 2);
        if (dtype == DType::kF8E8M0) std::memcpy(plane.data() + i, &e8m0, 1);
        values.push_back(dtype == DType::kF8E8M0 ? e8m0_to_float(e8m0)
                                                 : load_float(plane.data(), dtype, i));
      }
      const ScaleGrid grid{plane.data(), dtype, rows, block_rows, block_cols};
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 38}, {5, 31}, {20, 21}}) {
        std::vector<std::byte> out(static_cast<size_t>((end - begin) * cols * 2));
        fp8_rows_to_bf16(codes.data(), grid, begin, end, cols, out.data());
        for (int64_t row = begin; row < end; ++row)
          for (int64_t col = 0; col < cols; ++col) {
            const float scale = values[static_cast<size_t>(
                (row / rows * grid_rows + row % rows / block_rows) * grid_cols + col / block_cols)];
            const float element = e4m3_to_float(
                std::to_integer<uint8_t>(codes[static_cast<size_t>(row * cols + col)]));
            uint16_t got;
            std::memcpy(&got, out.data() + ((row - begin) * cols + col) * 2, 2);
            ASSERT_EQ(got, float_to_bf16(element * scale))
                << name_of(dtype) << " block " << block_rows << "x" << block_cols << " at " << row
                << "," << col;
          }
      }
    }
}

TEST(Transcode, AwqBecomesRowsOfOutputs) {
  for (const auto& [cols, total] : {std::pair<int64_t, int64_t>{64, 8}, {32, 264}, {96, 128}}) {
    const auto words = random_bytes(static_cast<size_t>(cols * total / 2), 11);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, total}, {total / 16 * 8, total}}) {
      std::vector<std::byte> out(static_cast<size_t>((end - begin) * cols / 2));
      transpose_awq(words.data(), cols, total, begin, end, out.data());
      for (int64_t row = begin; row < end; ++row)
        for (int64_t col = 0; col < cols; ++col) {
          constexpr int kPlaces[] = {0, 4, 1, 5, 2, 6, 3, 7};  // of output 0, 1, ... in a word
          ASSERT_EQ(nibble(out, ((row - begin) * cols + col) / 8, col % 8),
                    nibble(words, col * (total / 8) + row / 8, kPlaces[row % 8]))
              << row << "," << col;
        }
    }
  }
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(awq_shift(i), (i % 2 * 4 + i / 2) * 4);
}

TEST(Transcode, WordsAreTransposed) {
  const int64_t words = 21, total = 37;
  const auto in = random_bytes(static_cast<size_t>(words * total * 4), 5);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 37}, {16, 35}}) {
    std::vector<std::byte> out(static_cast<size_t>((end - begin) * words * 4));
    transpose_words(in.data(), words, total, begin, end, out.data());
    for (int64_t row = begin; row < end; ++row)
      for (int64_t word = 0; word < words; ++word)
        ASSERT_EQ(std::memcmp(out.data() + ((row - begin) * words + word) * 4,
                              in.data() + (word * total + row) * 4, 4),
                  0);
  }
}

}  // namespace
}  // namespace decant
