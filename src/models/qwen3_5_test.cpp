// The hybrid Qwen families: configs, spellings of checkpoints, what a step records.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/reference/reference_backend.h"
#include "base/json.h"
#include "checkpoint/testing.h"
#include "models/family_testing.h"
#include "models/golden_testing.h"
#include "models/registry.h"
#include "ops/rope.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

constexpr const char* kFamilies[] = {"zoo/qwen3_5", "zoo/qwen3_5_moe", "zoo/qwen3_next"};

// The text config of a fixture, flat as a text-only conversion has it.
Json flat_config_of(std::string_view name) {
  Json config = config_of(name);
  if (!config.contains("text_config")) return config;
  Json flat = config["text_config"];
  flat["model_type"] = config["model_type"];
  return flat;
}

void expect_hybrid_refusals(std::string_view name, std::vector<Refusal> own) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {R"({"linear_num_key_heads": 0})", "linear_num_key_heads: expected an integer from 1"},
           {R"({"linear_num_value_heads": 3})",
            "linear_num_value_heads: expected a multiple of 2 key heads"},
           {R"({"linear_num_value_heads": 100000})", "linear_num_value_heads: expected an integer"},
           {R"({"linear_key_head_dim": 257})", "linear_key_head_dim: expected an integer from 1"},
           {R"({"linear_value_head_dim": -1})", "linear_value_head_dim: expected an integer from"},
           {R"({"linear_conv_kernel_dim": 1})",
            "linear_conv_kernel_dim: expected an integer from 2"},
           {R"({"linear_conv_kernel_dim": "4"})", "linear_conv_kernel_dim: expected an integer"},
           {R"({"num_attention_heads": 3})", "num_key_value_heads: expected a divisor of 3 heads"},
           {R"({"head_dim": 63})", "head_dim: expected an even number"},
           {R"({"hidden_size": 1e300})", "hidden_size: expected an integer"},
           {R"({"num_hidden_layers": 1000000000})",
            "num_hidden_layers: expected an integer from 1"},
           {R"({"rms_norm_eps": 0})", "rms_norm_eps: expected a number from"},
           {R"({"layer_types": ["full_attention"]})", "layer_types: expected a list of"},
           {R"({"rope_parameters": {"rope_type": "longrope"}})", "rope_type: expected \"default\""},
           {R"({"attn_output_gate": false})", "attn_output_gate: expected true"},
           {R"({"attention_bias": true})", "attention_bias: expected false"},
           {R"({"hidden_act": "gelu"})", "hidden_act: expected \"silu\""},
           {R"({"use_sliding_window": true})", "use_sliding_window: expected false"},
           {R"({"layer_types": ["linear_attention", "linear_attention", "linear_attention",
                "sliding_attention", "full_attention"]})",
            "layer_types: expected \"linear_attention\" or \"full_attention\""},
           {R"({"layer_types": null, "full_attention_interval": 0})",
            "full_attention_interval: expected an integer from 1"},
           {R"({"partial_rotary_factor": 0.3, "rope_parameters": {"partial_rotary_factor": 0.3}})",
            "rope_parameters.partial_rotary_factor: expected an even number of the 64"},
           {R"({"rope_parameters": {"partial_rotary_factor": 0.5}})", "partial_rotary_factor"},
           {R"({"rope_parameters": {"partial_rotary_factor": 2}})",
            "rope_parameters.partial_rotary_factor: expected a number from"}})
    own.push_back(refusal);
  expect_refusals(flat_config_of(name), own);
}

const std::vector<Refusal> kMropeRefusals = {
    {R"({"rope_parameters": {"mrope_section": [3, 3]}})", "rope_parameters.mrope_section"},
    {R"({"rope_parameters": {"mrope_section": [3, 3, 3]}})",
     "rope_parameters.mrope_section: expected three counts that add up to 8"},
    {R"({"rope_parameters": {"mrope_section": [-1, 5, 4]}})", "rope_parameters.mrope_section"},
    {R"({"rope_parameters": {"mrope_interleaved": false}})",
     "rope_parameters.mrope_interleaved: expected true"}};

TEST(Qwen35, RefusesConfigsItCannotRun) {
  std::vector<Refusal> own = kMropeRefusals;
  own.push_back({R"({"intermediate_size": 0})", "intermediate_size: expected an integer from 1"});
  expect_hybrid_refusals("zoo/qwen3_5", own);
  const Json nested = config_of("zoo/qwen3_5");
  Json wrong = nested;
  wrong["text_config"]["linear_conv_kernel_dim"] = 0;
  EXPECT_THAT(model_error([&] { Recorded recorded(wrong); }),
              HasSubstr("text_config.linear_conv_kernel_dim: expected"));
  wrong = nested;
  wrong["text_config"] = 3;
  EXPECT_THAT(model_error([&] { Recorded recorded(wrong); }),
              HasSubstr("text_config: expected an object"));
}

