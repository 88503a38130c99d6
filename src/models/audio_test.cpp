// The audio towers of Gemma 3n and Gemma 4: features, what they refuse, and what a file may lack.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/reference/reference_backend.h"
#include "models/audio_testing.h"
#include "models/family_testing.h"
#include "models/gemma3n_audio_encoder.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

class AudioFixture : public ::testing::TestWithParam<const char*> {};

TEST_P(AudioFixture, GivesTheReferenceFeatures) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(fixture(GetParam()));
  expect_audio_golden(*backend, *loaded.model, fixture(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, AudioFixture,
                         ::testing::Values("zoo/gemma3n_audio", "zoo/gemma4_audio"),
                         [](const auto& test) { return std::string(test.param).substr(4); });

/// A copy of a checkpoint as mlx-vlm 0.7.10 stores it: other prefixes, channels of kernels last.
void write_as_mlx_vlm(std::string_view name, const std::filesystem::path& folder) {
  const auto file = SafetensorsFile::open(fixture(fmt::format("{}/model.safetensors", name)));
  std::vector<TensorDeclaration> declared;
  std::vector<std::vector<std::byte>> bytes;
  for (const TensorInfo& tensor : file->tensors()) {
    std::string path = tensor.name.substr(std::string_view("model.").size());
    ASSERT_TRUE(tensor.name.starts_with("model.")) << tensor.name;
    if (path.starts_with("language_model.")) path.insert(path.find('.'), ".model");
    std::vector<int64_t> dims(tensor.dims().begin(), tensor.dims().end());
    std::vector<std::byte> data(tensor.bytes.begin(), tensor.bytes.end());
    if (path.ends_with("conv1d.weight")) std::swap(dims[1], dims[2]);
    if (path.ends_with("conv.weight")) {
      const int64_t out = dims[0], in = dims[1], taps = dims[2] * dims[3];
      const int64_t size = std::ssize(data) / (out * in * taps);
      for (int64_t o = 0; o < out; ++o)
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t i = 0; i < in; ++i)
            std::copy_n(tensor.bytes.begin() + ((o * in + i) * taps + t) * size, size,
                        data.begin() + ((o * taps + t) * in + i) * size);
      dims = {out, dims[2], dims[3], in};
    }
    declared.push_back({path, tensor.dtype, dims});
    bytes.push_back(std::move(data));
  }
  SafetensorsWriter writer(folder / "model.safetensors", declared, {});
  for (size_t i = 0; i < bytes.size(); ++i) writer.write(bytes[i]);
  writer.commit();
  write_file(folder / "config.json", config_of(name).dump());
}

TEST_P(AudioFixture, ReadsTheSpellingOfMlxVlm) {
  const TemporaryFolder folder;
  write_as_mlx_vlm(GetParam(), folder.path());
  const LoadedModel loaded = load_model(folder.path());
  const LoadedModel original = load_model(fixture(GetParam()));
  const Tower *tower = loaded.model->tower(Medium::kAudio),
              *same = original.model->tower(Medium::kAudio);
  ASSERT_NE(tower, nullptr);
  const auto backend = make_reference_backend();
  const TowerInput input =
      sound_of(Golden(fixture(GetParam()), "golden_audio.safetensors").floats("mel"), 40, 37);
  EXPECT_EQ(run_tower(*backend, *tower, input), run_tower(*backend, *same, input));
}

// Blocks of 4 frames, so that positions and context are others than in the released models.
TEST(Gemma4Audio, GivesTheFeaturesOfSmallChunks) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(fixture("zoo/gemma4_e2b"));
  const Golden golden(fixture("zoo/gemma4_e2b"), "golden_audio.safetensors");
  TowerInput input;
  input.shape = {64, 128};
  input.values = golden.floats("input_features");
  const auto want = golden.floats("audio_features");
  const Tower* tower = loaded.model->tower(Medium::kAudio);
  ASSERT_NE(tower, nullptr);
  EXPECT_EQ(tower->rows(input), 16);
  EXPECT_LE(max_difference(run_tower(*backend, *tower, input), want), 1e-4 * range_of(want));
}

/// The encoder of Gemma 3n alone: a checkpoint of transformers' Gemma3nAudioEncoder.
class EncoderTower final : public Tower {
 public:
  explicit EncoderTower(const Gemma3nAudioEncoder& encoder) : encoder_(encoder) {}
  int64_t rows(const TowerInput& input) const override {
    return encoder_.rows(encoder_.cut(input).frames);
  }
  TowerSize size(const TowerInput& input) const override {
    return {{Phase::kPrefill, 1, 1, 1}, encoder_.cut(input).fixed()};
  }
  Value forward(Graph& graph, const TowerSize& size) const override {
    return encoder_(graph, size.fixed);
  }
  void feed(const TowerInput& input, TowerFeed& feed) const override {
    encoder_.feed(input, encoder_.cut(input), feed);
  }

