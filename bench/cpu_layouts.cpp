// Which layout the decode weights should have: row-major as mapped (the product kernels) against
// rows interleaved by 16. Each repetition times a read probe, row-major and interleaved in turn
// over weights larger than any cache; shares and the ratio are medians over repetitions, in
// processor time (bench_common.h). Both give the same bits, which is checked first. Prints CSV.
//
//   cpu_layouts [--repeat N]

#include "cpu_layouts.h"

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/errors.h"
#include "bench_common.h"

namespace decant::bench {
namespace {

constexpr int64_t kWorkingSet = int64_t{160} << 20;
constexpr int64_t kTileRows = 64;

struct Shape2 {
  const char* model;
  int64_t rows;
  int64_t cols;
};

constexpr Shape2 kShapes[] = {
    {"qwen3-4b", 9728, 2560},   {"qwen3-4b", 2560, 9728},   {"qwen3-4b", 4096, 2560},
    {"qwen3-0.6b", 3072, 1024}, {"qwen3-0.6b", 1024, 3072}, {"qwen3-0.6b", 2048, 1024},
};

MatrixView row_major(std::byte* at, int bits, const Shape2& shape) {
  MatrixView w;
  w.format = Format::affine(bits, 64);
  w.rows = shape.rows;
  w.cols = shape.cols;
  w.data = at;
  w.scales = at + w.rows * w.format.data_row_bytes(w.cols);
  w.biases = w.scales + w.rows * w.format.scale_row_bytes(w.cols);
  return w;
}

void interleave(const MatrixView& w, std::byte* out) {
  const int bits = w.format.bits;
  const int64_t groups = w.cols / 64;
  const int64_t group_bytes = interleaved_group_bytes(bits);
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      std::byte* to = out + (r / 16 * groups + g) * group_bytes;
      std::memcpy(to + r % 16 * 2, w.scales + (r * groups + g) * 2, 2);
      std::memcpy(to + 32 + r % 16 * 2, w.biases + (r * groups + g) * 2, 2);
      const std::byte* from = w.data + r * w.format.data_row_bytes(w.cols) + g * 64 * bits / 8;
      for (int64_t q = 0; q < (bits == 4 ? 8 : 16); ++q) {
        std::byte* word = to + 64 + q * 64 + r % 16 * 4;
        if (bits == 8) {
          std::memcpy(word, from + q * 4, 4);
          continue;
        }
        const auto code = [&](int64_t c) {
          return from[q * 4 + c / 2] >> (c % 2 * 4) & std::byte{15};
        };
        for (int64_t c = 0; c < 4; ++c) word[c] = code(c) | code(c + 4) << 4;
      }
    }
  }
}

