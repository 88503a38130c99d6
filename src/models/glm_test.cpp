// The GLM families beyond their golden logits: what they refuse, cache and choose.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/backend.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/dummy_weights.h"
#include "checkpoint/testing.h"
#include "models/family_testing.h"
#include "models/load_model.h"
#include "models/registry.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

// What every GLM refuses.
const std::vector<Refusal> kMoeRefusals = {
    {R"({"vocab_size": 0})", "vocab_size: expected an integer from 1"},
    {R"({"hidden_size": -1})", "hidden_size: expected an integer from 1"},
    {R"({"num_hidden_layers": 1000000000})", "num_hidden_layers: expected an integer from 1"},
    {R"({"num_attention_heads": 0})", "num_attention_heads: expected an integer from 1"},
    {R"({"rms_norm_eps": 0})", "rms_norm_eps: expected a number from"},
    {R"({"hidden_act": "mish"})", "hidden_act: expected one of"},
    {R"({"intermediate_size": null})", "intermediate_size: expected"},
    {R"({"tie_word_embeddings": 1})", "tie_word_embeddings: expected true"},
    {R"({"rope_parameters": {"rope_type": "longrope"}})", "rope_type: expected \"default\""},
    {R"({"scoring_func": "softmax"})", "scoring_func: expected \"sigmoid\""},
    {R"({"topk_method": "greedy"})", "topk_method: expected \"noaux_tc\""},
    {R"({"moe_layer_freq": 2})", "moe_layer_freq: expected 1"},
    {R"({"n_routed_experts": 0})", "n_routed_experts: expected an integer from 1 to 16384"},
    {R"({"n_routed_experts": 1000000000})", "n_routed_experts: expected an integer from 1"},
    {R"({"num_experts_per_tok": 9})", "num_experts_per_tok: expected an integer from 1 to"},
    {R"({"moe_intermediate_size": 0})", "moe_intermediate_size: expected"},
    {R"({"n_shared_experts": -1})", "n_shared_experts: expected an integer from 0"},
    {R"({"n_shared_experts": 16000, "moe_intermediate_size": 16000000})", "n_shared_experts: "},
    {R"({"routed_scaling_factor": null})", "routed_scaling_factor: expected"},
    {R"({"routed_scaling_factor": 0})", "routed_scaling_factor: expected a number from"},
    {R"({"n_group": 3})", "n_group: expected a divisor of 8 experts"},
    {R"({"n_group": 1, "topk_group": 2})", "topk_group: expected an integer from 1 to 1"},
    {R"({"norm_topk_prob": 1})", "norm_topk_prob: expected true or false"},
    {R"({"num_nextn_predict_layers": -1})", "num_nextn_predict_layers: expected an integer from 0"},
};

TEST(Glm4Moe, RefusesConfigsItCannotRun) {
  std::vector<Refusal> all = {
      {R"({"num_key_value_heads": 3})", "num_key_value_heads: expected a divisor of 4 heads"},
      {R"({"head_dim": 63})", "head_dim: expected an even number"},
      {R"({"first_k_dense_replace": 5})", "first_k_dense_replace: expected an integer from 0 to 4"},
      {R"({"rope_parameters": {"partial_rotary_factor": 1.5}})", "partial_rotary_factor: expected"},
      {R"({"rope_parameters": {"partial_rotary_factor": 0}})", "partial_rotary_factor: expected"},
      {R"({"rope_parameters": {"partial_rotary_factor": 0.49}})",
       "partial_rotary_factor: expected an even number of the"},
      {R"({"use_qk_norm": "yes"})", "use_qk_norm: expected true or false"}};
  all.insert(all.end(), kMoeRefusals.begin(), kMoeRefusals.end());
  expect_refusals(config_of("zoo/glm4_moe"), all);
}

const std::vector<Refusal> kLatentRefusals = {
    {R"({"kv_lora_rank": null})", "kv_lora_rank: expected an integer"},
    {R"({"kv_lora_rank": 5000})", "kv_lora_rank: expected an integer from 1 to 4096"},
    {R"({"qk_rope_head_dim": 15})", "qk_rope_head_dim: expected an even number"},
    {R"({"qk_rope_head_dim": 0})", "qk_rope_head_dim: expected an integer from 2"},
    {R"({"qk_nope_head_dim": 0})", "qk_nope_head_dim: expected an integer from 1"},
    {R"({"v_head_dim": -3})", "v_head_dim: expected an integer from 1"},
    {R"({"qk_head_dim": 65})", "the sum of its parts"},
    {R"({"num_key_value_heads": 2})", "num_key_value_heads: expected 4, as many as heads"},
    {R"({"q_lora_rank": 0})", "q_lora_rank: expected an integer from 1"},
    {R"({"rope_interleave": 1})", "rope_interleave: expected true or false"},
    {R"({"attention_bias": 0})", "attention_bias: expected true or false"},
    {R"({"mlp_layer_types": ["dense"]})", "mlp_layer_types: expected a list of"},
};

