// Gemma 4 beyond its golden logits: configs, layouts, caches, formats.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cinttypes>
#include <cmath>
#include <cstdio>

#include "backend/reference/reference_backend.h"
#include "base/json.h"
#include "checkpoint/dummy_weights.h"
#include "checkpoint/quantize.h"
#include "checkpoint/testing.h"
#include "models/family_testing.h"
#include "models/golden_testing.h"
#include "models/registry.h"
#include "ops/rope.h"
#include "program/passes.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

/// The text config of a Gemma 4, as a checkpoint of the text model alone has it.
Json gemma4_text(std::string_view name) { return config_of(name)["text_config"]; }

TEST(Gemma4, RefusesConfigsItCannotRun) {
  std::vector<Refusal> all = {
      {R"({"num_key_value_heads": null, "head_dim": null, "sliding_window": null})",
       "num_key_value_heads, head_dim, sliding_window"},
      {R"({"intermediate_size": null, "layer_types": null, "num_kv_shared_layers": null})",
       "intermediate_size, layer_types, num_kv_shared_layers"},
      {R"({"hidden_size_per_layer_input": null})", "hidden_size_per_layer_input"},
      {R"({"intermediate_size": 0})", "intermediate_size: expected an integer from 1"},
      {R"({"intermediate_size": 16777216})", "intermediate_size: expected at most 16777216 when"},
      {R"({"use_double_wide_mlp": null})", "use_double_wide_mlp"},
      {R"({"use_double_wide_mlp": "yes"})", "use_double_wide_mlp: expected true or false"},
      {R"({"hidden_activation": "silu"})", "hidden_activation: expected \"gelu_pytorch_tanh\""},
      {R"({"attention_bias": true})", "attention_bias: expected false"},
      {R"({"use_bidirectional_attention": "all"})",
       "use_bidirectional_attention: expected \"vision\""},
      {R"({"final_logit_softcapping": null})", "final_logit_softcapping"},
      {R"({"final_logit_softcapping": 0})", "final_logit_softcapping: expected a number from"},
      {R"({"final_logit_softcapping": -30})", "final_logit_softcapping: expected a number from"},
      {R"({"sliding_window": 0})", "sliding_window: expected an integer from 1"},
      {R"({"sliding_window": -5})", "sliding_window: expected an integer from 1"},
      {R"({"num_kv_shared_layers": 10})", "num_kv_shared_layers: expected an integer from 0 to 9"},
      {R"({"num_kv_shared_layers": -1})", "num_kv_shared_layers: expected an integer from 0 to 9"},
      {R"({"num_kv_shared_layers": 6})", "num_kv_shared_layers: expected a layer of the kind of"},
      {R"({"hidden_size_per_layer_input": -1})", "hidden_size_per_layer_input: expected"},
      {R"({"hidden_size_per_layer_input": 16777216})",
       "hidden_size_per_layer_input: expected times the layers at most"},
      {R"({"vocab_size_per_layer_input": 0})", "vocab_size_per_layer_input: expected"},
      {R"({"layer_types": ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a"]})",
       "layer_types: expected \"full_attention\" or \"sliding_attention\""},
      {R"({"layer_types": ["full_attention", "full_attention", "full_attention", "full_attention",
           "full_attention", "full_attention", "full_attention", "full_attention",
           "full_attention", "sliding_attention"]})",
       "layer_types: expected \"full_attention\" as the last"},
      {R"({"per_layer_config": null})", "global_head_dim"},
      {R"({"per_layer_config": [1]})", "per_layer_config: expected an object"},
      {R"({"per_layer_config": {"10": {}}})", "per_layer_config.10: expected layers from 0 to 9"},
      {R"({"per_layer_config": {"x": {}}})", "per_layer_config.x: expected layers from 0 to 9"},
      {R"({"per_layer_config": {"04": {}}})", "per_layer_config.04: expected layers from 0 to 9"},
      {R"({"per_layer_config": {"4": 64}})", "per_layer_config.4: expected an object"},
      {R"({"per_layer_config": {"4": {"head_dim": 0}}})", "per_layer_config.4.head_dim: expected"},
      {R"({"per_layer_config": {"4": {"head_dim": 96}}})",
       "per_layer_config.9.head_dim: expected 96 as in the layers of its kind before it, got 64"},
      {R"({"per_layer_config": {"9": null}})", "per_layer_config.9.head_dim: expected 64 as in"},
      {R"({"per_layer_config": {"4": {"head_dim": 63}, "9": {"head_dim": 63}}})",
       "per_layer_config: expected an even number"},
      {R"({"per_layer_config": {"4": {"hidden_size": 63}}})",
       "per_layer_config.4.hidden_size: expected no other key"},
      {R"({"per_layer_config": {"4": {"num_key_value_heads": 3},
                                "9": {"num_key_value_heads": 3}}})",
       "per_layer_config: expected a divisor of 4 heads"},
      {R"({"global_head_dim": 128})", "per_layer_config.4.head_dim: expected global_head_dim 128"},
      {R"({"global_head_dim": 0})", "global_head_dim: expected an integer from 1"},
      {R"({"per_layer_config": null, "global_head_dim": 65536, "num_attention_heads": 4096})",
       "global_head_dim: expected times 4096 heads at most"},
      {R"({"attention_k_eq_v": true, "num_global_key_value_heads": 4,
           "per_layer_config": {"4": {"num_key_value_heads": 1}}})",
       "per_layer_config.4.num_key_value_heads: expected num_global_key_value_heads 4"},
      {R"({"attention_k_eq_v": true, "num_global_key_value_heads": 3, "per_layer_config": null,
           "global_head_dim": 64})",
       "num_global_key_value_heads: expected a divisor of 4 heads"},
      {R"({"attention_k_eq_v": 1})", "attention_k_eq_v: expected true or false"},
      {R"({"enable_moe_block": true})", "num_experts, top_k_experts, moe_intermediate_size"},
      {R"({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}})",
       "rope_parameters.full_attention.rope_type: expected"},
      {R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})",
       "rope_parameters.full_attention.partial_rotary_factor: expected 1"},
      {R"({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0}}})",
       "rope_parameters.full_attention.partial_rotary_factor: expected a number from"},
      {R"({"rope_parameters": {"full_attention": {"partial_rotary_factor": 1.5}}})",
       "rope_parameters.full_attention.partial_rotary_factor: expected a number from"},
      {R"({"rope_parameters": {"full_attention": {"factor": 0}}})",
       "rope_parameters.full_attention.factor: expected a number from"},
      {R"({"rope_parameters": {"sliding_attention": null}})",
       "rope_parameters.sliding_attention: expected an object"},
      {R"({"model_type": "gemma4"})", "text_config: expected an object"},
      {R"({"model_type": "gemma4_unified"})", "text_config: expected an object"},
      {R"({"tie_word_embeddings": false})", "tie_word_embeddings: expected true"},
  };
  for (const Refusal& refusal : kDecoderRefusals)
    if (std::string_view(refusal.patch).find("rope_parameters") == std::string_view::npos)
      all.push_back(refusal);
  expect_refusals(gemma4_text("zoo/gemma4_e2b"), all);

  const std::vector<Refusal> experts = {
      {R"({"num_experts": 0})", "num_experts: expected an integer from 1 to 16384"},
      {R"({"num_experts": 1000000000})", "num_experts: expected an integer from 1 to 16384"},
      {R"({"top_k_experts": 0})", "top_k_experts: expected an integer from 1 to 8"},
      {R"({"top_k_experts": 9})", "top_k_experts: expected an integer from 1 to 8"},
      {R"({"moe_intermediate_size": 0})", "moe_intermediate_size: expected an integer from 1"},
      {R"({"moe_intermediate_size": null, "num_experts": null})",
       "num_experts, moe_intermediate_size"},
      {R"({"enable_moe_block": "yes"})", "enable_moe_block: expected true or false"},
  };
  expect_refusals(gemma4_text("zoo/gemma4_moe"), experts);

  const std::vector<Refusal> nested = {
      {R"({"vocab_size": 385})", "vocab_size: expected text_config.vocab_size 384"},
      {R"({"tie_word_embeddings": false})", "tie_word_embeddings: expected true"},
      {R"({"text_config": {"tie_word_embeddings": false}})",
       "text_config.tie_word_embeddings: expected true"},
      {R"({"text_config": {"num_attention_heads": 0}})", "text_config.num_attention_heads"},
      {R"({"text_config": null})", "text_config: expected an object"},
  };
  expect_refusals(config_of("zoo/gemma4_dense"), nested);
}

