#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace decant {

using Json = nlohmann::ordered_json;

/// The safetensors files of a model folder, found by names and the index alone.
struct ShardList {
  std::vector<std::filesystem::path> files;  // those that are there, by name
  std::vector<std::string> absent;           // names of those that are not
  std::vector<std::string> others;           // if there are neither: what else the folder has
  std::shared_ptr<const Json> index;         // model.safetensors.index.json, or null
  std::string index_path;
  bool stale = false;  // the index names other files than these, which are whole without it

  size_t expected() const { return files.size() + absent.size(); }
};

/// Takes the shards of model.safetensors.index.json, or every model*.safetensors; an index all of
/// whose files are absent while others are there is stale. Errors: ConfigError for a folder that
/// cannot be listed or a bad index (its files must lie in the folder).
ShardList list_shards(const std::filesystem::path& folder);

/// Reads the JSON of a model's own file. Errors: ConfigError past `limit` bytes, or naming the
/// line.
Json read_json_limited(const std::filesystem::path& path, uint64_t limit);
inline constexpr uint64_t kMaxConfigBytes = 8u << 20;

/// Why a folder without safetensors has none that decant reads, and what to do: a whole sentence
/// from "expected" on. `names` are its files.
std::string no_weights_reason(const std::filesystem::path& folder,
                              const std::vector<std::string>& names);

}  // namespace decant