 private:
  Gemma3nAudioEncoder encoder_;
};

TEST(Gemma3nAudio, EncodesAsTheReferenceDoes) {
  const auto checkpoint = Checkpoint::open(fixture("zoo/gemma3n_audio_tower"));
  WeightLoad load(checkpoint, Renames::none());
  const EncoderTower tower(Gemma3nAudioEncoder(
      Gemma3nAudioConfig::read(ConfigReader(checkpoint->config(), "config.json")), load.root()));
  const auto weights = load.finish();
  const Golden golden(checkpoint->folder());
  TowerInput input;
  input.shape = {64, 128};
  input.values = golden.floats("input_features");
  const auto want = golden.floats("encodings");
  const auto backend = make_reference_backend();
  EXPECT_EQ(tower.rows(input), 4);
  EXPECT_LE(max_difference(run_tower(*backend, tower, input), want), 1e-4 * range_of(want));
}

TEST(Gemma3nAudio, FillsUpWithTheLastId) {
  const auto backend = make_reference_backend();
  const LoadedModel loaded = load_model(fixture("zoo/gemma3n_audio"));
  const Tower& tower = *loaded.model->tower(Medium::kAudio);
  const std::vector<float> mel(8 * 128, 0.5f);
  TowerInput silence;
  silence.ids = {399};
  const auto filling = run_tower(*backend, tower, silence);
  const auto got = run_tower(*backend, tower, sound_of(mel, 8, 0));
  ASSERT_EQ(got.size(), 9 * filling.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], filling[i % filling.size()]) << i;
}

TEST(AudioTowers, SayWhereTheirFeaturesGo) {
  const LoadedModel gemma3n = load_model(fixture("zoo/gemma3n_audio"));
  const MediaSpec& media = gemma3n.spec.media;
  EXPECT_EQ(media.audio_token, 393);
  ASSERT_EQ(media.tower_tokens.size(), 1U);
  EXPECT_EQ(media.tower_tokens[0].medium, Medium::kAudio);
  EXPECT_EQ(media.tower_tokens[0].first, 392);
  EXPECT_EQ(media.tower_tokens[0].count, 8);
  EXPECT_EQ(load_model(fixture("zoo/gemma4_audio")).spec.media.audio_token, 3);
}

TEST(AudioTowers, AreMissingInFilesWithoutThem) {
  for (const char* name : {"zoo/gemma3n_text", "zoo/gemma4_dense", "zoo/gemma4_moe", "zoo/qwen3"}) {
    const LoadedModel loaded = load_model(fixture(name));
    EXPECT_EQ(loaded.model->tower(Medium::kAudio), nullptr) << name;
    EXPECT_EQ(loaded.spec.media.audio_token, -1) << name;
  }
}

TEST(AudioTowers, RefuseWhatNoProcessorMakes) {
  for (const char* name : {"zoo/gemma3n_audio", "zoo/gemma4_audio"}) {
    SCOPED_TRACE(name);
    const LoadedModel loaded = load_model(fixture(name));
    const Tower& tower = *loaded.model->tower(Medium::kAudio);
    const std::vector<float> mel(16 * 128);
    const TowerInput good = sound_of(mel, 16, 16);
    EXPECT_NO_THROW(tower.rows(good));
    const auto refused = [&](const auto& change) -> std::string {
      TowerInput input = good;
      change(input);
      try {
        tower.rows(input);
      } catch (const RequestError& error) {
        return error.what();
      }
      return "accepted";
    };
    EXPECT_THAT(refused([](TowerInput& x) { x.shape = {16}; }),
                HasSubstr("input_features: expected (1 to"));
    EXPECT_THAT(refused([](TowerInput& x) { x.shape = {0, 128}; }), HasSubstr("got (0, 128)"));
    EXPECT_THAT(refused([](TowerInput& x) { x.shape = {16, 80}; }), HasSubstr("got (16, 80)"));
    EXPECT_THAT(refused([](TowerInput& x) { x.shape = {INT64_C(1) << 40, 128}; }),
                HasSubstr("expected (1 to 65536 frames, 128)"));
    EXPECT_THAT(refused([](TowerInput& x) { x.shape = {17, 128}; }),
                HasSubstr("2176 values, got 2048"));
    EXPECT_THAT(refused([](TowerInput& x) { x.mask.pop_back(); }), HasSubstr("16 frames, got 15"));
    EXPECT_THAT(refused([](TowerInput& x) { x.mask[3] = 0; }), HasSubstr("valid frames before"));
  }
  const LoadedModel gemma4 = load_model(fixture("zoo/gemma4_audio"));
  const std::vector<float> mel(1000 * 128);
  EXPECT_THROW(gemma4.model->tower(Medium::kAudio)->rows(sound_of(mel, 4, 0)), RequestError);
  const LoadedModel gemma3n = load_model(fixture("zoo/gemma3n_audio"));
  const Tower& tower = *gemma3n.model->tower(Medium::kAudio);
  EXPECT_EQ(tower.rows(sound_of(mel, 1000, 144)), 9);
  EXPECT_THROW(tower.rows(sound_of(mel, 1000, 145)), RequestError);  // a tenth row
  for (const int32_t id : {-1, 391, 400}) {
    TowerInput hard;
    hard.ids = {393, id};
    EXPECT_THROW(tower.rows(hard), RequestError) << id;
  }
}