// gemma4.md section 11.3: of a wide head at position 1000 a quarter of the pairs has turned, pair i
// with i + 256.
TEST(Gemma4, TurnsAQuarterOfAWideHead) {
  constexpr int64_t kDim = 512, kTurning = 64;
  Json config = config_of("zoo/gemma4_dense");
  config["text_config"]["per_layer_config"] = nullptr;
  config["text_config"]["global_head_dim"] = kDim;
  config["text_config"]["num_global_key_value_heads"] = 1;
  const Recorded recorded(config);
  Graph graph({Phase::kDecode, 1, 1, 1});
  recorded.model->forward(graph);
  std::shared_ptr<const RopeParams> rotation;
  for (const Node& node : graph.nodes())
    if (node.op->name() == "rope" && node.as<RopeParams>().inv_freq.size() == kDim / 2)
      rotation = std::make_shared<RopeParams>(node.as<RopeParams>());
  ASSERT_NE(rotation, nullptr);

  Graph one({Phase::kDecode, 1, 1, 1});
  const Value x = one.input(0, {DType::kF32, {1, 1, kDim}, Rows::kTokens});
  one.mark_output(rope(x, rotation), "y");
  const auto backend = make_reference_backend();
  const auto pools = backend->make_pools({});
  const auto program = backend->compile(one, *pools, {.exact = true});
  std::vector<float> values(kDim);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.01f * static_cast<float>(i) - 2;
  program->set_input(0, values);
  Batch batch;
  batch.tokens = {0};
  batch.positions = {1000};
  batch.sequence_of = {0};
  batch.sequences = {{.first = 0, .count = 1, .past = 1000}};
  program->run(batch);
  const auto y = program->output(0);
  for (size_t i = 0; i < kDim / 2; ++i) {
    const size_t j = i + kDim / 2;
    if (i >= kTurning) {
      EXPECT_EQ(y[i], values[i]) << i;
      EXPECT_EQ(y[j], values[j]) << j;
      continue;
    }
    const double angle = 1000 * std::pow(1e6, -2.0 * static_cast<double>(i) / kDim);
    EXPECT_NEAR(y[i], values[i] * std::cos(angle) - values[j] * std::sin(angle), 5e-4) << i;
    EXPECT_NEAR(y[j], values[j] * std::cos(angle) + values[i] * std::sin(angle), 5e-4) << j;
  }
}

