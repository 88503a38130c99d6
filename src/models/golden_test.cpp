#include <gtest/gtest.h>

#include "backend/reference/reference_backend.h"
#include "models/golden_testing.h"

namespace decant {
namespace {

using namespace decant::testing;

std::filesystem::path fixture(std::string_view name) {
  return std::filesystem::path(DECANT_TEST_DATA) / name;
}

class GoldenFixture : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenFixture, MatchesTheReferenceOutputs) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(fixture(GetParam()));
  expect_golden(*backend, *loaded.model, fixture(GetParam()),
                {.bound = golden_bound(*loaded.model)});
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, GoldenFixture,
    ::testing::Values("zoo/llama", "zoo/qwen3", "zoo/qwen3_moe", "zoo/gemma3n_text", "zoo/gemma3n",
                      "zoo/gemma4_dense", "zoo/gemma4_e2b", "zoo/gemma4_moe", "zoo/gemma4_unified",
                      "mlx/gemma3n_text-4bit", "mlx/gemma4_e2b-4bit", "mlx/gemma4_moe-4bit",
                      "mlx_vlm/gemma4_moe-4bit-vlm", "mlx/llama-4bit", "mlx/qwen3-1bit",
                      "mlx/qwen3-2bit", "mlx/qwen3-3bit", "mlx/qwen3-4bit", "mlx/qwen3-4bit-fp16",
                      "mlx/qwen3-4bit-g128-partial", "mlx/qwen3-4bit-g32", "mlx/qwen3-4bit-sharded",
                      "mlx/qwen3-5bit", "mlx/qwen3-6bit", "mlx/qwen3-8bit",
                      "mlx/qwen3_wide-4bit-g128", "mlx/qwen3_moe-4bit", "mlx/qwen3_moe-mixed_3_4",
                      "mlx/qwen3_moe-mixed_4_6", "zoo/qwen3_5", "zoo/qwen3_5_moe", "zoo/qwen3_next",
                      "mlx/qwen3_5-4bit", "mlx/qwen3_5_moe-4bit", "zoo/glm4_moe",
                      "mlx/glm4_moe-4bit", "zoo/glm4_moe_lite", "zoo/glm_moe_dsa",
                      "mlx/glm_moe_dsa-4bit", "mlx/glm_moe_dsa_shared-4bit",
                      "mlx/glm_moe_dsa-nvfp4", "mlx/qwen3-mxfp4", "mlx/qwen3-mxfp8",
                      "mlx/qwen3-nvfp4", "mlx/qwen3-dynamic", "mlx/qwen3-unlisted-overrides",
                      "mlx/qwen3_moe-mxfp4", "mlx/qwen3_moe-nvfp4-global_scale", "hf_formats/fp8",
                      "hf_formats/fp8-moe", "hf_formats/ct-mixed", "hf_formats/ct-nvfp4-moe",
                      "hf_formats/modelopt", "hf_formats/awq4", "hf_formats/gptq4-moe",
                      "hf_formats/gptq4-asym", "hf_formats/gptq8"),
    [](const auto& test) {
      std::string name = test.param;
      for (char& c : name)
        if (c == '/' || c == '-') c = '_';
      return name;
    });

}  // namespace
}  // namespace decant
