// Gemma 3n's vision encoder at its real size, on random weights: seconds for a picture of 768 x
// 768, and what of them its kinds of node take. `--list` prints the slowest nodes. The portable
// kernels must give the same features of a small picture first.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "checkpoint/weight_load.h"
#include "layers/mobilenet.h"

namespace {

using namespace decant;

/// The tensors of mobilenetv5_300m_enc (gemma3n.md section 4.3) in bfloat16, with random values.
class RandomNet final : public TensorSource {
 public:
  RandomNet() {
    kernel("conv_stem.conv", 64, 3, 3);
    norm("conv_stem.bn", 64);
    add("conv_stem.conv.bias", {64});
    for (int i = 0; i < 3; ++i) {
      const std::string at = "blocks.0." + std::to_string(i) + ".";
      const int64_t in = i == 0 ? 64 : 128;
      kernel(at + "conv_exp", 4 * in, in, 3);
      norm(at + "bn1", 4 * in);
      kernel(at + "conv_pwl", 128, 4 * in, 1);
      norm(at + "bn2", 128);
    }
    inverted(1, 0, 128, 768, 256, 3, 5);
    for (int i = 1; i < 5; ++i) inverted(1, i, 256, 1024, 256, i % 2 == 1 ? 5 : 3, 0);
    inverted(2, 0, 256, 1536, 640, 5, 5);
    for (int i = 1; i < 8; ++i) inverted(2, i, 640, 2560, 640, 5, 0);
    inverted(2, 8, 640, 640, 640, 0, 0);
    for (int i = 9; i < 37; i += 2) {
      attention(2, i, 640, 12, 64, true);
      inverted(2, i + 1, 640, 1280, 640, 0, 0);
    }
    inverted(3, 0, 640, 3840, 1280, 5, 5);
    for (int i = 1; i < 39; i += 2) {
      attention(3, i, 1280, 16, 96, false);
      inverted(3, i + 1, 1280, 2560, 1280, 0, 0);
    }
    pointwise("msfa.ffn.pw_exp", 3840, 1920);
    pointwise("msfa.ffn.pw_proj", 2048, 3840);
    norm("msfa.norm", 2048);
  }
  TensorRef find(std::string_view name) const override {
    const auto found = by_name_.find(std::string(name));
    return {found == by_name_.end() ? nullptr : &tensors_[found->second], nullptr};
  }
  std::vector<std::string_view> names() const override {
    std::vector<std::string_view> out;
    for (const auto& [name, index] : by_name_) out.push_back(name);
    return out;
  }
  const QuantizationConfig& quantization() const override { return quantization_; }
  std::string description() const override { return "random MobileNetV5"; }