// Neither the class of the 12B nor its files know the keys of per-layer inputs.
TEST(Gemma4, UnifiedHasNoPerLayerInputs) {
  const Json config = config_of("zoo/gemma4_unified");
  EXPECT_FALSE(config["text_config"].contains("hidden_size_per_layer_input"));
  const Recorded recorded(config);
  EXPECT_FALSE(recorded.asked("model.per_layer_model_projection"));
  EXPECT_FALSE(recorded.asked("model.layers.5.self_attn.v_proj"));  // its keys are its values
  Json alone = config["text_config"];
  EXPECT_NO_THROW(Recorded{alone});
  alone["model_type"] = "gemma4_text";
  EXPECT_THAT(model_error([&] { Recorded{alone}; }), HasSubstr("hidden_size_per_layer_input"));
}

TEST(Gemma4, ReadsSizesByKindAndByLayer) {
  Json by_layer = gemma4_text("zoo/gemma4_dense"), by_kind = by_layer;
  by_kind.erase("per_layer_config");
  by_kind.erase("rope_parameters");  // its values are the defaults
  by_kind.merge_patch(
      parse_json(R"({"global_head_dim": 64, "num_global_key_value_heads": 1})", "patch"));
  const Recorded a(by_layer), b(by_kind);
  ASSERT_EQ(a.source->requests().size(), b.source->requests().size());
  for (size_t i = 0; i < a.source->requests().size(); ++i) {
    EXPECT_EQ(a.source->requests()[i].path, b.source->requests()[i].path);
    EXPECT_EQ(a.source->requests()[i].shape, b.source->requests()[i].shape);
  }
  for (const Recorded* each : {&a, &b}) {
    EXPECT_EQ(each->model->spec().windows, (std::vector<int>{16, 0}));
    EXPECT_EQ(each->model->spec().kv[0], (KvSpec{2, 32, 16, 0}));
    EXPECT_EQ(each->model->spec().kv[5], (KvSpec{1, 64, 0, 1}));
  }
  EXPECT_TRUE(a.asked("model.layers.4.self_attn.v_proj"));
  EXPECT_TRUE(a.asked("model.layers.5.self_attn.k_proj"));
  EXPECT_FALSE(a.asked("model.layers.5.self_attn.v_proj"));
  // Without shared projections the count for full layers has no meaning.
  by_kind["attention_k_eq_v"] = false;
  const Recorded own(by_kind);
  EXPECT_EQ(own.model->spec().kv[5], (KvSpec{2, 64, 0, 1}));
  EXPECT_TRUE(own.asked("model.layers.5.self_attn.v_proj"));
}

