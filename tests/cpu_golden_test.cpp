// The CPU backend against the official implementations, and what it promises about bits.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "backend/cpu/cpu_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "models/audio_testing.h"
#include "models/draft_testing.h"
#include "models/golden_testing.h"
#include "models/mobilenet_testing.h"
#include "ops/sample.h"
#include "sampling/sampler.h"

namespace {

// Counts allocations of the whole process while `counting` is on: a step must make none.
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

}  // namespace

// The whole set is replaced: the library's nothrow and aligned forms would hand memory of another
// allocator to these deletes. The array forms call the scalar ones.
static void* counted(std::size_t size, std::size_t alignment) noexcept {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t rounded =
      (std::max<std::size_t>(size, 1) + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded);
}
static void* counted_or_throw(std::size_t size, std::size_t alignment) {
  if (void* memory = counted(size, alignment)) return memory;
  throw std::bad_alloc();
}
constexpr std::size_t kDefault = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

void* operator new(std::size_t size) { return counted_or_throw(size, kDefault); }
void* operator new(std::size_t size, std::align_val_t a) {
  return counted_or_throw(size, std::size_t(a));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return counted(size, kDefault);
}
void* operator new(std::size_t size, std::align_val_t a, const std::nothrow_t&) noexcept {
  return counted(size, std::size_t(a));
}
// GCC pairs a replaced operator with the library's other half when it inlines only one of them.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace decant {
namespace {

using testing::Golden;
using testing::ModelRunner;
using testing::RunOptions;

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(DECANT_TEST_DATA) / name;
}

const std::vector<std::string> kModels = {"zoo/llama",
                                          "zoo/qwen3",
                                          "zoo/qwen3_moe",
                                          "zoo/gemma3n_text",
                                          "zoo/gemma3n",
                                          "zoo/gemma4_dense",
                                          "zoo/gemma4_e2b",
                                          "zoo/gemma4_moe",
                                          "zoo/gemma4_unified",
                                          "zoo/qwen3_5",
                                          "zoo/qwen3_5_moe",
                                          "zoo/qwen3_next",
                                          "mlx/qwen3_5-4bit",
                                          "mlx/qwen3_5_moe-4bit",
                                          "mlx/llama-4bit",
                                          "mlx/qwen3-1bit",
                                          "mlx/qwen3-2bit",
                                          "mlx/qwen3-3bit",
                                          "mlx/qwen3-4bit",
                                          "mlx/qwen3-5bit",
                                          "mlx/qwen3-6bit",
                                          "mlx/qwen3-8bit",
                                          "mlx/qwen3-4bit-fp16",
                                          "mlx/qwen3-4bit-g32",
                                          "mlx/qwen3-4bit-g128-partial",
                                          "mlx/qwen3-4bit-sharded",
                                          "mlx/qwen3-mxfp4",
                                          "mlx/qwen3-mxfp8",
                                          "mlx/qwen3-nvfp4",
                                          "mlx/qwen3-dynamic",
                                          "mlx/qwen3-unlisted-overrides",
                                          "mlx/qwen3_moe-mxfp4",
                                          "mlx/qwen3_moe-nvfp4-global_scale",
                                          "mlx/qwen3_wide-4bit-g128",
                                          "mlx/qwen3_moe-4bit",
                                          "mlx/qwen3_moe-mixed_3_4",
                                          "mlx/qwen3_moe-mixed_4_6",
                                          "mlx/gemma3n_text-4bit",
                                          "mlx/gemma4_e2b-4bit",
                                          "mlx/gemma4_moe-4bit",
                                          "mlx_vlm/gemma4_moe-4bit-vlm",
                                          "zoo/glm4_moe",
                                          "mlx/glm4_moe-4bit",
                                          "zoo/glm4_moe_lite",
                                          "zoo/glm_moe_dsa",
                                          "mlx/glm_moe_dsa-4bit",
                                          "mlx/glm_moe_dsa_shared-4bit",
                                          "mlx/glm_moe_dsa-nvfp4",
                                          "hf_formats/fp8",
                                          "hf_formats/fp8-moe",
                                          "hf_formats/ct-mixed",
                                          "hf_formats/ct-nvfp4-moe",
                                          "hf_formats/modelopt",
                                          "hf_formats/awq4",
                                          "hf_formats/gptq4-moe",
                                          "hf_formats/gptq4-asym",
                                          "hf_formats/gptq8"};

