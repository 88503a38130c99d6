// The small trained models of the demo, against float32 outputs of their references.
#include <gtest/gtest.h>

#include "backend/reference/reference_backend.h"
#include "models/golden_testing.h"

namespace decant {
namespace {

using namespace decant::testing;

TEST(Demo, Gemma3nAnswersAndPredictsAsItsReference) {
  const auto backend = make_reference_backend();
  const auto folder = std::filesystem::path(DECANT_TEST_DATA) / "demo" / "gemma3n";
  const LoadedModel loaded = load_model(folder);
  EXPECT_EQ(loaded.spec.eos_token_ids, (std::vector<int32_t>{1, 8}));
  // The reference kernels are slow: one text (past the window of 128) and the short answers.
  expect_demo_golden(*backend, *loaded.model, folder,
                     {.texts = 1, .tokens = 192, .longest_answer = 10});
}

// Without its pictures: the tower's weights lie in the file, and are not asked for.
TEST(Demo, Gemma4AnswersAndPredictsAsItsReference) {
  const auto backend = make_reference_backend();
  const auto folder = std::filesystem::path(DECANT_TEST_DATA) / "demo" / "gemma4_vlm";
  const LoadedModel loaded = load_model(folder);
  EXPECT_EQ(loaded.spec.eos_token_ids, (std::vector<int32_t>{1, 8}));
  EXPECT_EQ(loaded.spec.windows, (std::vector<int>{256, 0}));
  // One text past the window.
  expect_demo_golden(*backend, *loaded.model, folder,
                     {.texts = 1, .tokens = 320, .longest_answer = 10});
}

TEST(Demo, Qwen35MoeAnswersAndPredictsAsItsReference) {
  const auto backend = make_reference_backend();
  const auto folder = std::filesystem::path(DECANT_TEST_DATA) / "demo" / "qwen3_5_moe";
  const LoadedModel loaded = load_model(folder);
  EXPECT_EQ(loaded.spec.eos_token_ids, (std::vector<int32_t>{1470, 1468}));
  expect_demo_golden(*backend, *loaded.model, folder,
                     {.texts = 1, .tokens = 96, .longest_answer = 10},
                     {.bound = golden_bound(*loaded.model)});
}

}  // namespace
}  // namespace decant
