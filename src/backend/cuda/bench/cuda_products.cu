// Products of one decode step on the device: the one-order product for 1 to 64 rows against a plain
// one-row kernel, at the shapes of qwen3-8b and qwen3-0.6b, 4-bit in groups of 64, as shares of a
// read probe of the same run. Checks against double and row counts bitwise come first; a failed
// check ends the run with exit code 1.
//   cuda_products [--csv FILE] [--quick]

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "backend/cuda/bench/product.h"

using namespace decant::cuda_bench;

namespace {

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
}

class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

struct Shape {
  const char* name;
  int rows, cols;
  int count;  // of them in one step
};
struct Model {
  const char* name;
  std::vector<Shape> shapes;
};

const std::vector<Model>& models() {
  static const std::vector<Model> all = {{"qwen3-0.6b",
                                          {{"qkv", 4096, 1024, 28},
                                           {"o", 1024, 2048, 28},
                                           {"gate_up", 6144, 1024, 28},
                                           {"down", 1024, 3072, 28},
                                           {"head", 151936, 1024, 1}}},
                                         {"qwen3-8b",
                                          {{"qkv", 6144, 4096, 36},
                                           {"o", 4096, 4096, 36},
                                           {"gate_up", 24576, 4096, 36},
                                           {"down", 4096, 12288, 36},
                                           {"head", 151936, 4096, 1}}}};
  return all;
}

/// Random weights of this many rows; larger matrices repeat them.
constexpr int kPatternRows = 512;

HostMatrix random_matrix(int rows, int cols, uint64_t seed) {
  std::mt19937_64 random(seed);
  HostMatrix m;
  m.rows = rows;
  m.cols = cols;
  m.codes.resize(static_cast<size_t>(rows) * static_cast<size_t>(cols / 8));
  for (uint32_t& word : m.codes) word = static_cast<uint32_t>(random());
  m.scales.resize(static_cast<size_t>(rows) * static_cast<size_t>(m.groups()));
  m.biases.resize(m.scales.size());
  std::uniform_real_distribution<float> vary(0.5f, 1.5f);
  for (size_t i = 0; i < m.scales.size(); ++i) {
    const float scale = 0.01f * vary(random) * (random() % 4 == 0 ? -1.0f : 1.0f);
    m.scales[i] = to_bf16(scale);
    m.biases[i] = to_bf16(-7.5f * scale * vary(random));
  }
  return m;
}

/// Matrices of one shape in device memory, `count` of each layout, all repeating one pattern.
class Weights {
 public:
  Weights(const HostMatrix& pattern, int rows, int count, bool mma)
      : rows_(rows), cols_(pattern.cols), memory_(static_cast<size_t>(count) * one()) {
    const std::vector<uint8_t> packed = mma ? pack_for_mma(pattern) : pack_for_rows(pattern);
    // The planes that a matrix of more rows has behind each other: one for mma, two for rows.
    const size_t codes = static_cast<size_t>(pattern.rows) * static_cast<size_t>(cols_) / 2;
    const std::vector<size_t> planes = mma ? std::vector<size_t>{packed.size()}
                                           : std::vector<size_t>{codes, packed.size() - codes};
    size_t to = 0, from = 0;
    for (size_t plane : planes) {
      const size_t wanted = plane / static_cast<size_t>(pattern.rows) * static_cast<size_t>(rows);
      for (size_t done = 0; done < wanted; done += plane)
        check(cudaMemcpy(memory_.as<uint8_t>() + to + done, packed.data() + from,
                         std::min(plane, wanted - done), cudaMemcpyHostToDevice),
              "cudaMemcpy of weights");
      to += wanted;
      from += plane;
    }
    for (int i = 1; i < count; ++i)
      check(cudaMemcpy(memory_.as<uint8_t>() + static_cast<size_t>(i) * one(),
                       memory_.as<uint8_t>(), one(), cudaMemcpyDeviceToDevice),
            "cudaMemcpy of weights");
  }
  const uint8_t* matrix(int i) const {
    return memory_.as<uint8_t>() + static_cast<size_t>(i) * one();
  }

