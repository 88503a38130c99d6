// The CPU matrix products at real shapes, against a read probe in the same run: each repetition
// times the probe and the kernel in turn, and the share is the median of their ratios. Rates are
// per second of processor time (see bench_common.h), the wall rate stands beside them. Weights are
// repeated in memory until they exceed any cache. The result is checked before it is timed.
//
//   cpu_linear [--csv] [--resident] [--threads N] [--isa avx2] [--only TEXT] [--repeat N]

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/errors.h"
#include "bench_common.h"

namespace decant::bench {
namespace {

constexpr int64_t kWorkingSet = int64_t{256} << 20;
constexpr int64_t kTileRows = 256;

struct Options {
  bool csv = false;
  bool resident = false;  // one copy of the weight: what arithmetic alone allows
  int threads = 2;
  int repeat = 7;
  cpu::Isa isa = cpu::selected_isa();
  std::string only;
};

struct Case {
  Format format;
  bool int8;
  int64_t rows;
  int64_t cols;
  int64_t count;
};

std::string label(const Case& c) {
  return fmt::format("{} {} {}x{} x{}", c.int8 ? "int8" : "f32", c.format.name(), c.rows, c.cols,
                     c.count);
}

void run_case(const Options& options, Team& team, const Pages& memory, const Case& c) {
  const int64_t bytes = c.rows * c.format.row_bytes(c.cols);
  const int64_t stride = (bytes + 4095) / 4096 * 4096 + 4096;
  // Many rows of x are bound by arithmetic, where one matrix is enough.
  const int64_t copies =
      options.resident || c.count >= 64 ? 1 : std::max<int64_t>(1, memory.bytes() / stride);
  // Random E8M0 codes would make products subnormal, which no model's are.
  const int64_t code_bytes = c.format.is_micro() ? c.rows * c.format.scale_row_bytes(c.cols) : 0;
  std::vector<std::byte> codes(static_cast<size_t>(copies * code_bytes));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::byte>(119 + i % 6);
  std::vector<MatrixView> views;
  for (int64_t i = 0; i < copies; ++i) {
    const std::byte* at = memory.data() + i * stride + 8;  // as a safetensors header leaves it
    MatrixView w;
    w.format = c.format;
    w.rows = c.rows;
    w.cols = c.cols;
    w.data = at;
    w.scales = at + c.rows * c.format.data_row_bytes(c.cols);
    w.biases = w.scales + c.rows * c.format.scale_row_bytes(c.cols);
    if (code_bytes != 0) w.scales = codes.data() + i * code_bytes;
    views.push_back(w);
  }
  const cpu::LinearKernels& kernels = cpu::linear_kernels(options.isa);
  std::vector<float> x(static_cast<size_t>(c.count * c.cols));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& v : x) v = normal(random);
  std::vector<std::byte> quantized(
      static_cast<size_t>(cpu::QuantizedRows::bytes(c.count, c.cols) + 64));
  auto* aligned = quantized.data() + (64 - reinterpret_cast<uintptr_t>(quantized.data()) % 64) % 64;
  const auto xq = cpu::QuantizedRows::over(aligned, c.count, c.cols);
  kernels.quantize_rows(x.data(), c.cols, 0, c.count, xq);
  std::vector<float> y(static_cast<size_t>(c.count * c.rows));
  const cpu::RowMap map{c.count, nullptr, nullptr};
  const int64_t tiles = (c.rows + kTileRows - 1) / kTileRows;

  const auto product = [&](const cpu::LinearKernels& k, const MatrixView& w, float* out,
                           int64_t begin, int64_t end, cpu::Scratch& scratch) {
    if (c.int8) {
      k.int8(w, xq, map, out, c.rows, begin, end, scratch);
    } else {
      k.f32(w, x.data(), c.cols, map, out, c.rows, begin, end, scratch);
    }
  };
  const int64_t times = options.resident ? 32 : 1;
  const auto pass = [&] {
    return team.run(copies * tiles * times, [&](int64_t task, cpu::Scratch& scratch) {
      const int64_t begin = task % tiles * kTileRows;
      product(kernels, views[static_cast<size_t>(task / tiles % copies)], y.data(), begin,
              std::min(begin + kTileRows, c.rows), scratch);
    });
  };

  pass();
  {
    Pages scratch_pages(cpu::Scratch::kBytes);
    cpu::Scratch scratch{scratch_pages.data()};
    std::vector<float> expected(y.size());
    const int64_t end = std::min<int64_t>(c.rows, 24);
    // Passes over several copies end in any order: the checked result is made anew.
    product(kernels, views.back(), y.data(), 0, end, scratch);
    product(cpu::linear_kernels(cpu::Isa::kPortable), views.back(), expected.data(), 0, end,
            scratch);
    for (int64_t i = 0; i < c.count; ++i)
      for (int64_t r = 0; r < end; ++r) {
        const auto at = static_cast<size_t>(i * c.rows + r);
        const bool both_nan = std::isnan(y[at]) && std::isnan(expected[at]);
        if (!both_nan && std::bit_cast<uint32_t>(y[at]) != std::bit_cast<uint32_t>(expected[at]))
          throw InternalError("[bench] {}: row {} of x row {} differs from the portable kernel",
                              label(c), r, i);
      }
  }

