#include "checkpoint/survey.h"

#include "checkpoint/testing.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using State = FolderSurvey::State;
using testing::fixture;
using testing::safetensors_text;
using testing::TemporaryFolder;
using testing::write_file;

TEST(Survey, KnowsTheFixtures) {
  const FolderSurvey dense = survey_folder(fixture("zoo/qwen3"));
  EXPECT_EQ(dense.state, State::kComplete);
  EXPECT_EQ(dense.model_type, "qwen3");
  EXPECT_EQ(dense.format, "bf16");
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(fixture("zoo/qwen3"))) bytes += entry.file_size();
  EXPECT_EQ(dense.bytes, bytes);
  EXPECT_EQ(survey_folder(fixture("demo/gemma3n")).format, "bf16");
  EXPECT_EQ(survey_folder(fixture("mlx/qwen3-4bit")).format, "4bit-g64");
  EXPECT_EQ(survey_folder(fixture("mlx/qwen3-1bit")).format, "1bit-g64");
  EXPECT_EQ(survey_folder(fixture("mlx/qwen3-4bit-sharded")).format, "4bit-g64");
  EXPECT_EQ(survey_folder(fixture("mlx/qwen3-mxfp4")).format, "mxfp4");
}

TEST(Survey, SaysWhatIsMissing) {
  const TemporaryFolder folder;
  for (const auto& entry : fs::directory_iterator(fixture("mlx/qwen3-4bit-sharded")))
    fs::copy(entry.path(), folder / entry.path().filename().string());
  fs::remove(folder / "model-00002-of-00003.safetensors");
  FolderSurvey survey = survey_folder(folder.path());
  EXPECT_EQ(survey.state, State::kMissingShards);
  EXPECT_THAT(survey.missing, ElementsAre("model-00002-of-00003.safetensors"));
  EXPECT_EQ(survey.format, "4bit-g64");
  // Without the index the names tell; a link to nothing is not there either.
  fs::remove(folder / "model.safetensors.index.json");
  fs::remove(folder / "model-00003-of-00003.safetensors");
  fs::create_symlink("nowhere", folder / "model-00003-of-00003.safetensors");
  EXPECT_THAT(survey_folder(folder.path()).missing,
              ElementsAre("model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"));
}

TEST(Survey, BrokenFoldersAreRows) {
  const TemporaryFolder folder;
  EXPECT_EQ(survey_folder(folder.path()).state, State::kBroken);
  EXPECT_EQ(survey_folder(folder / "absent").state, State::kBroken);
  write_file(folder / "config.json", R"({"model_type": "qwen3"})");
  FolderSurvey survey = survey_folder(folder.path());
  EXPECT_EQ(survey.state, State::kNoWeights);
  EXPECT_EQ(survey.model_type, "qwen3");
  write_file(folder / "pytorch_model.bin", "x");
  EXPECT_THAT(survey_folder(folder.path()).problem, HasSubstr("pickled"));
  write_file(folder / "model.safetensors", "not one");
  survey = survey_folder(folder.path());
  EXPECT_EQ(survey.state, State::kBroken);
  EXPECT_THAT(survey.problem, HasSubstr("model.safetensors"));
  write_file(folder / "model.safetensors", safetensors_text("{}"));
  survey = survey_folder(folder.path());
  EXPECT_EQ(survey.state, State::kComplete);
  EXPECT_THAT(survey.format, IsEmpty());
  for (const char* config :
       {"", "[]", "7", R"({"model_type": 7})", R"({"quantization": {"bits": 9}})"}) {
    write_file(folder / "config.json", config);
    EXPECT_THAT(survey_folder(folder.path()).model_type, IsEmpty()) << config;
  }
  EXPECT_THAT(survey_folder(folder.path()).problem, HasSubstr("quantization.bits"));
  write_file(folder / "model.safetensors.index.json", R"({"weight_map": {"a": "../x"}})");
  EXPECT_EQ(survey_folder(folder.path()).state, State::kBroken);
}

}  // namespace
}  // namespace decant
