#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/weight_load.h"
#include "layers/config.h"
#include "layers/inverse_normal.h"
#include "layers/layer_types.h"
#include "layers/moe.h"
#include "layers/rope.h"

namespace decant::layers {
namespace {

using ::testing::HasSubstr;

TEST(InverseNormal, InvertsTheDistribution) {
  EXPECT_EQ(inverse_normal_cdf(0.5), 0.0);
  EXPECT_NEAR(inverse_normal_cdf(0.95), 1.6448536269514722, 1e-14);
  EXPECT_NEAR(inverse_normal_cdf(0.975), 1.959963984540054, 1e-14);
  EXPECT_NEAR(inverse_normal_cdf(0.05), -1.6448536269514722, 1e-14);
  EXPECT_NEAR(inverse_normal_cdf(1e-10), -6.361340902404056, 1e-12);
  EXPECT_NEAR(inverse_normal_cdf(0.51), 0.025068908258711057, 1e-14);
  for (double p = 1e-300; p < 1; p = p < 0.01 ? p * 7 : p + 0.003) {
    const double back = 0.5 * std::erfc(-inverse_normal_cdf(p) / std::sqrt(2.0));
    EXPECT_NEAR(back / p, 1, 1e-11) << p;
  }
}

struct Parsed {
  Json json;
  ConfigReader reader;
  explicit Parsed(std::string_view text) : json(parse_json(text, "c")), reader(json, "c.json") {}
};

std::string config_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Rope, ReadsBothSpellings) {
  const Parsed old(R"({"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 4}})");
  const Parsed now(
      R"({"rope_parameters": {"rope_theta": 500000, "rope_type": "linear", "factor": 4},
          "rope_theta": 1, "rope_scaling": {"rope_type": "unknown"}})");
  const auto a = read_rope(old.reader, 64), b = read_rope(now.reader, 64);
  EXPECT_EQ(a->inv_freq, b->inv_freq);
  EXPECT_EQ(a->inv_freq[0], 0.25f);
  EXPECT_FLOAT_EQ(a->inv_freq[31], static_cast<float>(std::pow(500000.0, -62.0 / 64) / 4));
  const Parsed kinds(R"({"rope_parameters": {"full_attention": {"rope_theta": 1000000.0},
                         "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}})");
  EXPECT_FLOAT_EQ(read_rope(kinds.reader, 4, {.layer_type = "full_attention"})->inv_freq[1], 1e-3f);
  EXPECT_FLOAT_EQ(read_rope(kinds.reader, 4, {.layer_type = "sliding_attention"})->inv_freq[1],
                  1e-2f);
  EXPECT_THAT(config_error([&] { read_rope(kinds.reader, 4); }),
              HasSubstr("rope_parameters.full_attention: expected one rotation for all layers"));
  const Parsed plain("{}");
  EXPECT_FLOAT_EQ(read_rope(plain.reader, 4, {.theta = 1e6})->inv_freq[1], 1e-3f);
}

// Frequencies by the formulas of transformers' modeling_rope_utils, evaluated in Python.
TEST(Rope, ScalesAsTransformers) {
  const Parsed llama(
      R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}})");
  const auto a = read_rope(llama.reader, 128);
  EXPECT_EQ(a->attention_factor, 1.0f);
  EXPECT_NEAR(a->inv_freq[0] / 1.000000000e+00, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[10] / 1.286873734e-01, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[28] / 3.211445995e-03, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[29] / 2.166570764e-03, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[30] / 1.371893568e-03, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[32] / 5.248461610e-04, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[34] / 1.785078128e-04, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[35] / 9.556212354e-05, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[36] / 7.784655274e-05, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[50] / 4.411534675e-06, 1, 2e-6);
  EXPECT_NEAR(a->inv_freq[63] / 3.068925989e-07, 1, 2e-6);
  const Parsed yarn(
      R"({"rope_theta": 1000000.0, "max_position_embeddings": 40960, "rope_scaling": {
          "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}})");
  const auto b = read_rope(yarn.reader, 128);
  EXPECT_NEAR(b->attention_factor, 1.1386294361, 1e-6);
  EXPECT_NEAR(b->inv_freq[0] / 1.000000000e+00, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[5] / 3.398208329e-01, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[23] / 6.978305849e-03, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[24] / 5.375321491e-03, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[28] / 1.848276565e-03, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[33] / 4.503235755e-04, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[39] / 6.490394321e-05, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[40] / 4.445698525e-05, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[50] / 5.133812566e-06, 1, 2e-6);
  EXPECT_NEAR(b->inv_freq[63] / 3.102344402e-07, 1, 2e-6);
  const Parsed mscale(
      R"({"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
          "original_max_position_embeddings": 4096}})");
  EXPECT_EQ(read_rope(mscale.reader, 64)->attention_factor, 1.0f);
}