TEST(Gemma4, SharesWhatTheLastOwningLayersWrote) {
  const Recorded recorded(config_of("zoo/gemma4_e2b"));
  ASSERT_EQ(recorded.model->spec().kv.size(), 6u);
  EXPECT_FALSE(recorded.asked("model.layers.6.self_attn.k_proj"));
  Graph graph({Phase::kPrefill, 32, 1, 1});
  recorded.model->forward(graph);
  std::vector<std::pair<int, bool>> reads;  // cache, and whether for narrowed rows
  for (const Node& node : graph.nodes())
    if (node.op->name() == "attention")
      reads.emplace_back(graph.value(node.inputs[1]).external_index,
                         graph.value(node.inputs[0]).type.rows == Rows::kOutputs);
  const std::vector<int> sources = {0, 1, 2, 3, 4, 5, 5, 5, 5, 4};
  for (size_t i = 0; i < sources.size(); ++i)
    EXPECT_EQ(reads.at(i), std::pair(sources[i], i >= 6)) << i;
  for (const WeightRequest& request : recorded.source->requests())
    for (const auto& [layer, width] : {std::pair(5, 128), std::pair(6, 256)})
      if (request.path == fmt::format("model.layers.{}.mlp.up_proj", layer)) {
        EXPECT_EQ(request.shape[0], width) << request.path;
      }
}