 private:
  size_t one() const { return static_cast<size_t>(matrix_bytes(rows_, cols_)); }
  int rows_, cols_;
  Buffer memory_;
};

class Bench {
 public:
  Bench(FILE* csv, bool quick)
      : csv_(csv),
        quick_(quick),
        x_(static_cast<size_t>(kMaxRows) * kMaxCols * 2),
        sums_(static_cast<size_t>(kMaxRows) * kMaxCols / kGroup * 4),
        y_(static_cast<size_t>(kMaxRows) * 151936 * 4) {
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    multiprocessors_ = properties.multiProcessorCount;
    std::fprintf(stderr, "%s, %d multiprocessors, L2 %d MB\n", properties.name, multiprocessors_,
                 properties.l2CacheSize >> 20);
    std::fprintf(csv_, "name,shape,n,ms,gb_per_s,share_of_read_probe\n");
  }

  void run() {
    for (const Model& model : models())
      for (const Shape& shape : model.shapes) check_shape(shape);
    std::fprintf(stderr, "checks passed\n");
    probe();
    for (const Model& model : models()) measure(model);
  }

 private:
  static constexpr int kMaxCols = 12288;

  void fill_activations(int cols) {
    std::mt19937_64 random(77);
    std::normal_distribution<float> normal;
    host_x_.resize(static_cast<size_t>(kMaxRows) * static_cast<size_t>(cols));
    for (uint16_t& x : host_x_) x = to_bf16(normal(random));
    check(cudaMemcpy(x_.as<uint16_t>(), host_x_.data(), host_x_.size() * 2, cudaMemcpyHostToDevice),
          "cudaMemcpy of activations");
    check(launch_group_sums(x_.as<uint16_t>(), cols, kMaxRows, sums_.as<float>(), stream_),
          "group_sums");
    check(cudaStreamSynchronize(stream_), "group_sums");
  }

  MmaInput input() const { return {x_.as<uint16_t>(), sums_.as<float>()}; }

  /// Poisons y, runs, reads n rows of it back.
  template <typename F>
  std::vector<float> result(int rows, int n, F launch) {
    const size_t count = static_cast<size_t>(n) * static_cast<size_t>(rows);
    check(cudaMemsetAsync(y_.as<float>(), 0xFF, count * 4, stream_), "cudaMemsetAsync");
    check(launch(), "product");
    check(cudaStreamSynchronize(stream_), "product");
    std::vector<float> y(count);
    check(cudaMemcpy(y.data(), y_.as<float>(), count * 4, cudaMemcpyDeviceToHost),
          "cudaMemcpy of results");
    return y;
  }

  void require(bool ok, const Shape& shape, const std::string& what) {
    if (!ok)
      throw std::runtime_error(std::string(shape.name) + " " + std::to_string(shape.rows) + "x" +
                               std::to_string(shape.cols) + ": " + what);
  }