  const int64_t probe_bytes = std::min<int64_t>(memory.bytes(), int64_t{128} << 20);
  std::vector<double> rates;
  std::vector<double> probes;
  std::vector<double> shares;
  std::vector<double> walls;
  for (int i = 0; i < options.repeat; ++i) {
    const Time read = probe(team, memory.data(), probe_bytes);
    const Time used = pass();
    const double giga = static_cast<double>(bytes * copies * times) * 1e-9;
    const double probe_giga = static_cast<double>(probe_bytes) * 1e-9;
    rates.push_back(giga / used.cpu);
    probes.push_back(probe_giga / read.cpu);
    shares.push_back(giga / used.cpu / (probe_giga / read.cpu));
    walls.push_back(giga / used.wall);
  }
  // Resident weights: the fastest pass, the one least disturbed by other processes.
  const double rate =
      options.resident ? *std::max_element(rates.begin(), rates.end()) : median(rates);
  const double macs =
      rate / static_cast<double>(bytes) * static_cast<double>(c.rows * c.cols * c.count);
  if (options.csv) {
    std::printf("%s,%s,%s,%lld,%lld,%lld,%d,%.2f,%.2f,%.2f,%.3f,%.1f\n",
                std::string(name_of(options.isa)).c_str(), c.int8 ? "int8" : "f32",
                c.format.name().c_str(), static_cast<long long>(c.rows),
                static_cast<long long>(c.cols), static_cast<long long>(c.count), options.threads,
                median(walls), rate, median(probes), median(shares), macs);
  } else {
    std::printf("%-34s %7.2f GB/s  probe %6.2f  share %5.3f  %7.1f GMAC/s\n", label(c).c_str(),
                rate, median(probes), median(shares), macs);
  }
  std::fflush(stdout);
}

int run(const Options& options) {
  Pages memory(kWorkingSet);
  fill_random(memory.data(), memory.bytes(), 1);
  // Exponents of random bf16 scales would overflow: keep every 16-bit word's magnitude near one. No
  // byte is an E4M3 NaN.
  for (int64_t i = 0; i < memory.bytes(); i += 2) {
    uint16_t word;
    std::memcpy(&word, memory.data() + i, 2);
    word = static_cast<uint16_t>((word & 0x80BFu) | 0x3E00u);
    std::memcpy(memory.data() + i, &word, 2);
  }
  Team team(options.threads);
  if (options.csv)
    std::printf(
        "isa,route,format,rows,cols,x_rows,threads,wall_gb_s,gb_s,probe_gb_s,share,gmac_s\n");
  std::vector<Case> cases;
  for (const int bits : {4, 8, 1, 2, 3, 5, 6})
    for (const auto& [rows, cols] :
         {std::pair{64, 1024}, {64, 2560}, {64, 4096}, {256, 4096}, {384, 2560}, {4096, 4096}})
      for (const int64_t count : {1, 2, 4, 8, 16, 64, 512})
        cases.push_back({Format::affine(bits, 64), true, rows, cols, count});
  for (const auto& [rows, cols] :
       {std::pair{9728, 2560}, {2560, 9728}, {4096, 2560}, {3072, 1024}, {1024, 3072}})
    for (const int bits : {4, 8})
      for (const int64_t count : {1, 8, 512})
        cases.push_back({Format::affine(bits, 64), true, rows, cols, count});
  for (const int group : {32, 128})
    for (const int64_t count : {1, 8, 512})
      cases.push_back({Format::affine(4, group), true, 4096, 4096, count});
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 512})
      cases.push_back({Format::dense(dtype), false, 4096, 2560, count});
  for (const int64_t count : {8, 12, 16, 24, 32, 48, 64, 128, 256, 512})
    cases.push_back({Format::dense(DType::kBF16), false, 2560, 9728, count});
  for (const int64_t count : {1, 2, 4, 8, 16, 64, 512})
    cases.push_back({Format::mxfp8(), false, 4096, 2560, count});
  for (const int64_t count : {1, 8, 64}) {
    cases.push_back({Format::affine(4, 64), false, 4096, 2560, count});
    cases.push_back({Format::affine(8, 64), false, 4096, 2560, count});
  }
  for (const Case& c : cases)
    if (options.only.empty() || label(c).find(options.only) != std::string::npos)
      run_case(options, team, memory, c);
  return 0;
}

int main_with(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw UsageError("[bench] {}: expected a value", arg);
      return argv[++i];
    };
    if (arg == "--csv") {
      options.csv = true;
    } else if (arg == "--resident") {
      options.resident = true;
    } else if (arg == "--threads") {
      options.threads = std::max(1, std::atoi(value().c_str()));
    } else if (arg == "--repeat") {
      options.repeat = std::max(1, std::atoi(value().c_str()));
    } else if (arg == "--only") {
      options.only = value();
    } else if (arg == "--isa") {
      setenv("DECANT_CPU_ISA", value().c_str(), 1);
      options.isa = cpu::selected_isa();
    } else {
      throw UsageError("[bench] unknown option {}", arg);
    }
  }
  return run(options);
}

}  // namespace
}  // namespace decant::bench

int main(int argc, char** argv) {
  try {
    return decant::bench::main_with(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
