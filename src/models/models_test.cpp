#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "backend/reference/reference_backend.h"
#include "base/json.h"
#include "checkpoint/dummy_weights.h"
#include "checkpoint/quantize.h"
#include "checkpoint/testing.h"
#include "models/family_testing.h"
#include "models/gemma3n.h"
#include "models/golden_testing.h"
#include "models/registry.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

TEST(Llama, RefusesConfigsItCannotRun) {
  expect_decoder_refusals(
      "zoo/llama", {{R"({"hidden_act": "mish"})", "hidden_act: expected one of \"silu\""},
                    {R"({"intermediate_size": 0})", "intermediate_size: expected an integer from"},
                    {R"({"intermediate_size": null})", "intermediate_size: expected an integer"},
                    {R"({"vocab_size": null, "hidden_size": null})", "vocab_size, hidden_size"},
                    {R"({"head_dim": null, "hidden_size": 66})", "a divisor of hidden_size 66"},
                    {R"({"attention_bias": "yes"})", "attention_bias: expected true or false"},
                    {R"({"layer_types": ["full_attention", "full_attention", "x"]})",
                     "layer_types: expected only \"full_attention\""}});
}

TEST(Qwen3, RefusesConfigsItCannotRun) {
  expect_decoder_refusals(
      "zoo/qwen3",
      {{R"({"hidden_act": "gelu_fast"})", "hidden_act: expected one of"},
       {R"({"use_sliding_window": true, "sliding_window": null})", "sliding_window: expected an"},
       {R"({"use_sliding_window": true, "sliding_window": 0})", "sliding_window: expected an"},
       {R"({"layer_types": ["full_attention", "full_attention", "chunked_attention"]})",
        "layer_types: expected \"full_attention\" or \"sliding_attention\""},
       {R"({"layer_types": ["full_attention", "full_attention", "sliding_attention"]})",
        "layer_types: expected no \"sliding_attention\" without use_sliding_window"}});
}

TEST(Qwen3Moe, RefusesConfigsItCannotRun) {
  std::vector<Refusal> all = {
      {R"({"num_local_experts": -1})", "num_local_experts: expected an integer from 0 to 16384"},
      {R"({"num_local_experts": 1000000000})", "num_local_experts: expected an integer from 0"},
      {R"({"num_experts_per_tok": 9})", "num_experts_per_tok: expected an integer from 1 to 8"},
      {R"({"num_experts_per_tok": 0})", "num_experts_per_tok: expected an integer from 1 to 8"},
      {R"({"moe_intermediate_size": 0})", "moe_intermediate_size: expected"},
      {R"({"mlp_only_layers": [3]})", "mlp_only_layers: expected layers from 0 to 2"},
      {R"({"mlp_only_layers": "none"})", "mlp_only_layers: expected a list"},
      {R"({"decoder_sparse_step": 0})", "decoder_sparse_step: expected"},
      {R"({"intermediate_size": null})", "intermediate_size: expected"},
      {R"({"use_sliding_window": true})", "use_sliding_window: expected false"}};
  for (const Refusal& refusal : kDecoderRefusals)
    if (std::string_view(refusal.patch).find("layer_types") == std::string_view::npos)
      all.push_back(refusal);
  expect_refusals(config_of("zoo/qwen3_moe"), all);
}