TEST(Glm4MoeLite, RefusesConfigsItCannotRun) {
  std::vector<Refusal> all = {
      {R"({"mlp_layer_types": ["dense", "sparse", "spare"]})",
       "mlp_layer_types: expected \"dense\" or \"sparse\""},
      {R"({"num_experts_per_tok": 5})", "num_experts_per_tok: expected an integer from 1 to 4"}};
  all.insert(all.end(), kMoeRefusals.begin(), kMoeRefusals.end());
  all.insert(all.end(), kLatentRefusals.begin(), kLatentRefusals.end());
  std::erase_if(all, [](const Refusal& refusal) {  // a divisor of one group
    return std::string_view(refusal.patch).find("\"n_group\": 1,") != std::string_view::npos;
  });
  expect_refusals(config_of("zoo/glm4_moe_lite"), all);
}

TEST(GlmMoeDsa, RefusesConfigsItCannotRun) {
  std::vector<Refusal> all = {
      {R"({"q_lora_rank": null})", "q_lora_rank: expected the width that the indexer reads"},
      {R"({"index_topk": 0})", "index_topk: expected an integer from 1 to 16384"},
      {R"({"index_topk": 100000})", "index_topk: expected an integer from 1 to 16384"},
      {R"({"index_n_heads": 0})", "index_n_heads: expected an integer from 1"},
      {R"({"index_head_dim": 8})", "index_head_dim: expected an integer from 16"},
      {R"({"indexer_rope_interleave": 3})", "indexer_rope_interleave: expected true or false"},
      {R"({"indexer_types": ["full"]})", "indexer_types: expected a list of 6"},
      {R"({"indexer_types": ["full", "full", "full", "full", "full", "half"]})",
       "indexer_types: expected \"full\" or \"shared\""},
      {R"({"indexer_types": ["shared", "full", "full", "full", "full", "full"]})",
       "indexer_types: expected a first layer that chooses for itself"},
      {R"({"indexer_types": null, "index_topk_pattern": "FFS"})",
       "index_topk_pattern: expected a letter F or S for each layer"},
      {R"({"indexer_types": null, "index_topk_freq": 0})", "index_topk_freq: expected"}};
  all.insert(all.end(), kMoeRefusals.begin(), kMoeRefusals.end());
  all.insert(all.end(), kLatentRefusals.begin(), kLatentRefusals.end());
  expect_refusals(config_of("zoo/glm_moe_dsa"), all);
}

// glm_moe_dsa.md section 1.2: every spelling of which layers choose; 5.2's are 21 of 78.
TEST(GlmMoeDsa, ReadsWhichLayersChoose) {
  const auto choosing = [](const char* patch) {
    const Recorded recorded(config_of("zoo/glm_moe_dsa", patch));
    std::string out;
    for (int i = 0; recorded.asked(fmt::format("model.layers.{}.self_attn.q_a_proj", i)); ++i)
      out += recorded.asked(fmt::format("model.layers.{}.self_attn.indexer.wk", i)) ? 'F' : 'S';
    return out;
  };
  EXPECT_EQ(choosing("{}"), "FFSFSF");
  EXPECT_EQ(choosing(R"({"indexer_types": null})"), "FFSFSF");  // every 2nd from the 2nd on
  EXPECT_EQ(choosing(R"({"indexer_types": null, "index_topk_freq": null})"), "FFFFFF");
  EXPECT_EQ(choosing(R"({"indexer_types": null, "index_topk_pattern": "FSSFFS"})"), "FSSFFS");
  EXPECT_EQ(choosing(R"({"indexer_types": null,
                         "index_topk_pattern": ["F", "S", "S", "F", "F", "S"]})"),
            "FSSFFS");
  const std::string released =
      choosing(R"({"indexer_types": null, "index_topk_freq": 4, "index_skip_topk_offset": 3,
                   "num_hidden_layers": 78, "mlp_layer_types": null})");
  EXPECT_EQ(std::count(released.begin(), released.end(), 'F'), 21);
  EXPECT_EQ(released.substr(0, 12), "FFFSSSFSSSFS");
}