class CpuGolden : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override {
    if (!cpu::isa_available(GetParam()))
      GTEST_SKIP() << name_of(GetParam()) << ": this processor lacks the instruction set";
    backend_ = make_cpu_backend({.threads = 2}, GetParam());
  }
  std::unique_ptr<Backend> backend_;
};

TEST_P(CpuGolden, ExactLogitsEqualTheOfficialOnes) {
  for (const std::string& name : kModels) {
    const LoadedModel loaded = load_model(fixture(name));
    testing::expect_golden(*backend_, *loaded.model, fixture(name),
                           {.bound = testing::golden_bound(*loaded.model)});
  }
}

TEST_P(CpuGolden, DraftLayersEqualTheirDefinition) {
  for (const char* name : {"qwen3_5", "qwen3_5_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"}) {
    const auto folder = fixture("mtp") / name;
    const LoadedModel loaded = load_model(folder, {.draft = true});
    testing::expect_draft_golden(*backend_, *loaded.model, folder,
                                 {.bound = testing::golden_bound(*loaded.model)});
  }
}

TEST_P(CpuGolden, ConvolvesPicturesAsTimm) {
  testing::expect_mobilenet_golden(*backend_, fixture("zoo/gemma3n_vision_tower"));
}

TEST_P(CpuGolden, TurnsPicturesIntoRowsAsTransformers) {
  const LoadedModel loaded = load_model(fixture("zoo/gemma3n"));
  testing::expect_gemma3n_vision(*backend_, *loaded.model, fixture("zoo/gemma3n"), true);
}

// However many threads share a picture, and in the default route as in the exact one: its weights
// are not quantised.
TEST_P(CpuGolden, FeaturesOfPicturesDoNotDependOnThreads) {
  const LoadedModel loaded = load_model(fixture("zoo/gemma3n"));
  const Tower& tower = *loaded.model->tower(Medium::kImage);
  const TowerInput input = testing::formula_picture(96, 160);
  const auto one = testing::run_tower(*make_cpu_backend({.threads = 1}, GetParam()), tower, input);
  const auto three =
      testing::run_tower(*make_cpu_backend({.threads = 3}, GetParam()), tower, input, {});
  EXPECT_EQ(one, three);
}

// A row's logits alone, and among neighbours of other lengths and contents, bit for bit, in both
// routes.
TEST_P(CpuGolden, RowsDoNotDependOnTheirNeighbours) {
  for (const char* name :
       {"zoo/qwen3", "zoo/qwen3_moe", "zoo/gemma3n_text", "zoo/gemma4_e2b", "mlx/gemma4_moe-4bit",
        "mlx/qwen3_moe-mixed_4_6", "mlx/qwen3-3bit", "zoo/qwen3_5_moe", "mlx/qwen3_5-4bit",
        "mlx/glm4_moe-4bit", "mlx/glm_moe_dsa_shared-4bit", "mlx/qwen3_moe-mxfp4",
        "mlx/qwen3_moe-nvfp4-global_scale", "mlx/qwen3-mxfp8", "hf_formats/awq4",
        "hf_formats/ct-nvfp4-moe"})
    for (bool exact : {true, false}) {
      SCOPED_TRACE(std::string(name) + (exact ? " exact" : " default"));
      const LoadedModel loaded = load_model(fixture(name));
      RunOptions options;
      options.compile.exact = exact;
      options.kv_dtype = exact ? DType::kF32 : DType::kBF16;
      const auto vocab = static_cast<size_t>(loaded.spec.vocab_size);
      const Golden golden(fixture(name));
      const auto prompt = golden.ints("input_ids");
      const std::vector<int32_t> next = golden.ints("forced_ids");
      // Neighbour i has taken 1 + 7 i mod 48 tokens of a rotated prompt.
      const auto prompt_of = [&](int i) {
        std::vector<int32_t> tokens;
        const size_t length =
            i == 0 ? prompt.size() : 1 + static_cast<size_t>(i) * 7 % prompt.size();
        for (size_t t = 0; t < length; ++t)
          tokens.push_back(prompt[(t * 5 + static_cast<size_t>(i) * 3) % prompt.size()]);
        return tokens;
      };
      std::vector<std::vector<float>> alone;
      for (int rows : {1, 2, 3, 8, 17, 64}) {
        ModelRunner runner(*backend_, *loaded.model, options, 128, rows);
        for (int i = 0; i < rows; ++i) {
          runner.add_sequence();
          runner.feed_last(Phase::kPrefill, prompt_of(i), i);
        }
        for (size_t step = 0; step < 3; ++step) {
          std::vector<ModelRunner::Part> parts;
          // The row under test takes another place in every batch.
          for (int i = 0; i < rows; ++i) {
            const int sequence = (i + rows / 2) % rows;
            parts.push_back(
                {sequence, {next[(step + static_cast<size_t>(sequence)) % next.size()]}, {0}});
          }
          const auto logits = runner.step(Phase::kDecode, parts);
          for (int i = 0; i < rows; ++i) {
            if (parts[static_cast<size_t>(i)].sequence != 0) continue;
            const std::vector<float> row(logits.begin() + i * static_cast<int64_t>(vocab),
                                         logits.begin() + (i + 1) * static_cast<int64_t>(vocab));
            if (rows == 1) {
              alone.push_back(row);
            } else {
              EXPECT_EQ(std::memcmp(row.data(), alone[step].data(), vocab * 4), 0)
                  << rows << " rows, step " << step;
            }
          }
        }
      }
    }
}

