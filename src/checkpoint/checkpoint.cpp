#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <system_error>

#include "base/errors.h"
#include "base/json.h"
#include "base/log.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/shards.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void report_absent(const fs::path& folder, const std::vector<std::string>& absent,
                                size_t expected) {
  Problems problems;
  for (const std::string& name : absent) problems.add(quote(name, 200));
  throw WeightError(
      "{}", problems.text(fmt::format(
                "[checkpoint] {}: expected {} shards, {} of them absent (an interrupted download "
                "is resumed by 'decant pull'):",
                folder.string(), expected, absent.size())));
}

}  // namespace

Checkpoint::Checkpoint() = default;
Checkpoint::~Checkpoint() = default;

const Json& Checkpoint::config() const { return *config_; }

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error))
    throw ConfigError("[checkpoint] {}: expected a model folder, got nothing there",
                      folder.string());
  if (!fs::is_directory(folder, error))
    throw ConfigError("[checkpoint] {}: expected a model folder, got a file", folder.string());
  std::shared_ptr<Checkpoint> out(new Checkpoint);
  out->folder_ = folder;
  out->read_config();
  out->open_shards();
  return out;
}

void Checkpoint::read_config() {
  const fs::path path = folder_ / "config.json";
  std::error_code error;
  if (!fs::exists(path, error))
    throw ConfigError("[checkpoint] {}: expected a config.json, got none", folder_.string());
  config_ = std::make_unique<Json>(read_json_limited(path, kMaxConfigBytes));
  quantization_ = QuantizationConfig::read(folder_, *config_);
}

void Checkpoint::open_shards() {
  const ShardList shards = list_shards(folder_);
  if (shards.expected() == 0)
    throw WeightError("[checkpoint] {}: {}", folder_.string(),
                      no_weights_reason(folder_, shards.others));
  if (!shards.absent.empty()) report_absent(folder_, shards.absent, shards.expected());
  if (shards.stale)
    log_warning("[checkpoint] {}: the index names other files; using {}", shards.index_path,
                shards.files.size() == 1 ? shards.files.front().filename().string()
                                         : fmt::format("{} files", shards.files.size()));
  open_files(shards.files);
  if (shards.index != nullptr) check_index(*shards.index, shards.index_path);
}

void Checkpoint::check_index(const Json& index, const std::string& where) const {
  const ConfigReader map = ConfigReader(index, where).object("weight_map");
  // Where a tensor lies is what the files say; the index must only not promise more.
  Problems missing;
  size_t moved = 0;
  for (const auto& [tensor, value] : map.json().items()) {
    const Location* found = locate(tensor);
    const auto& shard = value.get_ref<const std::string&>();
    if (found == nullptr) {
      missing.add(fmt::format("{}: expected in {}, got no such tensor in any shard", quote(tensor),
                              quote(shard)));
    } else if (files_[found->file]->path().filename() != shard) {
      ++moved;
    }
  }
  if (!missing.empty())
    throw WeightError(
        "{}", missing.text(fmt::format("[checkpoint] {}: {} tensor{} of the index "
                                       "missing:",
                                       where, missing.count(), missing.count() == 1 ? "" : "s")));
  const size_t extra = tensors_.size() - map.json().size();
  if (moved != 0 || extra != 0)
    log_warning(
        "[checkpoint] {}: the index is stale: {} tensors lie in another shard than it says,"
        " {} are not in it; using what the files have",
        where, moved, extra);
}

void Checkpoint::open_files(std::span<const fs::path> paths) {
  for (const fs::path& path : paths) {
    files_.push_back(SafetensorsFile::open(path));
    for (const TensorInfo& tensor : files_.back()->tensors()) {
      if (const auto other = by_name_.insert(tensor.name, narrow<uint32_t>(tensors_.size())))
        throw WeightError("[checkpoint] {}: {}: expected in one shard, got it in {} and {}",
                          folder_.string(), quote(tensor.name),
                          files_[tensors_[*other].file]->path().filename().string(),
                          path.filename().string());
      tensors_.push_back({&tensor, narrow<uint32_t>(files_.size() - 1)});
    }
  }
}

const Checkpoint::Location* Checkpoint::locate(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found ? &tensors_[*found] : nullptr;
}

TensorRef Checkpoint::find(std::string_view name) const {
  const Location* found = locate(name);
  if (found == nullptr) return {};
  return {found->info, files_[found->file]};
}

std::vector<std::string_view> Checkpoint::names() const {
  std::vector<std::string_view> out;
  out.reserve(tensors_.size());
  for (const Location& location : tensors_) out.push_back(location.info->name);
  std::sort(out.begin(), out.end());
  return out;
}

uint64_t Checkpoint::bytes() const {
  uint64_t total = 0;
  for (const Location& location : tensors_) total += location.info->bytes.size();
  return total;
}

}  // namespace decant