TEST(Qwen35Moe, RefusesConfigsItCannotRun) {
  std::vector<Refusal> own = kMropeRefusals;
  for (const Refusal& refusal : std::vector<Refusal>{
           {R"({"num_experts": -1})", "num_experts: expected an integer from 0 to 16384"},
           {R"({"num_experts_per_tok": 9})",
            "num_experts_per_tok: expected an integer from 1 to 8"},
           {R"({"moe_intermediate_size": 0})", "moe_intermediate_size: expected"},
           {R"({"shared_expert_intermediate_size": 0})",
            "shared_expert_intermediate_size: expected an integer from 1"}})
    own.push_back(refusal);
  expect_hybrid_refusals("zoo/qwen3_5_moe", own);
}

TEST(Qwen3Next, RefusesConfigsItCannotRun) {
  expect_hybrid_refusals(
      "zoo/qwen3_next",
      {{R"({"num_experts": null})", "num_experts: expected an integer"},
       {R"({"shared_expert_intermediate_size": null})",
        "shared_expert_intermediate_size: expected"},
       {R"({"mlp_only_layers": [5]})", "mlp_only_layers: expected layers from 0 to 4"},
       {R"({"decoder_sparse_step": 0})", "decoder_sparse_step: expected"}});
}

TEST(Qwen35, KeepsCachesAndStatesByLayerKind) {
  const Recorded recorded(config_of("zoo/qwen3_5"));
  const ModelSpec& spec = recorded.model->spec();
  EXPECT_EQ(spec.kv, (std::vector<KvSpec>{{2, 64, 0, 0}}));
  ASSERT_EQ(spec.states.size(), 8u);  // a convolution and a delta rule in each of four layers
  EXPECT_EQ(spec.states[0], (StateSpec{3 * 256, 256, 4}));
  EXPECT_EQ(spec.states[7], (StateSpec{4 * 32 * 32, 4 * 66, 4}));
  EXPECT_EQ(spec.eos_token_ids, std::vector<int32_t>{1});
  // Without layer_types every fourth layer attends.
  Json config = config_of("zoo/qwen3_next");
  config.erase("layer_types");
  EXPECT_EQ(Recorded(config).model->spec().states.size(), 8u);
  config["full_attention_interval"] = 2;
  EXPECT_EQ(Recorded(config).model->spec().kv.size(), 2u);
  // Absent keys mean the released sizes.
  const Recorded bare(parse_json(R"({"model_type": "qwen3_5_moe_text"})", "bare"));
  EXPECT_EQ(bare.model->spec().kv.size(), 10u);
  EXPECT_EQ(bare.model->spec().states[1].width, 32 * 128 * 128);
  EXPECT_EQ(bare.model->spec().vocab_size, 248320);
  // Both levels may name the tie; the files decide where they differ.
  Json tied = config_of("zoo/qwen3_5");
  EXPECT_FALSE(Recorded(tied).asked("lm_head"));
  tied["text_config"]["tie_word_embeddings"] = false;
  tied["tie_word_embeddings"] = false;
  EXPECT_TRUE(Recorded(tied).asked("lm_head"));
}

TEST(Qwen35, TurnsItsFrequenciesByThreeAxes) {
  Graph graph({Phase::kDecode, 1, 1, 1});
  const Recorded recorded(config_of("zoo/qwen3_5"));
  recorded.model->forward(graph);
  int ropes = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op->name() != "rope") continue;
    ++ropes;
    EXPECT_EQ(node.as<RopeParams>().inv_freq.size(), 8u);
    EXPECT_EQ(node.as<RopeParams>().axes, (std::vector<uint8_t>{0, 1, 2, 0, 1, 2, 0, 1}));
  }
  EXPECT_EQ(ropes, 2);
}

struct RawTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> dims;
  std::vector<std::byte> bytes;

  static RawTensor f32(std::string name, std::vector<int64_t> dims, const std::vector<float>& x) {
    RawTensor out{std::move(name), DType::kF32, std::move(dims), {}};
    out.bytes.resize(x.size() * sizeof(float));
    std::memcpy(out.bytes.data(), x.data(), out.bytes.size());
    return out;
  }
  std::vector<float> floats() const {
    std::vector<float> out;
    for (int64_t i = 0; i < std::ssize(bytes) / size_of(dtype); ++i)
      out.push_back(load_float(bytes.data(), dtype, i));
    return out;
  }
};

std::vector<RawTensor> read_tensors(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  std::vector<RawTensor> out;
  for (const TensorInfo& tensor : file->tensors())
    out.push_back({std::string(tensor.name),
                   tensor.dtype,
                   {tensor.dims().begin(), tensor.dims().end()},
                   {tensor.bytes.begin(), tensor.bytes.end()}});
  return out;
}

