#include "hub/model_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/errors.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kFirst = "1111111111111111111111111111111111111111";
const std::string kSecond = "1111222222222222222222222222222222222222";

class ModelStore : public ::testing::Test {
 public:
  ~ModelStore() override { fs::remove_all(root_); }

 protected:
  ModelStore() : root_(fs::temp_directory_path() / fmt::format("decant-model-store-{}", getpid())) {
    fs::remove_all(root_);
    fs::create_directories(root_ / "hub");
    fs::create_directories(root_ / "dir");
    places_ = {root_ / "hub", {root_ / "dir"}};
  }

  void write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  // A snapshot as the tools lay it out: links to blobs.
  fs::path snapshot(const std::string& repository, const std::string& commit) {
    const fs::path folder = root_ / "hub" / repository;
    write(folder / "blobs" / ("c" + commit), "{}");
    fs::create_directories(folder / "snapshots" / commit);
    fs::create_symlink("../../blobs/c" + commit, folder / "snapshots" / commit / "config.json");
    return folder / "snapshots" / commit;
  }
  void ref(const std::string& repository, const std::string& name, const std::string& commit) {
    write(root_ / "hub" / repository / "refs" / name, commit);
  }
  std::string error_of(const std::string& model) {
    try {
      resolve_model(model, places_);
    } catch (const Error& error) {
      kind_ = error.kind();
      return error.what();
    }
    return "no error";
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    for (const StoredModel& model : stored_models(places_)) out.push_back(model.name);
    return out;
  }

  fs::path root_;
  ModelPlaces places_;
  ErrorKind kind_ = ErrorKind::kInternal;
};

TEST_F(ModelStore, ListsCacheAndFolders) {
  snapshot("models--org--one", kFirst);
  snapshot("models--org--one", kSecond);
  ref("models--org--one", "main", kSecond + "\n");
  snapshot("models--gpt", kFirst);  // no refs: the only snapshot is the default one
  fs::create_directories(root_ / "hub/models--org--cut/blobs");
  fs::create_directories(root_ / "hub/datasets--org--data/snapshots/x");
  write(root_ / "dir/mine/config.json", "{}");
  write(root_ / "dir/org/deep/config.json", "{}");
  write(root_ / "dir/.hidden/config.json", "{}");
  write(root_ / "dir/notes/readme.md", "");
  EXPECT_THAT(names(),
              ElementsAre("gpt", "mine", "org/cut", "org/deep", "org/one", "org/one@11111111"));
  EXPECT_THAT(error_of("org/cut"), AllOf(HasSubstr("org/cut"), HasSubstr("interrupted")));
  EXPECT_EQ(kind_, ErrorKind::kModel);
}

TEST_F(ModelStore, ResolvesNames) {
  const fs::path one = snapshot("models--org--one", kFirst);
  const fs::path two = snapshot("models--org--one", kSecond);
  ref("models--org--one", "main", kSecond);
  ref("models--org--one", "v1.0", kFirst);
  ref("models--org--one", "refs/pr/1", kFirst);
  write(root_ / "dir/mine/config.json", "{}");
  EXPECT_EQ(resolve_model("org/one", places_), two);
  EXPECT_EQ(resolve_model("one", places_), two);
  EXPECT_EQ(resolve_model("org/one@main", places_), two);
  EXPECT_EQ(resolve_model("org/one@v1.0", places_), one);
  EXPECT_EQ(resolve_model("one@v1.0", places_), one);
  EXPECT_EQ(resolve_model("org/one@refs/pr/1", places_), one);
  EXPECT_EQ(resolve_model("org/one@" + kFirst, places_), one);
  EXPECT_EQ(resolve_model("org/one@11111", places_), one);
  EXPECT_EQ(resolve_model("mine", places_), root_ / "dir/mine");
  EXPECT_EQ(resolve_model(one.string(), places_), one);
  EXPECT_EQ(resolve_model((root_ / "hub/models--org--one").string(), places_), two);
  EXPECT_THAT(error_of("org/one@1111"), AllOf(HasSubstr("one commit"), HasSubstr(kFirst)));
  EXPECT_THAT(error_of("org/one@nope"), HasSubstr("\"nope\""));
  EXPECT_THAT(error_of("org/one@../../refs/main"), HasSubstr("got \"../../refs/main\""));
  EXPECT_THAT(error_of("org/one@"), HasSubstr("got nothing"));
  EXPECT_EQ(kind_, ErrorKind::kUsage);
  // What the user pointed at comes before the cache.
  write(root_ / "dir/org/one/config.json", "{}");
  EXPECT_EQ(resolve_model("org/one", places_), root_ / "dir/org/one");
  EXPECT_EQ(resolve_model("org/one@v1.0", places_), one);
}

TEST_F(ModelStore, MissesNameTheNearest) {
  snapshot("models--mlx-community--Qwen3-0.6B-4bit", kFirst);
  snapshot("models--other--Llama-3.2-1B", kFirst);
  EXPECT_THAT(error_of("mlx-community/Qwen3-0.6b-8bit"),
              AllOf(HasSubstr("nearest names: mlx-community/Qwen3-0.6B-4bit\n"),
                    HasSubstr((root_ / "hub").string()), HasSubstr((root_ / "dir").string())));
  EXPECT_EQ(kind_, ErrorKind::kModel);
  EXPECT_THAT(error_of("lama-3.2-1B"), HasSubstr("nearest names: other/Llama-3.2-1B\n"));
  EXPECT_THAT(error_of("./Qwen3-0.6B-4bi"), HasSubstr("mlx-community/Qwen3-0.6B-4bit"));
  EXPECT_THAT(error_of("zzzzzzzzzzzz"), HasSubstr("nearest names: none"));
  EXPECT_THAT(error_of(std::string(5000, 'x')), HasSubstr("5000 bytes"));
  EXPECT_THAT(error_of(std::string("a\0b", 3)), HasSubstr("a\\x00b"));
  EXPECT_THAT(error_of(""), HasSubstr("got \"\""));
  write(root_ / "file", "x");
  EXPECT_THAT(error_of((root_ / "file").string()), HasSubstr("got a file"));
}