TEST(Gemma3n, RefusesConfigsItCannotRun) {
  std::vector<Refusal> all = {
      {R"({"intermediate_size": [128, 128]})", "intermediate_size: expected a list of 1 or 10"},
      {R"({"intermediate_size": [0]})", "intermediate_size: expected sizes from 1"},
      {R"({"intermediate_size": 0})", "intermediate_size: expected an integer from 1"},
      {R"({"hidden_activation": "silu"})", "hidden_activation: expected \"gelu_pytorch_tanh\""},
      {R"({"activation_sparsity_pattern": [0.5]})", "activation_sparsity_pattern: expected a list"},
      {R"({"activation_sparsity_pattern": 1.0})", "activation_sparsity_pattern: expected numbers"},
      {R"({"activation_sparsity_pattern": -0.1})", "activation_sparsity_pattern: expected numbers"},
      {R"({"num_kv_shared_layers": 10})", "num_kv_shared_layers: expected an integer from 0 to 9"},
      {R"({"num_kv_shared_layers": -1})", "num_kv_shared_layers: expected an integer from 0 to 9"},
      {R"({"num_kv_shared_layers": 9})", "num_kv_shared_layers: expected a layer of the kind of"},
      {R"({"sliding_window": 0})", "sliding_window: expected an integer from 1"},
      {R"({"sliding_window": -5})", "sliding_window: expected an integer from 1"},
      {R"({"altup_num_inputs": 1})", "altup_num_inputs: expected an integer from 2"},
      {R"({"altup_num_inputs": 1000000})", "altup_num_inputs: expected an integer from 2"},
      {R"({"altup_active_idx": 4})", "altup_active_idx: expected an integer from 0 to 3"},
      {R"({"altup_coef_clip": -1})", "altup_coef_clip: expected a number from"},
      {R"({"laurel_rank": 0})", "laurel_rank: expected an integer from 1"},
      {R"({"hidden_size_per_layer_input": 0})", "hidden_size_per_layer_input: expected"},
      {R"({"hidden_size_per_layer_input": 16777216})",
       "hidden_size_per_layer_input: expected times the layers at most"},
      {R"({"vocab_size_per_layer_input": 0})", "vocab_size_per_layer_input: expected"},
      {R"({"final_logit_softcapping": 0})", "final_logit_softcapping: expected a number from"},
      {R"({"attention_bias": true})", "attention_bias: expected false"},
      {R"({"tie_word_embeddings": false})", "tie_word_embeddings: expected true"},
      {R"({"num_attention_heads": null})", "num_attention_heads"},
      {R"({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}})",
       "rope_parameters.full_attention.rope_type: expected"},
      {R"({"rope_parameters": {"sliding_attention": null}})",
       "rope_parameters.sliding_attention: expected an object"},
      {R"({"model_type": "gemma3n"})", "text_config: expected an object"},
      {R"({"layer_types": ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a"]})",
       "layer_types: expected \"full_attention\" or \"sliding_attention\""}};
  for (const Refusal& refusal : kDecoderRefusals)
    if (std::string_view(refusal.patch).find("rope_parameters") == std::string_view::npos)
      all.push_back(refusal);
  expect_refusals(config_of("zoo/gemma3n_text"), all);
}

// The released spelling of sizes by kind and the newer one by layer mean the same model; values
// that are the keys' projection have none of their own.
TEST(Families, AcceptTheLongestConfigsQuickly) {
  Json config = config_of("zoo/gemma3n_text");
  config.merge_patch(parse_json(R"({"num_hidden_layers": 4096, "layer_types": null,
      "intermediate_size": 128, "activation_sparsity_pattern": null})",
                                "patch"));
  EXPECT_EQ(Recorded(config).model->spec().kv.size(), 4092u);
}

TEST(Families, ReportSizesThatTheTensorsContradict) {
  for (const char* name : {"zoo/llama", "zoo/qwen3_moe", "zoo/gemma3n_text", "zoo/gemma4_e2b"}) {
    TemporaryFolder folder;
    Json config = config_of(name);
    (config.contains("text_config") ? config["text_config"] : config)["hidden_size"] = 128;
    write_file(folder / "config.json", config.dump());
    std::filesystem::create_symlink(fixture(fmt::format("{}/model.safetensors", name)),
                                    folder / "model.safetensors");
    EXPECT_THAT(model_error([&] { load_model(folder.path()); }),
                HasSubstr("embed_tokens.weight: expected (384,128), got BF16 (384,64)"))
        << name;
  }
}

TEST(Qwen3, HonoursWindowsAndBiases) {
  Json config = config_of("zoo/qwen3");
  config.erase("layer_types");
  config.merge_patch(parse_json(R"({"use_sliding_window": true, "sliding_window": 8,
      "max_window_layers": 1, "attention_bias": true})",
                                "patch"));
  const Recorded recorded(config);
  const ModelSpec& spec = recorded.model->spec();
  EXPECT_EQ(spec.windows, (std::vector<int>{0, 8}));
  EXPECT_EQ(spec.kv[0].window, 0);
  EXPECT_EQ(spec.kv[2], (KvSpec{2, 64, 8, 1}));
  EXPECT_TRUE(recorded.asked("model.layers.1.self_attn.o_proj.bias"));
  Json llama = config_of("zoo/llama");
  llama["mlp_bias"] = true;
  EXPECT_TRUE(Recorded(llama).asked("model.layers.2.mlp.down_proj.bias"));
  EXPECT_FALSE(Recorded(llama).asked("model.layers.2.self_attn.q_proj.bias"));
}

