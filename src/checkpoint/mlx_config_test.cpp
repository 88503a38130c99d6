#include "checkpoint/mlx_config.h"

#include <gtest/gtest.h>

namespace decant {
namespace {

Json parsed(const char* text) { return Json::parse(text); }

TEST(MlxConfig, SpellsRotationBothWays) {
  EXPECT_EQ(with_mlx_spellings(parsed(R"({"rope_parameters": {"rope_type": "default",
                "rope_theta": 1e6}})")),
            parsed(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
                "rope_theta": 1e6})"));
  const Json scaled = with_mlx_spellings(parsed(R"({"rope_scaling": null, "rope_parameters":
      {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}})"));
  EXPECT_EQ(scaled["rope_theta"], 5e5);
  EXPECT_EQ(scaled["rope_scaling"], parsed(R"({"rope_type": "llama3", "factor": 8.0})"));
}

TEST(MlxConfig, SpellsKindsOfLayersInsideTextConfig) {
  const Json got = with_mlx_spellings(parsed(R"({"model_type": "gemma3n", "text_config": {
      "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                          "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}})"));
  EXPECT_EQ(got["text_config"]["rope_theta"], 1e6);
  EXPECT_EQ(got["text_config"]["rope_local_base_freq"], 1e4);
  EXPECT_FALSE(got["text_config"].contains("rope_scaling"));
}

TEST(MlxConfig, LeavesWhatIsThere) {
  const Json old = parsed(R"({"rope_theta": 3.0, "num_experts": 4, "num_local_experts": 4,
      "rope_scaling": {"type": "linear", "factor": 2.0},
      "rope_parameters": {"rope_type": "yarn", "rope_theta": 7.0}})");
  EXPECT_EQ(with_mlx_spellings(old), old);
  EXPECT_EQ(with_mlx_spellings(parsed(R"({"num_local_experts": 8})"))["num_experts"], 8);
  const Json odd = parsed(R"({"rope_parameters": 3, "text_config": []})");
  EXPECT_EQ(with_mlx_spellings(odd), odd);
}

}  // namespace
}  // namespace decant