/// Logits of a short prompt under a checkpoint of `tensors` with this config.
std::vector<float> logits_of(const Json& config, const std::vector<RawTensor>& tensors) {
  TemporaryFolder folder;
  write_file(folder / "config.json", config.dump());
  std::vector<TensorDeclaration> declarations;
  for (const RawTensor& tensor : tensors)
    declarations.push_back({tensor.name, tensor.dtype, tensor.dims});
  SafetensorsWriter writer(folder / "model.safetensors", std::move(declarations), {}, 8);
  for (const RawTensor& tensor : tensors) writer.write(tensor.bytes);
  writer.commit();
  const LoadedModel loaded = load_model(folder.path());
  const auto backend = make_reference_backend();
  ModelRunner runner(*backend, *loaded.model, {});
  runner.add_sequence();
  return runner.feed(Phase::kPrefill, std::vector<int32_t>{17, 230, 9, 64, 3});
}

// Hugging Face's spelling and that of a conversion to MLX are one model, and MTP tensors, which
// older loaders took for a sign of the former, change nothing in either.
TEST(Qwen35, TellsSpellingsApartByTheConvolutionAlone) {
  for (const char* name : {"zoo/qwen3_5", "zoo/qwen3_next"}) {
    SCOPED_TRACE(name);
    const Json config = config_of(name);
    const auto raw = read_tensors(fixture(fmt::format("{}/model.safetensors", name)));
    const std::vector<float> want = logits_of(config, raw);
    const RawTensor mtp =
        RawTensor::f32("mtp.pre_fc_norm_hidden.weight", {64}, std::vector<float>(64, 0.5f));
    auto with_mtp = raw;
    with_mtp.push_back(mtp);
    EXPECT_EQ(logits_of(config, with_mtp), want);

    std::vector<RawTensor> converted{mtp};
    for (RawTensor tensor : raw) {
      if (tensor.name.find("model.visual") != std::string::npos) continue;
      const bool shifted = tensor.dims.size() == 1 && tensor.name.ends_with("norm.weight") &&
                           !tensor.name.ends_with("linear_attn.norm.weight");
      if (shifted) {
        std::vector<float> values = tensor.floats();
        for (float& x : values) x += 1;
        tensor = RawTensor::f32(tensor.name, tensor.dims, values);
      }
      if (tensor.name.ends_with("conv1d.weight")) std::swap(tensor.dims[1], tensor.dims[2]);
      if (constexpr std::string_view kHf = "model.language_model."; tensor.name.starts_with(kHf))
        tensor.name = "language_model.model." + tensor.name.substr(kHf.size());
      converted.push_back(tensor);
    }
    EXPECT_EQ(logits_of(config, converted), want);
  }
}

// qwen3_5.md section 10: a decay that passes through bf16 forgets at another pace. A_log is used as
// the file has it.
TEST(Qwen35, KeepsTheDecayInFloat32) {
  const Json config = config_of("zoo/qwen3_5");
  auto tensors = read_tensors(fixture("zoo/qwen3_5/model.safetensors"));
  const auto with_decay = [&](float factor) {
    auto changed = tensors;
    for (RawTensor& tensor : changed)
      if (tensor.name.ends_with("A_log")) {
        std::vector<float> values = tensor.floats();
        for (float& x : values) x *= factor;  // from bf16 values
        tensor = RawTensor::f32(tensor.name, tensor.dims, values);
      }
    return logits_of(config, changed);
  };
  // Less than half a step of bf16 apart, and told apart.
  const auto a = with_decay(1), b = with_decay(1 + 1e-3f);
  EXPECT_EQ(float_to_bf16(1.5f), float_to_bf16(1.5f * (1 + 1e-3f)));
  EXPECT_NE(a, b);
  EXPECT_LT(max_difference(a, b), 0.1 * range_of(a));
}