/// Errors of loading a fixture with `patch` merged into its config.
std::string load_error(std::string_view name, const char* patch) {
  const TemporaryFolder folder;
  std::filesystem::create_symlink(fixture(fmt::format("{}/model.safetensors", name)),
                                  folder / "model.safetensors");
  write_file(folder / "config.json", config_of(name, patch).dump());
  return model_error([&] { load_model(folder.path()); });
}

TEST(AudioTowers, RefuseConfigsTheyCannotRun) {
  const std::vector<std::pair<const char*, const char*>> gemma3n = {
      {R"({"audio_config": {"conf_attention_context_right": 1}})", "context_right: expected 0"},
      {R"({"audio_config": {"conf_attention_context_left": 0}})", "context_left: expected an"},
      {R"({"audio_config": {"conf_num_attention_heads": 3}})", "a divisor of hidden_size 64"},
      {R"({"audio_config": {"conf_num_attention_heads": 64}})", "a divisor of hidden_size 64"},
      {R"({"audio_config": {"conf_conv_kernel_size": 65}})", "conf_conv_kernel_size: expected"},
      {R"({"audio_config": {"conf_reduction_factor": 0}})", "conf_reduction_factor: expected"},
      {R"({"audio_config": {"sscp_conv_kernel_size": [[3, 3], [5, 5]]}})", "[[3, 3], [3, 3]]"},
      {R"({"audio_config": {"sscp_conv_stride_size": [2, 2]}})", "[[2, 2], [2, 2]]"},
      {R"({"audio_config": {"sscp_conv_channel_size": [128, 0]}})", "from 1 to 4096"},
      {R"({"audio_config": {"sscp_conv_group_norm_eps": -1}})", "sscp_conv_group_norm_eps"},
      {R"({"audio_config": {"vocab_offset": 380}})", "vocab_offset: expected the last 8 ids"},
      {R"({"audio_config": {"hidden_size": 128}})", "conformer.1"},
      {R"({"audio_soft_tokens_per_image": 0})", "audio_soft_tokens_per_image"},
      {R"({"audio_token_id": 400})", "audio_token_id"}};
  for (const auto& [patch, message] : gemma3n)
    EXPECT_THAT(load_error("zoo/gemma3n_audio", patch), HasSubstr(message)) << patch;
  const std::vector<std::pair<const char*, const char*>> gemma4 = {
      {R"({"audio_config": {"attention_context_right": 1}})", "context_right: expected 0"},
      {R"({"audio_config": {"attention_context_left": 1}})", "context_left: expected an"},
      {R"({"audio_config": {"num_attention_heads": 5}})", "a divisor of hidden_size 64"},
      {R"({"audio_config": {"subsampling_conv_channels": [64, 8]}})", "expected 128 and"},
      {R"({"audio_config": {"subsampling_conv_channels": [128]}})", "subsampling_conv_channels"},
      {R"({"audio_config": {"hidden_act": "swish9"}})", "hidden_act: expected"},
      {R"({"audio_config": {"gradient_clipping": 0}})", "gradient_clipping: expected"},
      {R"({"audio_config": {"output_proj_dims": 95}})", "output_proj"},
      {R"({"audio_config": {"num_hidden_layers": 3}})", "audio_tower.layers.2"}};
  for (const auto& [patch, message] : gemma4)
    EXPECT_THAT(load_error("zoo/gemma4_audio", patch), HasSubstr(message)) << patch;
}

}  // namespace
}  // namespace decant
