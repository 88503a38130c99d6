#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace decant {

using Json = nlohmann::ordered_json;

/// A model folder: config.json and the tensors of its safetensors shards, all validated and cross
/// checked against the index before any of them is read.
class Checkpoint : public TensorSource {
 public:
  /// Takes the shards of model.safetensors.index.json, or every model*.safetensors. A stale index
  /// whose tensors all exist elsewhere is followed by a warning.
  /// Errors: ConfigError for a missing folder or a bad config.json; WeightError for absent shards,
  /// broken files, an index that names tensors no shard has, or a folder without safetensors.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& folder);
  ~Checkpoint() override;

  const Json& config() const;
  /// Path of config.json, for errors about it.
  std::string config_path() const { return (folder_ / "config.json").string(); }
  const std::filesystem::path& folder() const { return folder_; }
  std::span<const std::shared_ptr<const SafetensorsFile>> files() const { return files_; }
  /// Bytes of all tensors.
  uint64_t bytes() const;

  TensorRef find(std::string_view name) const override;
  std::vector<std::string_view> names() const override;
  const QuantizationConfig& quantization() const override { return quantization_; }
  std::string description() const override { return folder_.string(); }

 private:
  Checkpoint();
  void read_config();
  void open_shards();
  void check_index(const Json& index, const std::string& where) const;
  void open_files(std::span<const std::filesystem::path> paths);

  struct Location {
    const TensorInfo* info;
    uint32_t file;
  };
  const Location* locate(std::string_view name) const;

  std::filesystem::path folder_;
  std::unique_ptr<Json> config_;
  QuantizationConfig quantization_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::vector<Location> tensors_;
  NameTable by_name_;  // indices into tensors_
};

}  // namespace decant
