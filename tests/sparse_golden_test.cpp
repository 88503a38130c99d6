// Sparse attention on the CPU around the length where its choice begins to matter, and sequences
// that are cut back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <span>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/json.h"
#include "checkpoint/testing.h"
#include "models/golden_testing.h"

namespace decant {
namespace {

using namespace decant::testing;

constexpr int64_t kTopK = 2048;  // of all releases

/// glm_moe_dsa.md sections 8.5 and 12.4: the zoo's model with the released index_topk.
class SparseBoundary : public ::testing::Test {
 protected:
  SparseBoundary() {
    const auto source = std::filesystem::path(DECANT_TEST_DATA) / "zoo" / "glm_moe_dsa";
    Json config = read_json_file(source / "config.json");
    config["index_topk"] = kTopK;
    write_file(folder_ / "config.json", config.dump());
    std::filesystem::create_symlink(source / "model.safetensors", folder_ / "model.safetensors");
    loaded_ = load_model(folder_.path());
    const auto golden = SafetensorsFile::open(source / "golden_long.safetensors");
    tokens_ = read<int32_t>(*golden, "input_ids");
    rows_ = read<int32_t>(*golden, "rows");
    want_ = read<float>(*golden, "logits");
    vocab_ = static_cast<size_t>(loaded_.spec.vocab_size);
  }
  template <typename T>
  static std::vector<T> read(const SafetensorsFile& file, std::string_view name) {
    const TensorInfo* tensor = file.find(name);
    if (tensor == nullptr) return {};
    std::vector<T> out(tensor->bytes.size() / sizeof(T));
    std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
    return out;
  }
  ModelRunner runner(const RunOptions& options = {}) {
    ModelRunner out(*backend_, *loaded_.model, options, 4160);
    out.add_sequence();
    return out;
  }
  /// Logits of these rows of the tokens up to `end`, fed in chunks that end at `cuts` and every
  /// 512 tokens after the last of them.
  std::vector<float> prefill(ModelRunner& runner, int64_t end, std::span<const int32_t> rows,
                             std::vector<int64_t> cuts = {}) {
    std::vector<float> out;
    for (int64_t at = 0; at < end;) {
      const auto cut = std::find_if(cuts.begin(), cuts.end(), [&](int64_t c) { return c > at; });
      const int64_t to = std::min(cut != cuts.end() ? *cut : at + 512, end);
      std::vector<int32_t> outputs;
      for (const int32_t row : rows)
        if (row >= at && row < to) outputs.push_back(static_cast<int32_t>(row - at));
      // A step answers at least one row; what was not asked for is dropped.
      const bool none = outputs.empty();
      if (none) outputs.push_back(0);
      const auto got = runner.step(Phase::kPrefill,
                                   {{0, {tokens_.begin() + at, tokens_.begin() + to}, outputs}});
      if (!none) out.insert(out.end(), got.begin(), got.end());
      at = to;
    }
    return out;
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend({.threads = 2});
  TemporaryFolder folder_;
  LoadedModel loaded_;
  std::vector<int32_t> tokens_, rows_;
  std::vector<float> want_;
  size_t vocab_ = 0;
};

TEST_F(SparseBoundary, EqualsTheOfficialLogitsOnBothSides) {
  ASSERT_EQ(tokens_.size(), 4096u);
  ASSERT_EQ(want_.size(), rows_.size() * vocab_);
  const double bound = 1e-4 * range_of(want_);
  {
    auto whole = runner();
    EXPECT_LE(max_difference(prefill(whole, 4096, rows_), want_), bound);
  }
  // Over the boundary token by token, on keys that were cached while everything was chosen.
  auto decoding = runner();
  prefill(decoding, 2044, {});
  int compared = 0;
  for (size_t at = 2044; at < 2052; ++at) {
    const auto got = decoding.feed(Phase::kDecode, {&tokens_[at], 1});
    const auto row = std::find(rows_.begin(), rows_.end(), static_cast<int32_t>(at));
    if (row == rows_.end()) continue;
    ++compared;
    const std::span<const float> want(
        want_.data() + static_cast<size_t>(row - rows_.begin()) * vocab_, vocab_);
    EXPECT_LE(max_difference(got, want), bound) << "position " << at;
  }
  EXPECT_EQ(compared, 5);
}

// Wherever a prompt is cut, rows choose from all that is cached: 2047, 2048 and 2049 positions.
TEST_F(SparseBoundary, CutsDoNotChangeBits) {
  const std::vector<int32_t> rows = {2046, 2047, 2048, 2049, 2175};
  for (const bool exact : {true, false}) {
    RunOptions options;
    options.compile.exact = exact;
    options.kv_dtype = exact ? DType::kF32 : DType::kBF16;
    auto first = runner(options);
    const auto whole = prefill(first, 2176, rows, {2176});
    for (const std::vector<int64_t>& cuts :
         std::vector<std::vector<int64_t>>{{2047}, {1000, 2048, 2049, 2050}}) {
      auto cut = runner(options);
      const auto got = prefill(cut, 2176, rows, cuts);
      ASSERT_EQ(got.size(), whole.size());
      EXPECT_EQ(std::memcmp(got.data(), whole.data(), whole.size() * 4), 0)
          << "cut at " << cuts.back() << (exact ? ", exact" : "");
    }
  }
}

// Up to 2048 positions every one is chosen: dense attention to the bit; from there on it is not.
TEST_F(SparseBoundary, IsDenseAttentionUpToIt) {
  const std::vector<int32_t> rows = {100, 2046, 2047, 2048, 2111};
  RunOptions dense;
  dense.compile.dense_attention = true;
  auto a = runner(), b = runner(dense);
  const auto sparse = prefill(a, 2112, rows), all = prefill(b, 2112, rows);
  ASSERT_EQ(sparse.size(), rows.size() * vocab_);
  ASSERT_EQ(all.size(), sparse.size());
  EXPECT_EQ(std::memcmp(sparse.data(), all.data(), 3 * vocab_ * 4), 0);
  for (const size_t row : {size_t{3}, size_t{4}})
    EXPECT_NE(std::memcmp(&sparse[row * vocab_], &all[row * vocab_], vocab_ * 4), 0) << rows[row];
}

// A sequence that is cut back and goes on otherwise is the sequence that went on so at once: what
// caches and indexers held beyond the cut, pages of it included, leaves no trace.
TEST(TrimmedSequences, DecodeAsFreshOnes) {
  const auto backend = make_cpu_backend({.threads = 2});
  for (const char* name : {"zoo/glm_moe_dsa", "mlx/glm_moe_dsa_shared-4bit", "zoo/glm4_moe_lite",
                           "mlx/glm4_moe-4bit", "mlx/qwen3-4bit"})
    for (const bool exact : {true, false}) {
      SCOPED_TRACE(std::string(name) + (exact ? " exact" : " default"));
      const auto folder = std::filesystem::path(DECANT_TEST_DATA) / name;
      const LoadedModel loaded = load_model(folder);
      const Golden golden(folder);
      const auto prompt = golden.ints("input_ids"), next = golden.ints("forced_ids");
      RunOptions options;
      options.compile.exact = exact;
      options.kv_dtype = exact ? DType::kF32 : DType::kBF16;
      ModelRunner trimmed(*backend, *loaded.model, options);
      trimmed.add_sequence();
      trimmed.feed_last(Phase::kPrefill, prompt);
      // A long way that is taken back: other tokens, decoded and prefilled, over two pages.
      std::vector<int32_t> elsewhere;
      for (size_t i = 0; i < 100; ++i) elsewhere.push_back(prompt[(i * 7 + 3) % prompt.size()]);
      for (size_t i = 0; i < 3; ++i) trimmed.feed(Phase::kDecode, {&elsewhere[i], 1});
      trimmed.feed_last(Phase::kPrefill, elsewhere);
      trimmed.feed(Phase::kDecode, {&elsewhere[5], 1});
      for (const int64_t kept : {std::ssize(prompt), std::ssize(prompt) / 2}) {
        ModelRunner fresh(*backend, *loaded.model, options);
        fresh.add_sequence();
        fresh.feed_last(Phase::kPrefill, std::span(prompt).first(static_cast<size_t>(kept)));
        trimmed.rewind(0, kept, 0);
        for (size_t i = 0; i < next.size(); ++i)
          EXPECT_EQ(trimmed.feed(Phase::kDecode, {&next[i], 1}),
                    fresh.feed(Phase::kDecode, {&next[i], 1}))
              << "token " << i << ", kept " << kept;
      }
    }
}

}  // namespace
}  // namespace decant