// Experts stacked as transformers 5 writes them are those of a file with one tensor each.
TEST(Qwen35Moe, ReadsFusedExperts) {
  const Json config = config_of("zoo/qwen3_5_moe");
  const auto raw = read_tensors(fixture("zoo/qwen3_5_moe/model.safetensors"));
  std::vector<RawTensor> fused;
  std::map<std::string, std::map<int, std::map<std::string, const RawTensor*>>> experts;
  for (const RawTensor& tensor : raw) {
    const size_t at = tensor.name.find(".experts.");
    if (at == std::string::npos) {
      fused.push_back(tensor);
      continue;
    }
    const std::string rest = tensor.name.substr(at + 9);
    experts[tensor.name.substr(0, at + 8)][std::stoi(rest)][rest.substr(rest.find('.') + 1)] =
        &tensor;
  }
  for (const auto& [parent, by_index] : experts) {
    RawTensor gate_up{parent + ".gate_up_proj", DType::kBF16, {8, 128, 64}, {}};
    RawTensor down{parent + ".down_proj", DType::kBF16, {8, 64, 64}, {}};
    for (const auto& [index, parts] : by_index) {
      for (const char* part : {"gate_proj.weight", "up_proj.weight"}) {
        const auto& bytes = parts.at(part)->bytes;
        gate_up.bytes.insert(gate_up.bytes.end(), bytes.begin(), bytes.end());
      }
      const auto& bytes = parts.at("down_proj.weight")->bytes;
      down.bytes.insert(down.bytes.end(), bytes.begin(), bytes.end());
    }
    fused.push_back(std::move(gate_up));
    fused.push_back(std::move(down));
  }
  EXPECT_EQ(logits_of(config, fused), logits_of(config, raw));
}

TEST(Qwen35, RunsOnDummyWeightsOfEveryFormat) {
  const auto backend = make_reference_backend();
  for (const char* name : kFamilies)
    for (const Format& format : {Format::dense(DType::kBF16), Format::affine(4, 64)}) {
      TemporaryFolder folder;
      write_file(folder / "config.json", config_of(name).dump());
      const LoadedModel loaded = load_dummy(folder.path(), {.format = format, .seed = 3});
      ModelRunner runner(*backend, *loaded.model, {});
      runner.add_sequence();
      const auto logits = runner.feed_last(Phase::kPrefill, std::vector<int32_t>{3, 383, 0, 17});
      EXPECT_EQ(logits.size(), 384u);
      EXPECT_GT(range_of(logits), 0.1) << name;
      EXPECT_EQ(max_difference(logits, logits), 0) << name;  // no NaN
    }
}

// A prompt's last layer takes every token through its state, and is otherwise computed for the rows
// whose logits are asked for.
TEST(Qwen35, NarrowsTheLastLayerToTheOutputs) {
  for (const char* name : kFamilies) {
    const Recorded recorded(config_of(name));
    Graph graph({Phase::kPrefill, 8, 1, 1});
    graph.mark_output(recorded.model->forward(graph), "logits");
    int all = 0, narrowed = 0;
    for (const Node& node : graph.nodes()) {
      if (!node.scope.starts_with("layers.4.") || node.op->name() == "narrow_rows") continue;
      const bool after =
          node.scope.starts_with("layers.4.mlp") || node.op->name() == "gated_rms_norm" ||
          (node.op->name() == "linear" && node.weights[0]->name.ends_with("out_proj"));
      if (!after) continue;
      for (const int value : node.outputs)
        ++(graph.value(value).type.rows == Rows::kTokens ? all : narrowed);
    }
    EXPECT_EQ(all, 0) << name;
    EXPECT_GE(narrowed, 3) << name;
  }
}

// A slot's snapshot goes on as the sequence would have, bit for bit, wherever it is restored, and
// is not touched by what runs meanwhile; taken in the middle of decoding, it holds the uncommitted
// log.
TEST(Qwen35, GoesOnFromASnapshot) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(fixture("mlx/qwen3_5-4bit"));
  const Golden golden(fixture("mlx/qwen3_5-4bit"));
  const auto prompt = golden.ints("input_ids"), next = golden.ints("forced_ids");
  ModelRunner runner(*backend, *loaded.model, {}, 512, 3);
  const int a = runner.add_sequence(), b = runner.add_sequence();
  runner.feed_last(Phase::kPrefill, prompt, a);
  for (const int decoded : {0, 2}) {
    SCOPED_TRACE(decoded);
    if (decoded > 0) runner.feed(Phase::kDecode, {next.data(), 2}, a);
    const auto snapshot = runner.pools().save_slot(a);
    EXPECT_EQ(snapshot->bytes(), runner.pools().spec().slot_bytes());
    EXPECT_GT(snapshot->bytes(), 0);
    const int64_t length = runner.length(a);
    const auto want = runner.feed(Phase::kDecode, {&next[5], 1}, a);
    // Another sequence's tokens, then the state of this one again.
    runner.pools().reset_slot(b);
    runner.feed_last(Phase::kPrefill, std::span(prompt).first(9), b);
    const auto moved = runner.feed(Phase::kDecode, {&next[5], 1}, a);
    EXPECT_NE(moved, want);
    runner.rewind(a, length, decoded);
    runner.pools().restore_slot(a, *snapshot);
    EXPECT_EQ(runner.feed(Phase::kDecode, {&next[5], 1}, a), want);
    runner.rewind(a, length, decoded);
    runner.pools().restore_slot(a, *snapshot);
  }
}

}  // namespace
}  // namespace decant