// Chunk cuts do not change a bit of what follows; where there is a recurrent state, cuts at
// absolute multiples of a page.
TEST_P(CpuGolden, ChunksDoNotChangeBits) {
  for (const char* name :
       {"zoo/llama", "zoo/gemma3n_text", "zoo/gemma4_dense", "mlx/gemma4_e2b-4bit",
        "mlx/gemma4_moe-4bit", "mlx/qwen3-4bit", "zoo/qwen3_5", "zoo/qwen3_next",
        "mlx/qwen3_5_moe-4bit", "zoo/glm4_moe_lite", "mlx/glm_moe_dsa_shared-4bit"})
    for (bool exact : {true, false}) {
      SCOPED_TRACE(name);
      const LoadedModel loaded = load_model(fixture(name));
      RunOptions options;
      options.compile.exact = exact;
      options.kv_dtype = exact ? DType::kF32 : DType::kBF16;
      auto prompt = Golden(fixture(name)).ints("input_ids");
      const auto more = Golden(fixture(name)).ints("forced_ids");
      prompt.insert(prompt.end(), more.begin(), more.end());
      std::vector<size_t> chunks = {prompt.size(), 1, 7, 16, 64};
      if (!loaded.spec.states.empty()) {
        chunks = {200, 64, 128};
      } else if (loaded.spec.windows.size() > 1) {
        chunks[0] = 200;  // over several windows, whose pages go back to the pool on the way
      }
      while (prompt.size() < chunks[0]) prompt.push_back(prompt[prompt.size() * 7 % 31]);
      std::vector<float> whole;
      for (const size_t chunk : chunks) {
        ModelRunner runner(*backend_, *loaded.model, options, 256);
        runner.add_sequence();
        std::vector<float> all;
        for (size_t at = 0; at < prompt.size(); at += chunk) {
          const auto rows = runner.feed(
              Phase::kPrefill, std::span(prompt).subspan(at, std::min(chunk, prompt.size() - at)));
          all.insert(all.end(), rows.begin(), rows.end());
        }
        if (whole.empty()) {
          whole = all;
        } else {
          EXPECT_EQ(std::memcmp(whole.data(), all.data(), whole.size() * 4), 0)
              << "chunks of " << chunk;
        }
      }
    }
}

// Tokens of a decode step that are taken back leave no trace: whatever was drafted, the accepted
// ones give the bits that they give one by one.
TEST_P(CpuGolden, DraftsThatAreTakenBackLeaveNoTrace) {
  for (const char* name : {"zoo/qwen3_5", "mlx/qwen3_5_moe-4bit", "zoo/glm_moe_dsa",
                           "mlx/glm_moe_dsa_shared-4bit", "zoo/gemma3n_text"})
    for (bool exact : {true, false}) {
      SCOPED_TRACE(std::string(name) + (exact ? " exact" : " default"));
      const LoadedModel loaded = load_model(fixture(name));
      RunOptions options;
      options.compile.exact = exact;
      options.kv_dtype = exact ? DType::kF32 : DType::kBF16;
      const auto vocab = static_cast<std::ptrdiff_t>(loaded.spec.vocab_size);
      const auto prompt = Golden(fixture(name)).ints("input_ids");
      const auto next = Golden(fixture(name)).ints("forced_ids");
      ModelRunner single(*backend_, *loaded.model, options);
      ModelRunner drafted(*backend_, *loaded.model, options);
      for (ModelRunner* runner : {&single, &drafted}) {
        runner->add_sequence();
        runner->feed_last(Phase::kPrefill, prompt);
      }
      std::vector<float> one_by_one, accepted;
      for (size_t i = 0; i < 8; ++i) {
        const auto row = single.feed(Phase::kDecode, {&next[i], 1});
        one_by_one.insert(one_by_one.end(), row.begin(), row.end());
      }
      // Steps of up to four tokens of which the first few are right.
      size_t at = 0;
      for (const auto& [tokens, right] : {std::pair{4, 2}, {3, 1}, {1, 1}, {4, 4}}) {
        std::vector<int32_t> step;
        for (int t = 0; t < tokens; ++t)
          step.push_back(t < right ? next[at + static_cast<size_t>(t)] : 50 + t);
        const auto rows = drafted.feed(Phase::kDecode, step);
        accepted.insert(accepted.end(), rows.begin(), rows.begin() + right * vocab);
        drafted.take_back(tokens - right);
        at += static_cast<size_t>(right);
      }
      ASSERT_EQ(accepted.size(), one_by_one.size());
      EXPECT_EQ(std::memcmp(accepted.data(), one_by_one.data(), accepted.size() * 4), 0);
    }
}

