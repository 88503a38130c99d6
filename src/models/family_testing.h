#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/dummy_weights.h"
#include "checkpoint/testing.h"
#include "models/registry.h"

// What the tests of the families share: a model recorded on placeholders, and what it refuses.
namespace decant::testing {

/// The config of a fixture, with `patch` merged into it.
inline Json config_of(std::string_view name, const char* patch = "{}") {
  Json config = read_json_file(fixture(fmt::format("{}/config.json", name)));
  config.merge_patch(parse_json(patch, "patch"));
  return config;
}

/// The model of a config on placeholders, with what it asked for.
struct Recorded {
  std::shared_ptr<DummySource> source = std::make_shared<DummySource>(Format::affine(4, 64));
  std::shared_ptr<WeightSet> weights;
  std::unique_ptr<Model> model;
  explicit Recorded(const Json& config) {
    const Family& family = family_of(config, "config.json");
    WeightLoad load(source, family.renames);
    model = family.build(config, "config.json", load.root());
    weights = load.finish();
  }
  bool asked(std::string_view path) const {
    return std::any_of(source->requests().begin(), source->requests().end(),
                       [&](const WeightRequest& request) { return request.path == path; });
  }
};

struct Refusal {
  const char* patch;  // merged into the config
  const char* message;
};

/// `good` is accepted, and with each patch refused, by a message that also names the file.
inline void expect_refusals(const Json& good, std::span<const Refusal> refusals) {
  EXPECT_NO_THROW(Recorded{good});
  for (const auto& [patch, message] : refusals) {
    Json config = good;
    config.merge_patch(parse_json(patch, "patch"));
    const std::string got = model_error([&] { const Recorded recorded(config); });
    EXPECT_THAT(got, ::testing::HasSubstr(message)) << patch;
    EXPECT_THAT(got, ::testing::HasSubstr("config.json")) << patch;
  }
}

/// A dummy checkpoint of `config` with its tensors under other names.
inline void write_renamed(const std::filesystem::path& folder, const Json& config,
                          const std::function<std::string(const std::string&)>& rename,
                          std::vector<WeightRequest> extra) {
  const Recorded recorded(config);
  std::vector<WeightRequest> requests(recorded.source->requests().begin(),
                                      recorded.source->requests().end());
  for (WeightRequest& request : requests) request.path = rename(request.path);
  for (WeightRequest& request : extra) requests.push_back(std::move(request));
  write_dummy_checkpoint(requests, config, Format::affine(4, 64), 1, folder);
}

/// What every decoder refuses.
inline const std::vector<Refusal> kDecoderRefusals = {
    {R"({"model_type": "gpt2"})", "model_type: expected one of llama, qwen3, qwen3_moe, gemma3n"},
    {R"({"model_type": 3})", "model_type: expected a string"},
    {R"({"vocab_size": 0})", "vocab_size: expected an integer from 1 to 16777216, got number 0"},
    {R"({"vocab_size": 1e300})", "vocab_size: expected an integer"},
    {R"({"hidden_size": -64})", "hidden_size: expected an integer from 1"},
    {R"({"hidden_size": 9223372036854775807})", "hidden_size: expected an integer from 1"},
    {R"({"hidden_size": "64"})", "hidden_size: expected an integer from 1"},
    {R"({"hidden_size": 64.5})", "hidden_size: expected an integer from 1"},
    {R"({"num_hidden_layers": 0})", "num_hidden_layers: expected an integer from 1 to 4096"},
    {R"({"num_hidden_layers": 1000000000})", "num_hidden_layers: expected an integer from 1"},
    {R"({"num_attention_heads": 0})", "num_attention_heads: expected an integer from 1"},
    {R"({"num_attention_heads": 65536, "num_key_value_heads": 1, "head_dim": 65536})",
     "num_attention_heads: expected heads times head_dim of at most"},
    {R"({"num_key_value_heads": 3})", "num_key_value_heads: expected a divisor of 4 heads"},
    {R"({"num_key_value_heads": -1})", "num_key_value_heads: expected an integer from 1"},
    {R"({"head_dim": 0})", "head_dim: expected an integer from 1"},
    {R"({"head_dim": 63})", "head_dim: expected an even number"},
    {R"({"rms_norm_eps": 0})", "rms_norm_eps: expected a number from"},
    {R"({"rms_norm_eps": -1e-6})", "rms_norm_eps: expected a number from"},
    {R"({"max_position_embeddings": 0})", "max_position_embeddings: expected"},
    {R"({"eos_token_id": "stop"})", "eos_token_id: expected an integer"},
    {R"({"eos_token_id": [-2]})", "eos_token_id: expected token ids"},
    {R"({"tie_word_embeddings": 1})", "tie_word_embeddings: expected true"},
    {R"({"rope_parameters": {"rope_type": "longrope"}})", "rope_type: expected \"default\""},
    {R"({"layer_types": ["full_attention"]})", "layer_types: expected a list of"},
};

inline void expect_decoder_refusals(std::string_view name, std::vector<Refusal> own) {
  for (Refusal refusal : kDecoderRefusals) {
    // Booleans name the key alone in some families.
    if (std::string_view(refusal.patch).find("tie_word") != std::string_view::npos)
      refusal.message = "tie_word_embeddings: expected true";
    own.push_back(refusal);
  }
  expect_refusals(config_of(name), own);
}

}  // namespace decant::testing
