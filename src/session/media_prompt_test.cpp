#include "session/media_prompt.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <array>
#include <fstream>

#include "base/errors.h"
#include "models/load_model.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kFixtures = DECANT_TEST_DATA;

/// Ten special tokens and the bytes: small enough for the models of the zoo.
std::shared_ptr<const Tokenizer> tokenizer_with(const std::array<std::string, 10>& specials) {
  Json file;
  file["added_tokens"] = Json::array();
  Json& vocab = file["model"]["vocab"];
  for (size_t i = 0; i < specials.size(); ++i) {
    file["added_tokens"].push_back({{"id", i},
                                    {"content", specials[i]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
    vocab[specials[i]] = i;
  }
  for (size_t byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 10 + byte;
  file["model"]["type"] = "BPE";
  file["model"]["byte_fallback"] = true;
  file["model"]["unk_token"] = specials[3];
  file["model"]["merges"] = Json::array();
  file["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteFallback"},
                                                                     {"type": "Fuse"}]})");
  return Tokenizer::from_json(file.dump(), "", "test");
}

class MediaPromptTest : public ::testing::Test {
 public:
  ~MediaPromptTest() override { fs::remove_all(folder_); }

 protected:
  MediaPromptTest() {
    std::string pattern = (fs::temp_directory_path() / "decant-prompt-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }

  void use(const char* model, const std::array<std::string, 10>& specials) {
    loaded_ = load_model(kFixtures / model);
    tokenizer_ = tokenizer_with(specials);
    restart();
  }
  void use_qwen() {
    use("zoo/qwen3_5", {"<pad>", "<eos>", "<bos>", "<unk>", "<|image_pad|>", "<|video_pad|>",
                        "<|vision_start|>", "<|vision_end|>", "<8>", "<9>"});
  }
  void use_gemma() {
    use("zoo/gemma4_dense", {"<pad>", "<eos>", "<bos>", "<unk>", "<|image|>", "<|video|>",
                             "<|image>", "<image|>", "<8>", "<9>"});
  }
  void restart() {
    prompter_ = std::make_unique<MediaPrompter>(folder_, *loaded_.model, *tokenizer_);
  }
  void write(const char* name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }
  Prompt prompt(const std::string& text, const std::vector<MediaPart>& files) {
    return prompter_->prompt({{text, false}}, files, false);
  }
  std::string text_of(const Prompt& prompt) const { return tokenizer_->decode(prompt.tokens); }
  /// What the official processor writes for a case of the frozen clip.
  static std::string official(size_t index) {
    const Json golden = read_json_file(kFixtures / "media/clip.json");
    return golden.at("cases").at(index).at("text").get<std::string>();
  }

  const std::string clip_ = (kFixtures / "media/clip").string();
  fs::path folder_;
  LoadedModel loaded_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<MediaPrompter> prompter_;
};

constexpr const char* kSmall = R"({"size": {"shortest_edge": 4096, "longest_edge": 36864}})";

TEST_F(MediaPromptTest, Qwen35VideosAreTimesAndPairsOfFrames) {
  use_qwen();
  write("video_preprocessor_config.json", kSmall);
  const Prompt got =
      prompt("user\n<|vision_start|><|video_pad|><|vision_end|>What?", {{Medium::kVideo, clip_}});
  EXPECT_EQ(text_of(got), "user\n" + official(0) + "What?");
  ASSERT_NE(got.attachments, nullptr);
  const auto& media = got.attachments->media;
  ASSERT_EQ(media.size(), 2u);
  EXPECT_NE(media[0].key, media[1].key);
  for (const PromptMedia& one : media) {
    EXPECT_EQ(one.input->medium, Medium::kVideo);
    EXPECT_EQ(one.input->grid[0], 1);
    const auto first = static_cast<size_t>(one.first);
    EXPECT_EQ(got.tokens[first - 1], 6);
    EXPECT_EQ(got.tokens[first], 5);
    EXPECT_EQ(got.tokens[first + static_cast<size_t>(
                                     loaded_.model->tower(Medium::kVideo)->rows(*one.input))],
              7);
  }
  // The whole placement is one that the engine takes.
  EXPECT_NO_THROW(place_media(*loaded_.model, got.tokens, media, 64));
}

TEST_F(MediaPromptTest, PlaceholdersWithoutWrappersAreReplacedAlone) {
  use_qwen();
  write("video_preprocessor_config.json", kSmall);
  EXPECT_EQ(
      text_of(prompt("<|vision_start|> <|video_pad|><|vision_end|>", {{Medium::kVideo, clip_}})),
      "<|vision_start|> " + official(0) + "<|vision_end|>");
}

TEST_F(MediaPromptTest, PicturesAndVideosKeepTheirOrder) {
  use_qwen();
  write("video_preprocessor_config.json", kSmall);
  write("preprocessor_config.json", kSmall);
  const std::string picture = (kFixtures / "media/clip/frame1.png").string();
  const Prompt got = prompt(
      "<|vision_start|><|video_pad|><|vision_end|>a"
      "<|vision_start|><|image_pad|><|vision_end|>b"
      "<|vision_start|><|video_pad|><|vision_end|>",
      {{Medium::kVideo, clip_}, {Medium::kImage, picture}, {Medium::kVideo, clip_}});
  const std::string text = text_of(got);
  EXPECT_TRUE(text.starts_with(official(0) + "a<|vision_start|><|image_pad|>")) << text;
  EXPECT_TRUE(text.ends_with("<|image_pad|><|vision_end|>b" + official(0))) << text;
  const auto& media = got.attachments->media;
  ASSERT_EQ(media.size(), 5u);
  EXPECT_EQ(media[2].input->medium, Medium::kImage);
  // The second is the first again, not read anew.
  EXPECT_EQ(media[0].input, media[3].input);
  EXPECT_EQ(media[0].key, media[3].key);
}

TEST_F(MediaPromptTest, Gemma4VideosAreMinutesAndFrames) {
  use_gemma();
  write("processor_config.json", R"({"video_processor": {"num_frames": 4}})");
  write("preprocessor_config.json", R"({"num_frames": 2})");  // of older days: not read
  const Prompt got = prompt("user\n<|video|>What?", {{Medium::kVideo, clip_}});
  EXPECT_EQ(text_of(got), "user\n" + official(5) + "What?");
  EXPECT_EQ(got.attachments->media.size(), 4u);
  EXPECT_NO_THROW(place_media(*loaded_.model, got.tokens, got.attachments->media, 1024));
}

TEST_F(MediaPromptTest, SettingsAreNeededAndChecked) {
  use_gemma();
  const std::vector<MediaPart> clip = {{Medium::kVideo, clip_}};
  const auto error = [&](const std::string& text) {
    try {
      prompt(text, clip);
    } catch (const Error& problem) {
      return std::string(problem.what());
    }
    return std::string();
  };
  EXPECT_THAT(error("<|video|>"),
              HasSubstr("expected video_preprocessor_config.json or preprocessor_config.json"));
  write("processor_config.json", R"({"video_processor": {"max_soft_tokens": 71}})");
  EXPECT_THAT(error("<|video|>"),
              HasSubstr("processor_config.json: video_processor.max_soft_tokens"));
  write("processor_config.json", R"({"video_processor": {"num_frames": 1}})");
  EXPECT_THAT(error("no placeholder"), HasSubstr("to write 1 placeholders (<|video|>), got 0"));
  EXPECT_EQ(error("<|video|>"), "");
}

TEST_F(MediaPromptTest, TypedPlaceholdersAreText) {
  use_gemma();
  write("processor_config.json", R"({"video_processor": {"num_frames": 1}})");
  const Prompt got = prompter_->prompt({{"<|video|>", false}, {"<|video|>", true}},
                                       {{Medium::kVideo, clip_}}, false);
  EXPECT_EQ(got.attachments->media.size(), 1u);
  EXPECT_TRUE(text_of(got).ends_with("<image|><|video|>"));
  EXPECT_NE(got.tokens.back(), 5);
}

}  // namespace
}  // namespace decant
