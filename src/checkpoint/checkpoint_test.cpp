#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include "base/json.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using namespace decant::testing;

std::string one_tensor(std::string_view name) {
  return safetensors_text(
      fmt::format(R"({{"{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}})", name), 1);
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { write("config.json", "{}"); }
  void write(std::string_view name, std::string_view text) { write_file(folder_ / name, text); }
  void index(std::string_view map) {
    write("model.safetensors.index.json", fmt::format(R"({{"weight_map":{}}})", map));
  }
  std::string error() {
    return model_error([&] { Checkpoint::open(folder_.path()); });
  }
  TemporaryFolder folder_;
};

TEST_F(CheckpointTest, OpensShardsByIndexAndByName) {
  const auto sharded = Checkpoint::open(fixture("mlx/qwen3-4bit-sharded"));
  const auto single = Checkpoint::open(fixture("mlx/qwen3-4bit"));
  EXPECT_EQ(sharded->files().size(), 3u);
  EXPECT_EQ(sharded->names(), single->names());
  EXPECT_EQ(sharded->bytes(), single->bytes());
  for (std::string_view name : single->names()) {
    const auto a = single->find(name)->bytes;
    const auto b = sharded->find(name)->bytes;
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name;
  }
  write("model-00001-of-00002.safetensors", one_tensor("a"));
  write("model-00002-of-00002.safetensors", one_tensor("b"));
  write("consolidated.safetensors", "junk");
  const auto plain = Checkpoint::open(folder_.path());
  EXPECT_TRUE(plain->find("a"));
  EXPECT_TRUE(plain->find("b"));
  EXPECT_FALSE(plain->find("c"));
}

TEST_F(CheckpointTest, ReportsAbsentShards) {
  write("model-00001-of-00003.safetensors", one_tensor("a"));
  std::string message = error();
  EXPECT_THAT(message, HasSubstr("\"model-00002-of-00003.safetensors\""));
  EXPECT_THAT(message, HasSubstr("\"model-00003-of-00003.safetensors\""));
  EXPECT_THAT(message, HasSubstr("decant pull"));
  index(R"({"a":"model-00001-of-00003.safetensors","b":"model-00002-of-00003.safetensors"})");
  EXPECT_THAT(error(), HasSubstr("expected 2 shards, 1 of them absent"));
}

TEST_F(CheckpointTest, FollowsFilesWhenTheIndexIsStale) {
  write("model.safetensors", one_tensor("a"));
  index(R"({"a":"model-00001-of-00002.safetensors"})");
  EXPECT_TRUE(Checkpoint::open(folder_.path())->find("a"));  // the index names other files
  index(R"({"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"})");
  EXPECT_THAT(error(), HasSubstr("\"b\": expected in \"model-00002-of-00002.safetensors\""));
  write("model-00001-of-00002.safetensors", one_tensor("b"));
  write("model-00002-of-00002.safetensors", one_tensor("a"));
  const auto swapped = Checkpoint::open(folder_.path());
  EXPECT_EQ(swapped->find("a").file->path().filename(), "model-00002-of-00002.safetensors");
  write("model-00002-of-00002.safetensors", one_tensor("b"));
  EXPECT_THAT(error(), HasSubstr("expected in one shard"));
}

TEST_F(CheckpointTest, RefusesABadIndex) {
  write("model.safetensors", one_tensor("a"));
  for (const char* map : {"{}", "[]", "null", R"({"a":1})", R"({"a":"../model.safetensors"})",
                          R"({"a":"/etc/passwd"})", R"({"a":""})", R"({"a":".."})"}) {
    index(map);
    EXPECT_NE(error(), "") << map;
  }
  write("model.safetensors.index.json", "{");
  EXPECT_THAT(error(), HasSubstr("model.safetensors.index.json:1"));
  write("model.safetensors.index.json", R"({"weight_map":{"a":"x","a":"y"}})");
  EXPECT_THAT(error(), HasSubstr("duplicate key"));
}

TEST_F(CheckpointTest, RefusesFoldersWithoutWeightsOrConfig) {
  EXPECT_THAT(error(), HasSubstr("expected model*.safetensors, got none"));
  write("pytorch_model.bin", "x");
  EXPECT_THAT(error(), HasSubstr("pickled"));
  fs::remove(folder_ / "config.json");
  EXPECT_THAT(error(), HasSubstr("config.json"));
  for (const char* text : {"", "[]", "{\"a\":1,}", "\xff", "{\"a\":1,\"a\":2}", "{} x"}) {
    write("config.json", text);
    EXPECT_THAT(error(), HasSubstr("config.json")) << text;
  }
  write("config.json", R"({"quantization":{"bits":9,"group_size":64}})");
  EXPECT_THAT(error(), HasSubstr("quantization.bits"));
  EXPECT_THAT(model_error([] { Checkpoint::open("/nonexistent/model"); }),
              HasSubstr("/nonexistent/model: expected a model folder"));
  EXPECT_NE(model_error([&] { Checkpoint::open(folder_ / "config.json"); }), "");
}

}  // namespace
}  // namespace decant
