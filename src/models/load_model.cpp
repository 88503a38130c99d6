#include "models/load_model.h"

#include <stdlib.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <system_error>
#include <unordered_set>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/dummy_weights.h"
#include "layers/config.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxConfigBytes = 8u << 20;

Json read_config(const fs::path& path) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (error)
    throw ConfigError("[config] {}: expected a file, got: {}", path.string(), error.message());
  if (size > kMaxConfigBytes)
    throw ConfigError("[config] {}: expected at most {} bytes, got {}", path.string(),
                      kMaxConfigBytes, size);
  return read_json_file(path);
}

// Parameters by which families see that a checkpoint has a tower. None for the pictures of gemma3n:
// the shapes of its MobileNet stand in a checkpoint only.
constexpr const char* kTowerProbes[] = {
    "model.vision_tower.patch_embedder.input_proj.weight",
    "model.vision_embedder.patch_dense.weight",
    "model.embed_vision.embedding_projection.weight",
    "model.visual.patch_embed.proj.weight",
    "model.audio_tower.subsample_conv_projection.input_proj_linear.weight",
    "model.embed_audio.embedding_projection.weight",
    "model.embed_audio.embedding.weight",
};

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::error_code error;
    std::string name = (fs::temp_directory_path(error) / "decant-dummy-XXXXXX").string();
    if (error || mkdtemp(name.data()) == nullptr)
      throw RuntimeError("[dummy] cannot make a temporary folder {}", name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

LoadedModel load_model(const fs::path& folder, const LoadModelOptions& options) {
  LoadedModel out;
  out.checkpoint = Checkpoint::open(folder);
  const Json& config = out.checkpoint->config();
  const Family& family = family_of(config, out.checkpoint->config_path());
  WeightLoad load(out.checkpoint, family.renames, options.draft);
  out.model = family.build(config, out.checkpoint->config_path(), load.root());
  out.weights = load.finish(options.contents);
  out.spec = out.model->spec();

  const fs::path generation = folder / "generation_config.json";
  std::error_code error;
  if (fs::exists(generation, error)) {
    const Json json = read_config(generation);
    const ConfigReader reader(json, generation.string());
    if (reader.has("eos_token_id")) {
      auto& ids = out.spec.eos_token_ids;
      if (!family.eos_of_both) ids.clear();
      for (const int32_t id : layers::read_eos(reader))
        if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
  }
  return out;
}

LoadedModel load_dummy(const fs::path& config_path, const DummyOptions& options) {
  std::error_code error;
  const bool is_folder = fs::is_directory(config_path, error);
  const fs::path path = is_folder ? config_path / "config.json" : config_path;
  const Json config = read_config(path);
  const Family& family = family_of(config, path.string());
  std::unordered_set<std::string> present;
  if (options.towers) present = {std::begin(kTowerProbes), std::end(kTowerProbes)};
  const auto source = std::make_shared<DummySource>(options.format, std::move(present));
  WeightLoad recording(source, family.renames);
  family.build(config, path.string(), recording.root());
  recording.finish();

  // A mapping outlives the name of its file.
  std::optional<TemporaryFolder> temporary;
  if (options.folder.empty()) temporary.emplace();
  const fs::path& folder = temporary ? temporary->path() : options.folder;
  write_dummy_checkpoint(source->requests(), config, options.format, options.seed, folder,
                         options.data_offset_mod64);
  return load_model(folder);
}

}  // namespace decant