TEST(Gemma3n, SharesWhatTheLastOwningLayersWrote) {
  const Recorded recorded(config_of("zoo/gemma3n_text"));
  const ModelSpec& spec = recorded.model->spec();
  ASSERT_EQ(spec.kv.size(), 6u);
  EXPECT_EQ(spec.windows, (std::vector<int>{16, 0}));
  EXPECT_FALSE(recorded.asked("model.layers.6.self_attn.k_proj"));
  Graph graph({Phase::kPrefill, 32, 1, 1});
  recorded.model->forward(graph);
  std::vector<std::pair<int, bool>> reads;  // cache, and whether for narrowed rows
  for (const Node& node : graph.nodes())
    if (node.op->name() == "attention")
      reads.emplace_back(graph.value(node.inputs[1]).external_index,
                         graph.value(node.inputs[0]).type.rows == Rows::kOutputs);
  EXPECT_EQ(reads, (std::vector<std::pair<int, bool>>{{0, false},
                                                      {1, false},
                                                      {2, false},
                                                      {3, false},
                                                      {4, false},
                                                      {5, false},
                                                      {4, true},
                                                      {5, true},
                                                      {4, true},
                                                      {5, true}}));
}

TEST(Gemma3n, MixesItsStreamsAlikeInBothForms) {
  const auto backend = make_reference_backend();
  const auto folder = fixture("zoo/gemma3n_text");
  const auto checkpoint = Checkpoint::open(folder);
  const Golden golden(folder);
  const auto prompt = golden.ints("input_ids");
  std::vector<std::vector<float>> logits;
  for (AltupForm form : {AltupForm::kStacked, AltupForm::kSplit}) {
    WeightLoad load(checkpoint, gemma3n_family().renames);
    const auto model =
        make_gemma3n(checkpoint->config(), checkpoint->config_path(), load.root(), form);
    const auto weights = load.finish();
    ModelRunner runner(*backend, *model, {});
    runner.add_sequence();
    logits.push_back(runner.feed(Phase::kPrefill, prompt));
    EXPECT_LE(max_difference(logits.back(), golden.floats("logits")), 1e-4 * range_of(logits[0]));
  }
  EXPECT_LE(max_difference(logits[0], logits[1]), 2e-5 * range_of(logits[0]));
  EXPECT_NE(logits[0], logits[1]);  // they are not the same program
}

TEST(Gemma3n, ReadsEveryLayoutAndLeavesTowersAlone) {
  Json config = Json::object();
  config["model_type"] = "gemma3n";
  config["eos_token_id"] = {1, 106};
  config["text_config"] = config_of("zoo/gemma3n_text");
  // Released files write the rotation in its old keys, and shared layers with dead projections.
  config["text_config"].erase("rope_parameters");
  config["text_config"]["rope_theta"] = 1e6;
  config["text_config"]["rope_local_base_freq"] = 1e4;
  using Kind = WeightRequest::Kind;
  for (const char* prefix : {"model.language_model.", "language_model.model.", "model."}) {
    TemporaryFolder folder;
    const std::string tower = std::string_view(prefix).starts_with("language") ? "" : "model.";
    const std::string head =
        std::string_view(prefix).starts_with("language") ? "language_model.lm_head" : "lm_head";
    write_renamed(
        folder.path(), config,
        [&](const std::string& path) { return prefix + path.substr(std::strlen("model.")); },
        {{Kind::kMatrix, tower + "vision_tower.timm_model.conv_stem.conv", "", {64, 64}},
         {Kind::kVector, tower + "audio_tower.conformer.0.norm.weight", "", Shape{64}},
         {Kind::kMatrix, tower + "embed_vision.embedding", "", {128, 64}},
         {Kind::kMatrix, tower + "embed_audio.embedding", "", {128, 64}},
         {Kind::kMatrix, std::string(prefix) + "layers.9.self_attn.k_proj", "", {128, 64}},
         {Kind::kVector, std::string(prefix) + "layers.9.self_attn.k_norm.weight", "", Shape{64}},
         {Kind::kMatrix, head, "", {384, 64}}});
    LoadedModel loaded;
    EXPECT_EQ(model_error([&] { loaded = load_model(folder.path()); }), "") << prefix;
    EXPECT_EQ(loaded.spec.eos_token_ids, (std::vector<int32_t>{1, 106}));
    EXPECT_EQ(loaded.spec.model_type, "gemma3n");
  }
}