TEST_P(CpuGolden, HearsAsTheReferencesDo) {
  for (const char* name : {"zoo/gemma3n_audio", "zoo/gemma4_audio"}) {
    const LoadedModel loaded = load_model(fixture(name));
    testing::expect_audio_golden(*backend_, *loaded.model, fixture(name));
  }
}

// What follows in a sound changes no bit of what came before, wherever blocks of frames are cut.
TEST_P(CpuGolden, HearsEachFrameAlone) {
  for (const char* name : {"zoo/gemma3n_audio", "zoo/gemma4_audio"})
    for (bool exact : {true, false}) {
      SCOPED_TRACE(std::string(name) + (exact ? " exact" : " default"));
      const LoadedModel loaded = load_model(fixture(name));
      const Tower& tower = *loaded.model->tower(Medium::kAudio);
      const auto mel = Golden(fixture(name), "golden_audio.safetensors").floats("mel");
      const auto hidden = static_cast<size_t>(loaded.spec.hidden_size);
      const auto whole =
          testing::run_tower(*backend_, tower, testing::sound_of(mel, 144, 144), {.exact = exact});
      for (const int64_t frames : {16, 64, 68, 97, 143}) {
        const auto part = testing::run_tower(
            *backend_, tower, testing::sound_of(mel, frames, frames), {.exact = exact});
        // The last frame before the convolutions end sees beyond the sound.
        const bool gemma3n = loaded.spec.model_type == "gemma3n";
        const auto after_convolutions = static_cast<size_t>(frames / 4 - 1);
        const size_t rows = gemma3n ? (after_convolutions + 3) / 4 : after_convolutions;
        ASSERT_LE(rows * hidden, part.size());
        EXPECT_EQ(std::memcmp(part.data(), whole.data(), rows * hidden * 4), 0) << frames;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Sets, CpuGolden,
                         ::testing::Values(cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512),
                         [](const auto& each) { return std::string(name_of(each.param)); });

// Program::run for a given batch, without the runner's own vectors around it.
class CpuStepOf : public ::testing::TestWithParam<const char*> {};

TEST_P(CpuStepOf, AllocatesNothing) {
  const LoadedModel loaded = load_model(fixture(GetParam()));
  auto backend = make_cpu_backend({.threads = 2});
  PoolSpec spec;
  spec.kv = loaded.spec.kv;
  spec.pages_per_group.assign(loaded.spec.windows.size(), 8);
  auto pools = backend->make_pools(spec);
  const std::vector<int32_t> table = {3, 1, 0, 2};
  for (Phase phase : {Phase::kDecode, Phase::kPrefill}) {
    const int tokens = phase == Phase::kDecode ? 1 : 40;
    Graph graph({phase, tokens, 1, 1});
    const Value logits = loaded.model->forward(graph);
    graph.mark_output(logits, "logits");
    graph.mark_output(sample(logits), "tokens");
    auto program = backend->compile(graph, *pools, {});
    Batch batch;
    batch.phase = phase;
    batch.sequences = {{.first = 0, .count = tokens, .past = 70}};
    for (int i = 0; i < tokens; ++i) {
      batch.tokens.push_back(i % 300);
      batch.positions.push_back(70 + i);
      batch.sequence_of.push_back(0);
    }
    batch.outputs = {tokens - 1};
    batch.sampling.resize(1);
    batch.page_tables = {table.data()};
    program->run(batch);
    const std::vector<TokenBias> bias = {{3, -100}, {5, 2}};
    const std::vector<TokenCount> history = {{7, 2, true}, {8, 0, true}};
    const std::vector<SamplingRow> rows = {{},
                                           {.temperature = 1},
                                           {.temperature = 1, .top_k = 5},
                                           {.temperature = 1, .top_p = 0.9f},
                                           {.temperature = 1, .min_p = 0.1f},
                                           {.temperature = 1, .typical_p = 0.9f},
                                           {.temperature = 1,
                                            .top_k = 100,
                                            .top_p = 0.9f,
                                            .min_p = 0.01f,
                                            .typical_p = 0.95f,
                                            .repetition_penalty = 1.2f,
                                            .presence_penalty = 0.5f,
                                            .frequency_penalty = 0.5f,
                                            .bias = bias,
                                            .history = history}};
    for (const SamplingRow& row : rows) {
      batch.sampling[0] = row;
      allocations = 0;
      counting = true;
      program->run(batch);
      program->run(batch);
      counting = false;
      EXPECT_EQ(allocations.load(), 0) << (phase == Phase::kDecode ? "decode" : "prefill");
      EXPECT_EQ(program->int_output(1)[0], sample_token(program->output(0), row));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CpuStepOf,
                         ::testing::Values("mlx/qwen3_moe-4bit", "mlx/glm_moe_dsa_shared-4bit"),
                         [](const auto& each) {
                           return std::string(each.index == 0 ? "experts" : "sparse");
                         });

// A choice of all positions reads them as dense attention does, to the bit; a smaller one does not.
TEST(SparseAttention, OfAllPositionsIsDenseAttention) {
  const auto backend = make_cpu_backend({.threads = 2});
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("decant-sparse-{}", getpid());
  std::filesystem::create_directory(folder);
  const std::string source = "mlx/glm_moe_dsa_shared-4bit";
  std::filesystem::create_symlink(fixture(source) / "model.safetensors",
                                  folder / "model.safetensors");
  Json config = read_json_file(fixture(source) / "config.json");
  auto prompt = Golden(fixture(source)).ints("input_ids");
  const auto more = Golden(fixture(source)).ints("forced_ids");
  for (const int top_k : {64, 12}) {
    config["index_topk"] = top_k;
    AtomicFile file(folder / "config.json");
    file.write(config.dump());
    file.commit();
    const LoadedModel loaded = load_model(folder);
    std::vector<std::vector<float>> logits;
    for (const bool dense : {false, true}) {
      RunOptions options;
      options.compile.dense_attention = dense;
      ModelRunner runner(*backend, *loaded.model, options);
      runner.add_sequence();
      logits.push_back(runner.feed(Phase::kPrefill, prompt));
      for (const int32_t& token : more) {
        const auto row = runner.feed(Phase::kDecode, {&token, 1});
        logits.back().insert(logits.back().end(), row.begin(), row.end());
      }
    }
    // Up to the 12th token every choice is of all.
    const auto same = static_cast<size_t>(loaded.spec.vocab_size * (top_k == 12 ? 12 : 36));
    ASSERT_EQ(logits[0].size(), static_cast<size_t>(loaded.spec.vocab_size * 36));
    EXPECT_EQ(std::memcmp(logits[0].data(), logits[1].data(), same * 4), 0) << top_k;
    if (top_k == 12) {
      EXPECT_GT(testing::max_difference(logits[0], logits[1]), 1e-3);
    }
  }
  std::filesystem::remove_all(folder);
}

// A weight file cut under a loaded model: the step fails with its name, the process lives.
TEST(CpuStep, FailsWhenAMappedFileIsCut) {
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("decant-cut-{}", getpid());
  std::filesystem::copy(fixture("zoo/qwen3"), folder, std::filesystem::copy_options::recursive);
  std::filesystem::permissions(folder / "model.safetensors", std::filesystem::perms::owner_all);
  {
    const LoadedModel loaded = load_model(folder);
    auto backend = make_cpu_backend({.threads = 2});
    ModelRunner runner(*backend, *loaded.model, {});
    runner.add_sequence();
    const std::vector<int32_t> tokens = {10, 11, 12};
    runner.feed_last(Phase::kPrefill, tokens);
    std::filesystem::resize_file(folder / "model.safetensors", 4096);
    try {
      runner.feed_last(Phase::kPrefill, tokens);
      ADD_FAILURE() << "the step must fail";
    } catch (const RuntimeError& error) {
      EXPECT_NE(std::string(error.what()).find((folder / "model.safetensors").string()),
                std::string::npos)
          << error.what();
    }
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace decant
