// Layers that draft tokens (multi-token prediction): loaded on demand, equal to their definition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/reference/reference_backend.h"
#include "base/json.h"
#include "checkpoint/quantize.h"
#include "checkpoint/testing.h"
#include "models/draft_testing.h"
#include "models/family_testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

std::filesystem::path draft_fixture(std::string_view name) {
  return std::filesystem::path(DECANT_TEST_DATA) / "mtp" / name;
}

class DraftGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(DraftGolden, MatchesTheDefinition) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(draft_fixture(GetParam()), {.draft = true});
  expect_draft_golden(*backend, *loaded.model, draft_fixture(GetParam()),
                      {.bound = golden_bound(*loaded.model)});
}

INSTANTIATE_TEST_SUITE_P(Fixtures, DraftGolden,
                         ::testing::Values("qwen3_5", "qwen3_5_moe", "glm4_moe", "glm4_moe_lite",
                                           "glm_moe_dsa"),
                         [](const auto& test) { return std::string(test.param); });

// qwen3_5.md section 2.3: whether one is added to the draft's norms is told by the model's
// convolution, not by the draft's tensors being there.
TEST(Draft, ReadsAConversionsNormsAsTheyAre) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(draft_fixture("qwen3_5_converted"), {.draft = true});
  expect_draft_golden(*backend, *loaded.model, draft_fixture("qwen3_5"), {.bound = 2e-4});
}

// A quantised copy keeps the layer: its matrices packed, its norms told apart as before.
TEST(Draft, IsQuantisedWithItsModel) {
  const auto backend = make_reference_backend();
  for (const char* name : {"qwen3_5", "glm4_moe", "glm_moe_dsa"}) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    quantize_checkpoint(draft_fixture(name), folder / "out", Recipe::named("8bit"));
    const LoadedModel loaded = load_model(folder / "out", {.draft = true});
    ASSERT_TRUE(loaded.spec.draft && loaded.spec.draft->loaded);
    int packed = 0;
    for (const Weight* weight : loaded.weights->weights())
      if (weight->name.ends_with("eh_proj") || weight->name.ends_with("mtp.fc"))
        packed += weight->format.bits == 8;
    EXPECT_EQ(packed, 1);
    const Golden golden(draft_fixture(name));
    const auto prompt = golden.ints("input_ids");
    std::vector<int32_t> shifted(prompt.begin() + 1, prompt.end());
    shifted.push_back(golden.ints("next_id")[0]);
    DraftRunner runner(*backend, *loaded.model, {});
    const auto main = runner.step(DraftRunner::Kind::kForwardAndHidden, Phase::kPrefill, 0, prompt);
    const auto got =
        runner.step(DraftRunner::Kind::kDraft, Phase::kPrefill, 0, shifted, main.hidden);
    const auto want = golden.floats("draft_logits");
    ASSERT_EQ(got.logits.size(), want.size());
    double squares = 0, errors = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      squares += static_cast<double>(want[i]) * want[i];
      errors += std::pow(static_cast<double>(got.logits[i]) - want[i], 2);
    }
    EXPECT_LT(errors / squares, 0.1);  // logits of another model would be near 2
  }
}

// Without asking nothing of it is read: the same weights, caches and steps as of a file without it.
TEST(Draft, CostsNothingUnlessAskedFor) {
  for (const char* name : {"qwen3_5", "qwen3_5_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"}) {
    SCOPED_TRACE(name);
    const LoadedModel plain = load_model(draft_fixture(name));
    const LoadedModel drafting = load_model(draft_fixture(name), {.draft = true});
    ASSERT_TRUE(plain.spec.draft.has_value());
    EXPECT_FALSE(plain.spec.draft->loaded);
    ASSERT_TRUE(drafting.spec.draft.has_value());
    EXPECT_TRUE(drafting.spec.draft->loaded);
    EXPECT_EQ(plain.spec.draft->kv, drafting.spec.draft->kv);
    EXPECT_EQ(plain.spec.kv, drafting.spec.kv);
    EXPECT_EQ(plain.spec.states, drafting.spec.states);
    EXPECT_EQ(plain.spec.draft->kv.size(), std::string_view(name) == "glm_moe_dsa" ? 2u : 1u);
    EXPECT_LT(plain.weights->bytes(), drafting.weights->bytes());
    const auto nodes = [](const LoadedModel& loaded) {
      Graph graph({Phase::kDecode, 1, 1, 1});
      loaded.model->forward(graph);
      return graph.nodes().size();
    };
    EXPECT_EQ(nodes(plain), nodes(drafting));
    for (const Weight* weight : plain.weights->weights())
      EXPECT_EQ(weight->name.find("mtp."), std::string::npos) << weight->name;
    Graph graph({Phase::kDecode, 1, 1, 1});
    EXPECT_THROW(plain.model->forward_and_hidden(graph), InternalError);
    EXPECT_THROW(plain.model->draft(graph, {}), InternalError);
  }
  const LoadedModel none =
      load_model(std::filesystem::path(DECANT_TEST_DATA) / "zoo" / "glm4_moe", {.draft = true});
  EXPECT_FALSE(none.spec.draft.has_value());
}

// A draft layer that is asked for is checked as every other layer is.
TEST(Draft, NamesWhatIsWrongWithIts) {
  const auto with_config = [](const char* name, const char* patch) {
    TemporaryFolder folder;
    Json config = read_json_file(draft_fixture(name) / "config.json");
    config.merge_patch(parse_json(patch, "patch"));
    write_file(folder / "config.json", config.dump());
    std::filesystem::create_symlink(draft_fixture(name) / "model.safetensors",
                                    folder / "model.safetensors");
    std::optional<bool> found;
    const std::string error = model_error(
        [&] { found = load_model(folder.path(), {.draft = true}).spec.draft.has_value(); });
    return std::pair(error, found);
  };
  // A config that says there is none: the tensors are left alone.
  EXPECT_EQ(with_config("qwen3_5", R"({"mtp_num_hidden_layers": 0})"),
            std::pair(std::string(), std::optional<bool>(false)));
  EXPECT_EQ(with_config("qwen3_5", R"({"mtp_num_hidden_layers": null})"),
            std::pair(std::string(), std::optional<bool>(true)));
  EXPECT_EQ(with_config("glm4_moe", R"({"num_nextn_predict_layers": null})"),
            std::pair(std::string(), std::optional<bool>(true)));
  EXPECT_THAT(with_config("glm4_moe", R"({"num_nextn_predict_layers": 0})").first,
              HasSubstr("model.layers.2.eh_proj.weight"));
  EXPECT_THAT(with_config("qwen3_5", R"({"mtp_num_hidden_layers": -1})").first,
              HasSubstr("mtp_num_hidden_layers: expected an integer from 0 to 64"));
  EXPECT_THAT(with_config("qwen3_5", R"({"mtp_use_dedicated_embeddings": true})").first,
              HasSubstr("mtp_use_dedicated_embeddings: expected false"));
  EXPECT_THAT(with_config("qwen3_5", R"({"intermediate_size": 64})").first,
              HasSubstr("mtp.layers.0.mlp.gate_proj"));
  EXPECT_THAT(with_config("glm_moe_dsa", R"({"index_head_dim": 64})").first,
              HasSubstr("model.layers.3.self_attn.indexer.wk"));
}

}  // namespace
}  // namespace decant