TEST_F(ModelStore, RefusesWhatIsNotOne) {
  snapshot("models--a--same", kFirst);
  snapshot("models--b--same", kFirst);
  EXPECT_THAT(error_of("same"), AllOf(HasSubstr("a/same, b/same"), HasSubstr("one model")));
  EXPECT_EQ(resolve_model("a/same", places_).parent_path().parent_path().filename(),
            "models--a--same");
  // Two snapshots and no refs/main: none is the default.
  snapshot("models--c--two", kFirst);
  snapshot("models--c--two", kSecond);
  EXPECT_THAT(error_of("c/two"), AllOf(HasSubstr("revision"), HasSubstr("c/two@11112222")));
  EXPECT_EQ(resolve_model("two@11112", places_).filename(), kSecond);
  // A ref to a commit that is not here, one that is no commit, and one that is a huge file.
  ref("models--c--two", "gone", "3333333333");
  EXPECT_THAT(error_of("c/two@gone"), AllOf(HasSubstr("3333333333"), HasSubstr("none on disk")));
  ref("models--c--two", "evil", "../../../../etc");
  EXPECT_THAT(error_of("c/two@evil"), HasSubstr("got \"evil\""));
  ref("models--c--two", "huge", std::string(1 << 20, 'x'));
  EXPECT_THAT(error_of("c/two@huge"), HasSubstr("got \"huge\""));
}

TEST_F(ModelStore, OddNamesHurtNothing) {
  fs::create_directories(root_ / "hub/models--");
  fs::create_directories(root_ / "hub/models--a--b--c/snapshots");
  write(root_ / "dir/odd@/config.json", "{}");
  write(root_ / "dir/od@d/config.json", "{}");
  EXPECT_THAT(names(), ElementsAre("a/b/c", "od@d", "odd@"));
  EXPECT_THAT(error_of("elsewhere"), HasSubstr("got neither"));
}

TEST_F(ModelStore, LinksStayInside) {
  const fs::path cached = snapshot("models--org--one", kFirst);
  EXPECT_NO_THROW(check_links(cached));
  const fs::path mine = root_ / "dir/mine";
  write(mine / "config.json", "{}");
  write(mine / "real.safetensors", "x");
  fs::create_symlink("real.safetensors", mine / "model.safetensors");
  fs::create_symlink("absent", mine / "dangling.json");
  fs::create_directories(root_ / "elsewhere");
  fs::create_symlink(root_ / "elsewhere", mine / "folder");
  EXPECT_NO_THROW(check_links(mine));
  fs::create_symlink(mine, root_ / "linked");  // the folder itself may be reached by a link
  EXPECT_NO_THROW(check_links(root_ / "linked"));

  write(root_ / "secret", "x");
  write(root_ / "hub/models--org--other/blobs/b", "x");
  for (const fs::path& folder : {cached, mine}) {
    fs::create_symlink(root_ / "secret", folder / "tokenizer.json");
    fs::create_symlink(root_ / "hub/models--org--other/blobs/b", folder / "merges.txt");
    try {
      check_links(folder);
      ADD_FAILURE() << folder;
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("tokenizer.json"), HasSubstr("merges.txt"),
                                      HasSubstr((root_ / "secret").string()),
                                      HasSubstr("--allow-links"), Not(HasSubstr("config.json"))));
    }
  }
}

TEST_F(ModelStore, FindsTheCacheAsItsToolsDo) {
  const char* names[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME",
                         "HOME",         "DECANT_MODELS_DIR"};
  std::vector<std::pair<const char*, std::string>> before;
  for (const char* name : names) {
    const char* value = std::getenv(name);
    before.emplace_back(name, value == nullptr ? "" : value);
    unsetenv(name);
  }
  EXPECT_EQ(ModelPlaces::find().hf_cache, fs::path());
  setenv("HOME", "/home/x", 1);
  EXPECT_EQ(ModelPlaces::find().hf_cache, "/home/x/.cache/huggingface/hub");
  setenv("XDG_CACHE_HOME", "/cache", 1);
  EXPECT_EQ(ModelPlaces::find().hf_cache, "/cache/huggingface/hub");
  setenv("HF_HOME", "~/hf", 1);
  EXPECT_EQ(ModelPlaces::find().hf_cache, "/home/x/hf/hub");
  setenv("HUGGINGFACE_HUB_CACHE", "/old", 1);
  EXPECT_EQ(ModelPlaces::find().hf_cache, "/old");
  setenv("HF_HUB_CACHE", "/new", 1);
  EXPECT_EQ(ModelPlaces::find().hf_cache, "/new");
  setenv("DECANT_MODELS_DIR", "/a::~/b", 1);
  EXPECT_THAT(ModelPlaces::find().models_dirs, ElementsAre("/a", "/home/x/b"));
  EXPECT_THAT(ModelPlaces::find("/c").models_dirs, ElementsAre("/c"));
  for (const auto& [name, value] : before)
    value.empty() ? unsetenv(name) : setenv(name, value.c_str(), 1);
}

}  // namespace
}  // namespace decant