// As the public conversions of quantisation-aware training are: the MLPs at more bits than the
// rest, by overrides of single modules. Six bits here: four make another model of these random
// weights.
TEST(Qwen3, DropsTheHeadOfATiedModel) {
  TemporaryFolder folder;
  write_renamed(folder.path(), config_of("zoo/qwen3"), [](const std::string& path) { return path; },
                {{WeightRequest::Kind::kMatrix, "lm_head", "", {384, 64}}});
  write_file(folder / "generation_config.json", R"({"eos_token_id": [5, 6]})");
  const LoadedModel loaded = load_model(folder.path());
  EXPECT_EQ(loaded.weights->find("lm_head"), nullptr);
  EXPECT_EQ(loaded.spec.eos_token_ids, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(loaded.model->spec().eos_token_ids, std::vector<int32_t>{1});
  write_file(folder / "generation_config.json", R"({"eos_token_id": "x"})");
  EXPECT_THAT(model_error([&] { load_model(folder.path()); }), HasSubstr("generation_config.json"));
}

TEST(LoadDummy, BringsTheTowersWhoseSizesStandInTheConfig) {
  struct Case {
    const char* folder;
    bool pictures, sounds;
  };
  for (const Case& c : {Case{"zoo/gemma4_e2b", true, true}, Case{"zoo/gemma4_dense", true, false},
                        Case{"zoo/gemma4_unified", true, true},
                        Case{"zoo/gemma3n_audio", false, true}, Case{"zoo/gemma3n", false, true},
                        Case{"zoo/qwen3_5", true, false}, Case{"zoo/qwen3", false, false}}) {
    const auto folder = std::filesystem::path(DECANT_TEST_DATA) / c.folder;
    const LoadedModel loaded = load_dummy(folder, {.towers = true});
    EXPECT_EQ(loaded.model->tower(Medium::kImage) != nullptr, c.pictures) << c.folder;
    EXPECT_EQ(loaded.model->tower(Medium::kAudio) != nullptr, c.sounds) << c.folder;
    const LoadedModel text = load_dummy(folder);
    EXPECT_EQ(text.model->tower(Medium::kImage), nullptr) << c.folder;
    EXPECT_EQ(text.model->tower(Medium::kAudio), nullptr) << c.folder;
  }
}

TEST(LoadDummy, RunsEveryFamilyInEveryFormat) {
  const auto backend = make_reference_backend();
  for (const char* name :
       {"zoo/llama", "zoo/qwen3", "zoo/qwen3_moe", "zoo/gemma3n_text", "zoo/gemma4_e2b",
        "zoo/gemma4_moe", "zoo/glm4_moe", "zoo/glm4_moe_lite", "zoo/glm_moe_dsa"})
    for (const Format& format : {Format::dense(DType::kBF16), Format::affine(4, 64)}) {
      TemporaryFolder folder;
      Json config = config_of(name);
      // The table per layer of Gemma 3n and 4 has 384: the last ids read row 0.
      (config.contains("text_config") ? config["text_config"] : config)["vocab_size"] = 400;
      write_file(folder / "config.json", config.dump());
      const LoadedModel loaded = load_dummy(folder.path(), {.format = format, .seed = 3});
      EXPECT_EQ(loaded.checkpoint->files()[0]->data_offset() % 64, 8u);
      EXPECT_FALSE(std::filesystem::exists(loaded.checkpoint->folder()));
      ModelRunner runner(*backend, *loaded.model, {});
      runner.add_sequence();
      const std::vector<int32_t> tokens = {3, 399, 0, 384, 17};
      const auto logits = runner.feed_last(Phase::kPrefill, tokens);
      EXPECT_EQ(logits.size(), 400u);
      EXPECT_GT(range_of(logits), 0.1) << name;
      EXPECT_EQ(max_difference(logits, logits), 0) << name;  // no NaN
    }
  EXPECT_THAT(model_error([] { load_dummy("/nonexistent/config.json"); }), HasSubstr("/nonexist"));
}

constexpr const char* kOneOfEach[] = {
    "zoo/llama",      "zoo/qwen3",      "zoo/qwen3_moe", "zoo/gemma3n_text",  "zoo/gemma4_dense",
    "zoo/gemma4_e2b", "zoo/gemma4_moe", "zoo/glm4_moe",  "zoo/glm4_moe_lite", "zoo/glm_moe_dsa"};

int64_t layers_of(std::string_view name) {
  const Json config = config_of(name);
  return (config.contains("text_config") ? config["text_config"] : config)["num_hidden_layers"]
      .get<int64_t>();
}

// A prompt's last layer stores keys and values of every token and is otherwise computed for the
// rows whose logits are asked for.
TEST(Families, NarrowTheLastLayerToTheOutputs) {
  for (const char* name : kOneOfEach) {
    const Recorded recorded(config_of(name));
    Graph graph({Phase::kPrefill, 8, 1, 1});
    graph.mark_output(recorded.model->forward(graph), "logits");
    const int64_t layers = layers_of(name);
    int rows[2] = {0, 0};
    for (const Node& node : graph.nodes()) {
      if (!node.scope.starts_with(fmt::format("layers.{}.mlp", layers - 1))) continue;
      for (const int value : node.outputs)
        ++rows[graph.value(value).type.rows == Rows::kTokens ? 0 : 1];
    }
    EXPECT_EQ(rows[0], 0) << name;
    EXPECT_GT(rows[1], 0) << name;
  }
}

}  // namespace
}  // namespace decant