void run_case(cpu::Isa isa, InterleavedProduct product, Team& team, int threads, int repeat,
              const Pages& first, const Pages& second, int bits, const Shape2& shape,
              int64_t count) {
  const cpu::LinearKernels& kernels = cpu::linear_kernels(isa);
  const int64_t bytes = shape.rows * Format::affine(bits, 64).row_bytes(shape.cols);
  const int64_t stride = (bytes + 4095) / 4096 * 4096 + 4096;
  const int64_t copies = first.bytes() / stride;
  std::vector<MatrixView> rows;
  std::vector<Interleaved> blocks;
  for (int64_t i = 0; i < copies; ++i) {
    rows.push_back(row_major(first.data() + i * stride + 8, bits, shape));
    std::byte* to = second.data() + i * stride;  // packed by us, so aligned
    interleave(rows.back(), to);
    blocks.push_back({to, bits, shape.rows, shape.cols});
  }
  std::vector<float> x(static_cast<size_t>(count * shape.cols));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& v : x) v = normal(random);
  const Pages buffer(cpu::QuantizedRows::bytes(count, shape.cols));
  const auto xq = cpu::QuantizedRows::over(buffer.data(), count, shape.cols);
  kernels.quantize_rows(x.data(), shape.cols, 0, count, xq);
  std::vector<float> y(static_cast<size_t>(count * shape.rows));
  std::vector<float> y2(y.size());
  const cpu::RowMap map{count, nullptr, nullptr};
  const int64_t tiles = (shape.rows + kTileRows - 1) / kTileRows;
  const auto row_pass = [&] {
    return team.run(copies * tiles, [&](int64_t task, cpu::Scratch& scratch) {
      const int64_t begin = task % tiles * kTileRows;
      kernels.int8(rows[static_cast<size_t>(task / tiles)], xq, map, y.data(), shape.rows, begin,
                   std::min(begin + kTileRows, shape.rows), scratch);
    });
  };
  const auto block_pass = [&] {
    return team.run(copies * tiles, [&](int64_t task, cpu::Scratch&) {
      const int64_t begin = task % tiles * kTileRows;
      product(blocks[static_cast<size_t>(task / tiles)], xq, count, y2.data(), shape.rows, begin,
              std::min(begin + kTileRows, shape.rows));
    });
  };
  row_pass();
  block_pass();
  const int64_t last = copies - 1;  // every pass ends anywhere: compare one matrix of each
  for (int64_t begin = 0; begin < shape.rows; begin += kTileRows) {
    const int64_t end = std::min(begin + kTileRows, shape.rows);
    const Pages scratch_pages(cpu::Scratch::kBytes);
    cpu::Scratch scratch{scratch_pages.data()};
    kernels.int8(rows[static_cast<size_t>(last)], xq, map, y.data(), shape.rows, begin, end,
                 scratch);
    product(blocks[static_cast<size_t>(last)], xq, count, y2.data(), shape.rows, begin, end);
  }
  for (size_t i = 0; i < y.size(); ++i)
    if (std::bit_cast<uint32_t>(y[i]) != std::bit_cast<uint32_t>(y2[i]))
      throw InternalError("[bench] {}bit {}x{}: element {} differs between the layouts", bits,
                          shape.rows, shape.cols, i);

  std::vector<double> probes, row_rates, block_rates, row_shares, block_shares, ratios;
  const double giga = static_cast<double>(bytes * copies) * 1e-9;
  for (int i = 0; i < repeat; ++i) {
    const double probed =
        static_cast<double>(first.bytes()) / probe(team, first.data(), first.bytes()).cpu * 1e-9;
    const double by_row = giga / row_pass().cpu;
    const double by_block = giga / block_pass().cpu;
    probes.push_back(probed);
    row_rates.push_back(by_row);
    block_rates.push_back(by_block);
    row_shares.push_back(by_row / probed);
    block_shares.push_back(by_block / probed);
    ratios.push_back(by_block / by_row);
  }
  std::printf("%s,%s,%d,%lld,%lld,%lld,%d,%.2f,%.2f,%.2f,%.3f,%.3f,%.3f\n",
              std::string(name_of(isa)).c_str(), shape.model, bits,
              static_cast<long long>(shape.rows), static_cast<long long>(shape.cols),
              static_cast<long long>(count), threads, median(probes), median(row_rates),
              median(block_rates), median(row_shares), median(block_shares), median(ratios));
  std::fflush(stdout);
}

int run(int repeat) {
  const Pages first(kWorkingSet);
  const Pages second(kWorkingSet);
  fill_random(first.data(), first.bytes(), 1);
  // Random bf16 scales would overflow: keep every 16-bit word's magnitude near one.
  for (int64_t i = 0; i < first.bytes(); i += 2) {
    uint16_t word;
    std::memcpy(&word, first.data() + i, 2);
    word = static_cast<uint16_t>((word & 0x80FFu) | 0x3E00u);
    std::memcpy(first.data() + i, &word, 2);
  }
  std::printf(
      "isa,model,bits,rows,cols,x_rows,threads,probe_gb_s,row_major_gb_s,interleaved_gb_s,"
      "row_major_share,interleaved_share,interleaved_over_row_major\n");
  const std::pair<cpu::Isa, InterleavedProduct> sets[] = {
      {cpu::Isa::kAvx2, interleaved_avx2()}, {cpu::Isa::kAvx512, interleaved_avx512()}};
  for (const auto& [isa, product] : sets) {
    if (product == nullptr || !cpu::isa_available(isa)) {
      std::fprintf(stderr, "%s: not available on this processor\n",
                   std::string(name_of(isa)).c_str());
      continue;
    }
    for (const int threads : {1, 2}) {
      Team team(threads);
      for (const int bits : {4, 8})
        for (const Shape2& shape : kShapes)
          for (const int64_t count : {1, 8})
            run_case(isa, product, team, threads, repeat, first, second, bits, shape, count);
    }
  }
  return 0;
}

}  // namespace
}  // namespace decant::bench

int main(int argc, char** argv) {
  int repeat = 7;
  if (argc == 3 && std::string_view(argv[1]) == "--repeat")
    repeat = std::max(1, std::atoi(argv[2]));
  try {
    return decant::bench::run(repeat);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