  void check_shape(const Shape& shape) {
    const HostMatrix pattern = random_matrix(kPatternRows, shape.cols, 5);
    const Weights mma(pattern, shape.rows, 1, true), plain(pattern, shape.rows, 1, false);
    fill_activations(shape.cols);
    const size_t rows = static_cast<size_t>(shape.rows);
    const auto product = [&](int n) {
      return result(shape.rows, n, [&] {
        // As in use: the sums of exactly n rows, made on the device.
        const cudaError_t made =
            launch_group_sums(x_.as<uint16_t>(), shape.cols, n, sums_.as<float>(), stream_);
        return made != cudaSuccess
                   ? made
                   : launch_mma_product(mma.matrix(0), input(), y_.as<float>(), shape.rows,
                                        shape.cols, n, multiprocessors_, stream_);
      });
    };
    const std::vector<float> all = product(kMaxRows);
    const std::vector<float> one = result(shape.rows, 1, [&] {
      return launch_row_product(plain.matrix(0), x_.as<uint16_t>(), y_.as<float>(), shape.rows,
                                shape.cols, stream_);
    });
    // Against double, in parts of the sum of magnitudes. Rounding in f32 along the chain a sum
    // takes, with the offset 128 of the codes on top for the mma form.
    double worst_mma = 0, worst_row = 0;
    for (int n : {0, 1, 7, 8, 31, 63})
      for (int r = 0; r < kPatternRows; r += 3) {
        double sum = 0, size = 0;
        for (int k = 0; k < shape.cols; ++k) {
          const size_t g = static_cast<size_t>(r) * static_cast<size_t>(pattern.groups()) +
                           static_cast<size_t>(k / kGroup);
          const uint32_t code =
              pattern.codes[static_cast<size_t>(r) * static_cast<size_t>(shape.cols / 8) +
                            static_cast<size_t>(k / 8)] >>
                  (k % 8 * 4) &
              0xFu;
          const double w = static_cast<double>(from_bf16(pattern.scales[g])) * code +
                           static_cast<double>(from_bf16(pattern.biases[g]));
          const double product_of =
              w * static_cast<double>(
                      from_bf16(host_x_[static_cast<size_t>(n) * static_cast<size_t>(shape.cols) +
                                        static_cast<size_t>(k)]));
          sum += product_of;
          size += std::fabs(product_of);
        }
        const auto error = [&](float got) {
          const double e = std::fabs(static_cast<double>(got) - sum) / size;
          return e == e ? e : 1.0;
        };
        const size_t at = static_cast<size_t>(n) * rows + static_cast<size_t>(r);
        worst_mma = std::max(worst_mma, error(all[at]));
        if (n == 0) worst_row = std::max(worst_row, error(one[at]));
      }
    std::fprintf(stderr, "%-8s %6dx%-6d error of the sum of magnitudes: mma %.2e, row %.2e\n",
                 shape.name, shape.rows, shape.cols, worst_mma, worst_row);
    require(worst_mma < 2e-6 && worst_row < 2e-6, shape, "expected errors below 2e-6");
    // Every tile of a large matrix, whichever block and turn made it, repeats the pattern's bits.
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t row = i % rows;
      require(std::memcmp(&all[i], &all[i - row + row % kPatternRows], 4) == 0, shape,
              "expected equal bits for equal weights, got row " + std::to_string(row));
    }
    const bool every = shape.rows <= 8192 && !quick_;
    for (int n = 1; n < kMaxRows; ++n) {
      if (!every && n > 9 && n % 8 != 1 && n != 32) continue;
      const std::vector<float> some = product(n);
      require(std::memcmp(some.data(), all.data(), some.size() * 4) == 0, shape,
              "expected the bits of 64 rows with " + std::to_string(n) + " rows");
    }
  }

  /// Median milliseconds of a captured graph over many replays.
  template <typename F>
  double time_graph(F launch_all) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    check(launch_all(), "product");  // loads the kernels outside of the capture
    check(cudaStreamSynchronize(stream_), "product");
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin capture");
    const cudaError_t launched = launch_all();
    check(cudaStreamEndCapture(stream_, &graph), "end capture");
    check(launched, "captured product");
    check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    std::vector<double> times;
    for (int i = 0; i < (quick_ ? 8 : 23); ++i) {
      check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
      check(cudaGraphLaunch(replay, stream_), "cudaGraphLaunch");
      check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      check(cudaEventSynchronize(end_), "cudaEventSynchronize");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
      if (i >= 3) times.push_back(static_cast<double>(ms));
    }
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  void report(const std::string& name, const std::string& shape, int n, double ms, double bytes) {
    const double rate = bytes / ms / 1e6;
    std::fprintf(csv_, "%s,%s,%d,%.4f,%.0f,%.3f\n", name.c_str(), shape.c_str(), n, ms, rate,
                 rate / probe_);
    std::fflush(csv_);
  }

  void probe() {
    const int64_t bytes = int64_t{4} << 30;
    const Buffer memory(static_cast<size_t>(bytes)), sink(4);
    check(cudaMemset(memory.as<void>(), 0x5A, memory.bytes()), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaMemset");
    double best = 0;
    for (int per : {4, 8, 16}) {
      const double ms = time_graph([&] {
        return launch_read_probe(memory.as<void>(), bytes, multiprocessors_ * per,
                                 sink.as<uint32_t>(), stream_);
      });
      best = std::max(best, static_cast<double>(bytes) / ms / 1e6);
    }
    probe_ = best;
    report("read_probe", "4GiB", 0, static_cast<double>(bytes) / best / 1e6,
           static_cast<double>(bytes));
  }

  static std::string shape_name(const Model& model, const Shape& shape) {
    return std::string(model.name) + " " + shape.name + " " + std::to_string(shape.rows) + "x" +
           std::to_string(shape.cols);
  }

  static double traffic(const Shape& shape, int n) {
    return static_cast<double>(matrix_bytes(shape.rows, shape.cols)) +
           static_cast<double>(n) * (2.0 * shape.cols + 4.0 * shape.rows);
  }

  void measure(const Model& model) {
    fill_activations(kMaxCols);
    for (bool mma : {false, true}) {
      std::vector<std::unique_ptr<Weights>> weights;
      std::vector<int> copies;
      for (const Shape& shape : model.shapes) {
        // At least 512 MB of each shape, so that its own graph does not run from the L2.
        const int64_t one = matrix_bytes(shape.rows, shape.cols);
        copies.push_back(std::max<int>(shape.count, static_cast<int>((int64_t{512} << 20) / one)));
        weights.push_back(std::make_unique<Weights>(random_matrix(kPatternRows, shape.cols, 9),
                                                    shape.rows, copies.back(), mma));
      }
      const auto launch = [&](size_t s, int copy, int n) {
        const Shape& shape = model.shapes[s];
        const uint8_t* matrix = weights[s]->matrix(copy % copies[s]);
        return mma ? launch_mma_product(matrix, input(), y_.as<float>(), shape.rows, shape.cols, n,
                                        multiprocessors_, stream_)
                   : launch_row_product(matrix, x_.as<uint16_t>(), y_.as<float>(), shape.rows,
                                        shape.cols, stream_);
      };
      const std::vector<int> rows =
          mma ? std::vector<int>{1, 2, 4, 8, 16, 32, 64} : std::vector<int>{1};
      for (int n : rows) {
        // The step: all products of all layers in their order, then the head.
        double bytes = 0;
        for (const Shape& shape : model.shapes) bytes += shape.count * traffic(shape, n);
        const double step = time_graph([&] {
          const int layers = model.shapes[0].count;
          for (int layer = 0; layer < layers; ++layer)
            for (size_t s = 0; s + 1 < model.shapes.size(); ++s)
              if (const cudaError_t status = launch(s, layer, n); status != cudaSuccess)
                return status;
          return launch(model.shapes.size() - 1, 0, n);
        });
        const char* name = mma ? "one_order" : "plain_row";
        report(name, std::string(model.name) + " step", n, step, bytes);
        for (size_t s = 0; s < model.shapes.size(); ++s) {
          const double ms = time_graph([&] {
            for (int copy = 0; copy < copies[s]; ++copy)
              if (const cudaError_t status = launch(s, copy, n); status != cudaSuccess)
                return status;
            return cudaSuccess;
          });
          report(name, shape_name(model, model.shapes[s]), n, ms / copies[s],
                 traffic(model.shapes[s], n));
        }
      }
    }
  }

  FILE* csv_;
  bool quick_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  int multiprocessors_ = 0;
  double probe_ = 1;
  Buffer x_, sums_, y_;
  std::vector<uint16_t> host_x_;
};

}  // namespace

int main(int argc, char** argv) {
  FILE* csv = stdout;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--csv") == 0 && i + 1 < argc) {
      csv = std::fopen(argv[++i], "w");
      if (csv == nullptr) {
        std::perror(argv[i]);
        return 1;
      }
    } else {
      std::fprintf(stderr, "usage: cuda_products [--csv FILE] [--quick]\n");
      return 2;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "cuda_products: expected a CUDA device, got none\n");
    return 1;
  }
  try {
    Bench(csv, quick).run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_products: %s\n", error.what());
    return 1;
  }
  return 0;
}