TEST(Gemma4, ReadsEveryLayoutAndLeavesTowersAloneThatTheConfigLacks) {
  using Kind = WeightRequest::Kind;
  for (const char* type : {"gemma4", "gemma4_unified"})
    for (const char* prefix : {"model.language_model.", "language_model.model.", "model."}) {
      SCOPED_TRACE(prefix);
      TemporaryFolder folder;
      Json config = config_of("zoo/gemma4_e2b");
      config["model_type"] = type;
      config["eos_token_id"] = {1, 106};
      for (const char* part : {"vision_config", "audio_config"}) config.erase(part);
      const bool converted = std::string_view(prefix).starts_with("language");
      const std::string tower = converted ? "" : "model.";
      write_renamed(
          folder.path(), config,
          [&](const std::string& path) { return prefix + path.substr(std::strlen("model.")); },
          {{Kind::kMatrix, tower + "vision_tower.patch_embedder.input_proj", "", {64, 64}},
           {Kind::kVector, tower + "audio_tower.layers.0.norm_out.weight", "", Shape{64}},
           {Kind::kMatrix, tower + "embed_vision.embedding_projection", "", {64, 64}},
           {Kind::kMatrix, tower + "embed_audio.embedding_projection", "", {64, 64}},
           {Kind::kVector, tower + "vision_embedder.patch_ln1.bias", "", Shape{64}},
           {Kind::kMatrix, std::string(prefix) + "layers.9.self_attn.k_proj", "", {128, 64}},
           {Kind::kMatrix, std::string(prefix) + "layers.9.self_attn.v_proj", "", {128, 64}},
           {Kind::kVector, std::string(prefix) + "layers.9.self_attn.k_norm.weight", "", Shape{64}},
           {Kind::kVector, std::string(prefix) + "layers.2.mlp.up_proj.input_min", "", Shape{1}},
           {Kind::kMatrix, converted ? "language_model.lm_head" : "lm_head", "", {384, 64}}});
      write_file(folder / "generation_config.json", R"({"eos_token_id": [1, 106, 50]})");
      LoadedModel loaded;
      EXPECT_EQ(model_error([&] { loaded = load_model(folder.path()); }), "");
      EXPECT_EQ(loaded.spec.eos_token_ids, (std::vector<int32_t>{1, 106, 50}));
      EXPECT_EQ(loaded.spec.model_type, type);
      write_file(folder / "generation_config.json", R"({"eos_token_id": 50})");
      EXPECT_EQ(load_model(folder.path()).spec.eos_token_ids, (std::vector<int32_t>{1, 106, 50}));
    }
}

TEST(Gemma4, ReadsMixedPrecision) {
  const auto backend = make_reference_backend();
  TemporaryFolder folder;
  Recipe recipe;
  recipe.format = Format::affine(6, 64);
  recipe.rules = {{"*.mlp.*", Format::affine(8, 64)}, {"*.embed_tokens*", Format::affine(8, 64)}};
  quantize_checkpoint(fixture("zoo/gemma4_e2b"), folder / "out", recipe);
  const LoadedModel loaded = load_model(folder / "out");
  for (const Weight* weight : loaded.weights->weights()) {
    if (weight->name.ends_with("layers.7.mlp.up_proj")) {
      EXPECT_EQ(weight->format.bits, 8);
    } else if (weight->name.ends_with("layers.7.self_attn.q_proj")) {
      EXPECT_EQ(weight->format.bits, 6);
    }
  }
  const Golden golden(fixture("zoo/gemma4_e2b"));
  ModelRunner runner(*backend, *loaded.model, {});
  runner.add_sequence();
  const auto prompt = golden.ints("input_ids");
  const auto logits = runner.feed(Phase::kPrefill, prompt);
  const auto want = golden.floats("logits");
  double squares = 0, errors = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    squares += static_cast<double>(want[i]) * want[i];
    errors += std::pow(static_cast<double>(logits[i]) - want[i], 2);
  }
  EXPECT_LT(errors / squares, 0.1);  // logits of another model would be near 2
}

TEST(Gemma4, IsQuantisedUnderTheNamesMlxReads) {
  TemporaryFolder folder;
  quantize_checkpoint(fixture("zoo/gemma4_moe"), folder / "out", Recipe::named("4bit"));
  const LoadedModel loaded = load_model(folder / "out");
  const std::string layer = "model.language_model.layers.3.";
  for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
    const Weight* table = loaded.weights->find(layer + "experts.switch_glu." + projection);
    ASSERT_NE(table, nullptr) << projection;
    EXPECT_EQ(table->format.bits, 4);
  }
  ASSERT_NE(loaded.weights->find(layer + "router.proj"), nullptr);
  EXPECT_EQ(loaded.weights->find(layer + "router.proj")->format.bits, 8);
}

}  // namespace
}  // namespace decant
