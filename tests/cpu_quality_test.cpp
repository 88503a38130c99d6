// What the default route costs in quality: int8 activations against f32 products of the same
// quantised file, on the demonstration model's held-out text.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "checkpoint/quantize.h"
#include "models/golden_testing.h"
#include "program/ledger.h"

namespace decant {
namespace {

using testing::Golden;
using testing::ModelRunner;
using testing::RunOptions;

const std::filesystem::path kDemo = std::filesystem::path(DECANT_TEST_DATA) / "demo/gemma3n";

class Scratch {
 public:
  Scratch()
      : path_(std::filesystem::temp_directory_path() / fmt::format("decant-quality-{}", getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::vector<std::vector<int32_t>> heldout() {
  const auto flat = Golden(kDemo).ints("heldout_ids");
  std::vector<std::vector<int32_t>> rows(8);
  const size_t length = flat.size() / rows.size();
  for (size_t i = 0; i < flat.size(); ++i) rows[i / length].push_back(flat[i]);
  return rows;
}

std::vector<float> logits_of(Backend& backend, const Model& model,
                             const std::vector<int32_t>& tokens, bool exact) {
  RunOptions options;
  options.compile.exact = exact;
  options.kv_dtype = exact ? DType::kF32 : DType::kBF16;
  ModelRunner runner(backend, model, options);
  runner.add_sequence();
  return runner.feed(Phase::kPrefill, tokens);
}

std::vector<double> log_softmax(std::span<const float> row) {
  double top = -INFINITY, total = 0;
  for (float x : row) top = std::max(top, static_cast<double>(x));
  for (float x : row) total += std::exp(x - top);
  std::vector<double> out;
  for (float x : row) out.push_back(x - top - std::log(total));
  return out;
}

struct Agreement {
  double mean_kl = 0;
  double top1 = 0;
};

Agreement compare_routes(const std::filesystem::path& folder) {
  const LoadedModel loaded = load_model(folder);
  auto backend = make_cpu_backend({});
  const auto vocab = static_cast<size_t>(loaded.spec.vocab_size);
  double kl = 0, same = 0, count = 0;
  for (const auto& tokens : heldout()) {
    const auto exact = logits_of(*backend, *loaded.model, tokens, true);
    const auto fast = logits_of(*backend, *loaded.model, tokens, false);
    for (size_t t = 0; t < tokens.size(); ++t) {
      const auto p = log_softmax(std::span(exact).subspan(t * vocab, vocab));
      const auto q = log_softmax(std::span(fast).subspan(t * vocab, vocab));
      for (size_t i = 0; i < vocab; ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
      same += std::max_element(p.begin(), p.end()) - p.begin() ==
                      std::max_element(q.begin(), q.end()) - q.begin()
                  ? 1
                  : 0;
      count += 1;
    }
  }
  return {kl / count, same / count};
}

// Multiplies every 64th row of up_proj by 50 and the matching column of down_proj by 1/50: the same
// function, with the outliers that large models have.
void write_with_outliers(const std::filesystem::path& target) {
  std::filesystem::create_directories(target);
  for (const auto& entry : std::filesystem::directory_iterator(kDemo))
    if (entry.path().filename() != "model.safetensors")
      std::filesystem::copy(entry.path(), target / entry.path().filename());
  const auto source = SafetensorsFile::open(kDemo / "model.safetensors");
  std::vector<TensorDeclaration> declarations;
  for (const TensorInfo& tensor : source->tensors())
    declarations.push_back(
        {tensor.name, tensor.dtype, {tensor.dims().begin(), tensor.dims().end()}});
  SafetensorsWriter writer(target / "model.safetensors", declarations, {{"format", "pt"}});
  for (const TensorInfo& tensor : source->tensors()) {
    std::vector<std::byte> bytes(tensor.bytes.begin(), tensor.bytes.end());
    const bool up = tensor.name.ends_with("mlp.up_proj.weight"),
               down = tensor.name.ends_with("mlp.down_proj.weight");
    if (up || down) {
      ASSERT_EQ(tensor.dtype, DType::kBF16);
      const auto cols = tensor.sizes[1];
      auto* values = reinterpret_cast<uint16_t*>(bytes.data());
      for (size_t i = 0; i < bytes.size() / 2; ++i) {
        const auto channel = up ? static_cast<int64_t>(i) / cols : static_cast<int64_t>(i) % cols;
        if (channel % 64 == 0)
          values[i] = float_to_bf16(bf16_to_float(values[i]) * (up ? 50.0f : 0.02f));
      }
    }
    writer.write(bytes);
  }
  writer.commit();
}

TEST(Quality, ExactBf16EqualsTheReferenceLossAndTexts) {
  const LoadedModel loaded = load_model(kDemo);
  auto backend = make_cpu_backend({});
  const auto vocab = static_cast<size_t>(loaded.spec.vocab_size);
  const Golden golden(kDemo);
  const auto want = golden.floats("heldout_nll");
  size_t at = 0;
  double worst = 0;
  for (const auto& tokens : heldout()) {
    const auto logits = logits_of(*backend, *loaded.model, tokens, true);
    for (size_t t = 0; t + 1 < tokens.size(); ++t, ++at) {
      const auto p = log_softmax(std::span(logits).subspan(t * vocab, vocab));
      worst = std::max(worst, std::fabs(-p[static_cast<size_t>(tokens[t + 1])] - want[at]));
    }
  }
  EXPECT_EQ(at, want.size());
  EXPECT_LT(worst, 2e-3);
  for (int i = 0; i < 6; ++i) {
    const std::string name = fmt::format("prompt{}", i);
    const auto prompt = golden.ints(name + "_ids");
    const auto greedy = golden.ints(name + "_greedy");
    ModelRunner runner(*backend, *loaded.model, {});
    runner.add_sequence();
    auto row = runner.feed_last(Phase::kPrefill, prompt);
    const auto last = golden.floats(name + "_last_logits");
    EXPECT_LE(testing::max_difference(row, last), 1e-4 * testing::range_of(last)) << name;
    for (size_t t = 0; t < greedy.size(); ++t) {
      ASSERT_EQ(testing::top_of(row).first, greedy[t]) << name << " token " << t;
      row = runner.feed(Phase::kDecode, {&greedy[t], 1});
    }
  }
}

TEST(Quality, DefaultRouteStaysCloseToExact) {
  const Scratch scratch;
  for (const char* format : {"4bit", "8bit"}) {
    quantize_checkpoint(kDemo, scratch / format, Recipe::named(format));
    const Agreement agreement = compare_routes(scratch / format);
    RecordProperty(std::string("kl_") + format, fmt::format("{:.2e}", agreement.mean_kl));
    EXPECT_LT(agreement.mean_kl, 1e-3) << format;
    EXPECT_GT(agreement.top1, 0.99) << format;
    EXPECT_GT(agreement.mean_kl, 0) << format << ": both routes gave the same bits";
  }
}

TEST(Quality, OutlierChannelsStayWithinTheirBound) {
  const Scratch scratch;
  write_with_outliers(scratch / "bf16");
  for (const char* format : {"4bit", "8bit"}) {
    quantize_checkpoint(scratch / "bf16", scratch / format, Recipe::named(format));
    const Agreement agreement = compare_routes(scratch / format);
    EXPECT_LT(agreement.mean_kl, 1e-2) << format;
  }
}

TEST(Quality, TheInt8RouteRuns) {
  const Scratch scratch;
  quantize_checkpoint(kDemo, scratch / "4bit", Recipe::named("4bit"));
  const LoadedModel loaded = load_model(scratch / "4bit");
  auto backend = make_cpu_backend({});
  PoolSpec spec;
  spec.kv = loaded.spec.kv;
  spec.pages_per_group.assign(loaded.spec.windows.size(), 4);
  auto pools = backend->make_pools(spec);
  Graph graph({Phase::kDecode, 1, 1, 1});
  graph.mark_output(loaded.model->forward(graph), "logits");
  const auto count = [&](bool exact) {
    auto program = backend->compile(graph, *pools, {.exact = exact});
    return histogram(program->graph());
  };
  const auto fast = count(false), exact = count(true);
  ASSERT_TRUE(fast.contains("cpu.linear_int8"));
  EXPECT_GT(fast.at("cpu.linear_int8"), 80);
  EXPECT_FALSE(exact.contains("cpu.linear_int8"));
}

}  // namespace
}  // namespace decant