int64_t cache_bytes_per_token(const Json& config) {
  const Recorded recorded(config);
  PoolSpec pools;
  pools.kv = recorded.model->spec().kv;
  pools.pages_per_group = {3};
  return pools.bytes() / (3 * kPageSize);
}

// glm_moe_dsa.md sections 5 and 9: one latent row per layer, one index key per choosing layer.
TEST(LatentCache, TakesWhatTheFormulaSays) {
  EXPECT_EQ(cache_bytes_per_token(config_of(
                "zoo/glm_moe_dsa",
                R"({"num_hidden_layers": 78, "mlp_layer_types": null, "indexer_types": null,
                    "index_topk_freq": 4, "index_skip_topk_offset": 3, "kv_lora_rank": 512,
                    "qk_rope_head_dim": 64, "qk_head_dim": null, "index_head_dim": 128})")),
            95232);
  EXPECT_EQ(cache_bytes_per_token(
                config_of("zoo/glm4_moe_lite",
                          R"({"num_hidden_layers": 47, "mlp_layer_types": null, "kv_lora_rank": 512,
                    "qk_rope_head_dim": 64, "qk_head_dim": null})")),
            54144);
}

// Layers past the last one are drafts: known and not used, as the indexers of sharing layers are.
TEST(GlmMoeDsa, LeavesDraftLayersAlone) {
  using Kind = WeightRequest::Kind;
  const Json config = config_of("zoo/glm_moe_dsa");
  const auto load = [&](const std::string& extra) {
    TemporaryFolder folder;
    const Recorded recorded(config);
    std::vector<WeightRequest> requests(recorded.source->requests().begin(),
                                        recorded.source->requests().end());
    requests.push_back({Kind::kMatrix, "model.layers." + extra, "", {64, 128}});
    write_dummy_checkpoint(requests, config, Format::affine(4, 64), 1, folder.path());
    return model_error([&] { load_model(folder.path()); });
  };
  EXPECT_EQ(load("6.eh_proj"), "");
  EXPECT_EQ(load("6.mlp.experts.0.up_proj"), "");
  EXPECT_EQ(load("2.self_attn.indexer.wk"), "");
  EXPECT_THAT(load("7.eh_proj"), HasSubstr("model.layers.7.eh_proj"));
  EXPECT_THAT(load("1.self_attn.indexer.wv"), HasSubstr("left over"));
}

// A matrix that is stored for all heads together, cut as latent attention needs it.
TEST(LatentAttention, CutsHeadsOutOfOneMatrix) {
  constexpr int64_t kHeads = 3, kStride = 40, kFirst = 24, kRows = 16, kCols = 64;
  for (const Format& format : {Format::dense(DType::kBF16), Format::affine(4, 64)}) {
    TemporaryFolder folder;
    const std::vector<WeightRequest> requests = {
        {WeightRequest::Kind::kMatrix, "kv_b_proj", "", {kHeads * kStride, kCols}}};
    write_dummy_checkpoint(requests, config_of("zoo/glm4_moe_lite"), format, 5, folder.path());
    WeightLoad load(Checkpoint::open(folder.path()));
    const WeightScope scope = load.root() / "kv_b_proj";
    const Weight* whole = scope.matrix(kHeads * kStride, kCols);
    const Weight* plain = scope.cut({kHeads, kStride, kFirst, kRows, kCols, false});
    const Weight* turned = scope.cut({kHeads, kStride, kFirst, kRows, kCols, true});
    const auto weights = load.finish();
    ASSERT_EQ(plain->shape, (Shape{kHeads, kRows, kCols}));
    ASSERT_EQ(turned->shape, (Shape{kHeads, kCols, kRows}));
    EXPECT_EQ(plain->format, whole->format);
    EXPECT_EQ(turned->format.dtype, format.is_dense() ? DType::kBF16 : DType::kF32);
    std::vector<float> want(kCols), got(kCols), column(kRows);
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t r = 0; r < kRows; ++r) {
        dequantize_row(whole->view(), h * kStride + kFirst + r, want.data());
        dequantize_row(plain->views[static_cast<size_t>(h)], r, got.data());
        EXPECT_EQ(got, want);
        for (int64_t c = 0; c < kCols; ++c) {
          dequantize_row(turned->views[static_cast<size_t>(h)], c, column.data());
          ASSERT_EQ(column[static_cast<size_t>(r)], want[static_cast<size_t>(c)]);
        }
      }
  }
}

}  // namespace
}  // namespace decant