// Of a head of 512 a quarter of the pairs turns, at the periods of the whole head.
TEST(Rope, KeepsTheProportionOfTurningPairs) {
  const Parsed config(R"({"rope_parameters": {"full_attention": {"rope_type": "proportional",
      "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}}})");
  const auto rope = read_rope(config.reader, 512, {.layer_type = "full_attention"});
  ASSERT_EQ(rope->inv_freq.size(), 256u);
  for (size_t i = 0; i < 256; ++i) {
    const double want = i < 64 ? std::pow(1e6, -2.0 * static_cast<double>(i) / 512) : 0;
    EXPECT_NEAR(rope->inv_freq[i], want, want * 2e-6) << i;
  }
  const Parsed scaled(
      R"({"rope_scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.5,
                           "factor": 8}})");
  EXPECT_EQ(read_rope(scaled.reader, 4)->inv_freq, (std::vector<float>{0.125f, 0}));
}

TEST(LayerTypes, GiveWindowsAndSources) {
  const Parsed config(R"({"layer_types": ["sliding_attention", "full_attention",
      "sliding_attention", "full_attention"]})");
  const auto windows = read_windows(config.reader, 4, 16);
  EXPECT_EQ(windows, (std::vector<int>{16, 0, 16, 0}));
  EXPECT_EQ(kv_sources(config.reader, windows, 0), (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(kv_sources(config.reader, windows, 2), (std::vector<int>{0, 1, 0, 1}));
  EXPECT_THAT(config_error([&] { kv_sources(config.reader, windows, 3); }),
              HasSubstr("num_kv_shared_layers: expected a layer of the kind of layer 1"));
  EXPECT_THAT(config_error([&] { read_windows(config.reader, 3, 16); }), HasSubstr("layer_types"));
}

TEST(Rope, RefusesWhatItDoesNotKnow) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"rope_scaling": {"rope_type": "dynamic", "factor": 2}})",
       "rope_scaling.rope_type: expected \"default\" or \"linear\" or \"llama3\" or \"yarn\""},
      {R"({"rope_scaling": {"type": "longrope"}})", "rope_scaling.type: expected"},
      {R"({"rope_parameters": {"rope_type": "mrope"}})", "rope_parameters.rope_type: expected"},
      {R"({"rope_parameters": {"rope_type": "linear"}})", "rope_parameters.factor: expected"},
      {R"({"rope_parameters": {"rope_type": "linear", "factor": 0}})", "rope_parameters.factor"},
      {R"({"rope_parameters": []})", "rope_parameters: expected an object"},
      {R"({"rope_theta": 0})", "rope_theta: expected a number above 0"},
      {R"({"rope_theta": 1})", "rope_theta: expected a number above 1"},
      {R"({"rope_theta": 1e300})", "rope_theta: expected"},
      {R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor: expected 1"},
      {R"({"rope_traditional": true})", "rope_traditional: expected false"},
      {R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4,
           "high_freq_factor": 4, "original_max_position_embeddings": 8192}})",
       "high_freq_factor: expected more than low_freq_factor"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2,
           "original_max_position_embeddings": 8192}})",
       "beta_slow: expected less than beta_fast"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 4}})",
       "original_max_position_embeddings: expected"},
  };
  for (const auto& [text, part] : cases) {
    const Parsed config(text);
    EXPECT_THAT(config_error([&] { read_rope(config.reader, 64); }), HasSubstr(part)) << text;
  }
}

TEST(Moe, FollowsTheRuleOfItsLayers) {
  const Parsed config(R"({"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
                          "decoder_sparse_step": 2, "mlp_only_layers": [3]})");
  const MoeConfig moe = MoeConfig::read(config.reader, 6, Unary::kSilu);
  EXPECT_EQ(moe.is_moe, (std::vector<bool>{false, true, false, false, false, true}));
  EXPECT_FALSE(moe.routing.normalize);
  const Parsed none(R"({"num_local_experts": 0})");
  EXPECT_EQ(MoeConfig::read(none.reader, 2, Unary::kSilu).is_moe,
            (std::vector<bool>{false, false}));
}

TEST(Config, ReadsEndTokensAndActivations) {
  EXPECT_EQ(read_eos(Parsed(R"({"eos_token_id": 7})").reader), std::vector<int32_t>{7});
  EXPECT_EQ(read_eos(Parsed(R"({"eos_token_id": [1, 106]})").reader),
            (std::vector<int32_t>{1, 106}));
  EXPECT_TRUE(read_eos(Parsed(R"({"eos_token_id": null})").reader).empty());
  EXPECT_THAT(config_error([] { read_eos(Parsed(R"({"eos_token_id": [-1]})").reader); }),
              HasSubstr("eos_token_id: expected token ids"));
  const Parsed act(R"({"hidden_act": "mish"})");
  EXPECT_THAT(config_error([&] { read_activation(act.reader, "hidden_act", "silu"); }),
              HasSubstr("hidden_act: expected one of \"silu\""));
}

TEST(Config, TiesWhenTheFilesHaveNoHead) {
  const Parsed silent("{}"), tied(R"({"tie_word_embeddings": true})");
  const auto without = std::make_shared<DummySource>();
  const auto with = std::make_shared<DummySource>(
      Format::dense(DType::kBF16), std::unordered_set<std::string>{"lm_head.weight"});
  WeightLoad a(without), b(with);
  EXPECT_TRUE(read_tied(silent.reader, a.root()));
  EXPECT_FALSE(read_tied(silent.reader, b.root()));
  EXPECT_TRUE(read_tied(tied.reader, b.root()));
}

}  // namespace
}  // namespace decant::layers