 private:
  void add(const std::string& name, std::vector<int64_t> dims, float centre = 0) {
    int64_t count = 1, fan = 1;
    for (int64_t dim : dims) count *= dim;
    for (size_t i = 1; i < dims.size(); ++i) fan *= dims[i];
    const float spread = centre != 0 ? 0.2f : 1 / std::sqrt(static_cast<float>(fan));
    auto& bytes = bytes_.emplace_back(static_cast<size_t>(count) * 2);
    for (int64_t i = 0; i < count; ++i) {
      state_ = state_ * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      const float unit = static_cast<float>(static_cast<int32_t>(state_ >> 32)) * 0x1p-31f;
      const uint16_t bits = float_to_bf16(centre + 1.7f * spread * unit);
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
    TensorInfo& info = tensors_.emplace_back();
    info.name = name;
    info.dtype = DType::kBF16;
    info.rank = static_cast<uint8_t>(dims.size());
    std::copy(dims.begin(), dims.end(), info.sizes.begin());
    info.bytes = bytes;
    by_name_[name] = tensors_.size() - 1;
  }
  void norm(const std::string& at, int64_t channels) { add(at + ".weight", {channels}, 1); }
  void kernel(const std::string& at, int64_t out, int64_t in, int64_t size) {
    add(at + ".weight", {out, in, size, size});
  }
  void pointwise(const std::string& at, int64_t out, int64_t in) {
    kernel(at + ".conv", out, in, 1);
    norm(at + ".bn", out);
  }
  void depthwise(const std::string& conv, const std::string& bn, int64_t channels, int64_t size) {
    kernel(conv, channels, 1, size);
    norm(bn, channels);
  }
  void inverted(int stage, int index, int64_t in, int64_t mid, int64_t out, int64_t before,
                int64_t between) {
    const std::string at = "blocks." + std::to_string(stage) + "." + std::to_string(index) + ".";
    if (before > 0) depthwise(at + "dw_start.conv", at + "dw_start.bn", in, before);
    pointwise(at + "pw_exp", mid, in);
    if (between > 0) depthwise(at + "dw_mid.conv", at + "dw_mid.bn", mid, between);
    pointwise(at + "pw_proj", out, mid);
    add(at + "layer_scale.gamma", {out}, 1);
  }
  void attention(int stage, int index, int64_t channels, int64_t heads, int64_t dim, bool smaller) {
    const std::string at = "blocks." + std::to_string(stage) + "." + std::to_string(index) + ".";
    norm(at + "norm", channels);
    kernel(at + "attn.query.proj", heads * dim, channels, 1);
    for (const char* part : {"attn.key.", "attn.value."}) {
      if (smaller) depthwise(at + part + "down_conv", at + part + "norm", channels, 3);
      kernel(at + part + "proj", dim, channels, 1);
    }
    kernel(at + "attn.output.proj", channels, heads * dim, 1);
    add(at + "layer_scale.gamma", {channels}, 1);
  }
  std::deque<TensorInfo> tensors_;
  std::deque<std::vector<std::byte>> bytes_;
  std::map<std::string, size_t> by_name_;
  QuantizationConfig quantization_;
  uint64_t state_ = 1;
};

/// The net on a backend, for one size of picture.
struct Encoder {
  std::unique_ptr<Pools> pools;
  std::unique_ptr<Program> program;
  Encoder(Backend& backend, const layers::MobileNet& net, int64_t side) {
    Graph graph({Phase::kPrefill, 1, 1, 1});
    const Value pixels = graph.input(0, {DType::kF32, {side * side, 3}, Rows::kFixed});
    graph.mark_output(net({pixels, side, side}), "features");
    pools = backend.make_pools({});
    program = backend.compile(graph, *pools, {});
    std::vector<float> values(static_cast<size_t>(3 * side * side));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 7 % 64) / 63;
    program->set_input(0, std::span<const float>(values));
  }
  std::span<const float> run() const {
    Batch batch;
    batch.phase = Phase::kPrefill;
    program->run(batch);
    return program->output(0);
  }
  double flops() const {
    const Batch batch;
    double sum = 0;
    for (const Node& node : program->graph().nodes())
      sum += node.op->cost(program->graph(), node, {batch}).flops;
    return sum;
  }
};

void print_times(const Encoder& encoder, bool list) {
  encoder.run();  // touches the arena
  encoder.program->set_profiling(true);
  encoder.run();
  const Graph& graph = encoder.program->graph();
  const Batch batch;
  std::map<std::string, std::pair<double, double>> kinds;
  double total = 0;
  auto times = encoder.program->node_times();
  for (const NodeTime& time : times) {
    const Node& node = graph.nodes()[static_cast<size_t>(time.node)];
    auto& [seconds, flops] = kinds[std::string(node.op->name())];
    seconds += time.seconds;
    flops += node.op->cost(graph, node, {batch}).flops;
    total += time.seconds;
  }
  for (const auto& [name, sums] : kinds)
    std::printf("%-18s %7.3f s %5.1f %% %8.1f GFLOP/s\n", name.c_str(), sums.first,
                100 * sums.first / total, sums.second / sums.first / 1e9);
  if (!list) return;
  std::sort(times.begin(), times.end(),
            [](const NodeTime& a, const NodeTime& b) { return a.seconds > b.seconds; });
  for (size_t i = 0; i < std::min<size_t>(times.size(), 40); ++i) {
    const Node& node = graph.nodes()[static_cast<size_t>(times[i].node)];
    std::printf("%7.1f ms %8.1f GFLOP/s %s %s\n", times[i].seconds * 1e3,
                node.op->cost(graph, node, {batch}).flops / times[i].seconds / 1e9,
                graph.describe(node).c_str(),
                graph.value(node.outputs[0]).type.shape.to_string().c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const bool list = argc > 1 && std::strcmp(argv[1], "--list") == 0;
  if (argc > (list ? 2 : 1)) return std::fprintf(stderr, "unknown option\n"), 2;
  try {
    const auto source = std::make_shared<RandomNet>();
    WeightLoad load(source);
    const layers::MobileNet net(load.root(), 2048);
    const auto weights = load.finish();
    const auto backend = make_cpu_backend({});
    const Encoder small(*backend, net, 64);
    const auto got = small.run();
    const std::vector<float> features(got.begin(), got.end());
    const auto portable = make_cpu_backend({}, cpu::Isa::kPortable);
    const Encoder plain(*portable, net, 64);
    const auto want = plain.run();
    double worst = 0, top = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(want[i]) - features[i]));
      top = std::max(top, std::fabs(static_cast<double>(want[i])));
    }
    if (!(worst <= 1e-3 * top)) throw RuntimeError("[bench] features differ by {}", worst);

    const Encoder whole(*backend, net, 768);
    std::printf("%s, %.0f GFLOP, arena %.0f MB\n", backend->description().c_str(),
                whole.flops() / 1e9, static_cast<double>(whole.program->arena_bytes()) / 1e6);
    print_times(whole, list);
    whole.program->set_profiling(false);
    benchmark::RegisterBenchmark(
        "picture of 768 x 768",
        [&](benchmark::State& state) {
          for (auto _ : state) benchmark::DoNotOptimize(whole.run().data());
          state.counters["GFLOP/s"] =
              benchmark::Counter(whole.flops() / 1e9 * static_cast<double>(state.iterations()),
                                 benchmark::Counter::kIsRate);
        })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const Error& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
  return 0;
}
