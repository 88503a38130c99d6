#include "checkpoint/survey.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/quantization.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/shards.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxFiles = 10'000;
constexpr int kMaxDepth = 4;

// Links count as what they lead to: a cached snapshot is all links.
uint64_t bytes_of(const fs::path& folder) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  uint64_t bytes = 0;
  size_t count = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator
           it(folder, fs::directory_options::skip_permission_denied, error),
       end;
       !error && it != end; it.increment(error)) {
    if (++count > kMaxFiles) break;
    if (it.depth() >= kMaxDepth) it.disable_recursion_pending();
    struct stat file{};
    if (::stat(it->path().c_str(), &file) != 0 || !S_ISREG(file.st_mode)) continue;
    if (seen.emplace(file.st_dev, file.st_ino).second) bytes += static_cast<uint64_t>(file.st_size);
  }
  return bytes;
}

std::string format_of(const TensorInfo& tensor, const QuantizationConfig& quantization) {
  if (is_dense_float(tensor.dtype)) return Format::dense(tensor.dtype).name();
  constexpr std::string_view kWeight = ".weight";
  std::string path = tensor.name;
  if (path.ends_with(kWeight)) path.resize(path.size() - kWeight.size());
  if (quantization.present() && tensor.dtype == DType::kU32) {
    const QuantizationEntry* entry = quantization.find({&path, 1});
    if (entry != nullptr && entry->format) return entry->format->name();
    if (quantization.top()) return quantization.top()->name();
  }
  return std::string(name_of(tensor.dtype));
}

std::string main_format(const std::vector<fs::path>& files,
                        const QuantizationConfig& quantization) {
  std::map<std::string, uint64_t> bytes;
  for (const fs::path& path : files) {
    const auto file = SafetensorsFile::open(path);
    for (const TensorInfo& tensor : file->tensors()) {
      const bool plane = tensor.name.ends_with(".scales") || tensor.name.ends_with(".biases");
      if (plane && quantization.present()) continue;  // they belong to the format of their weight
      bytes[format_of(tensor, quantization)] += tensor.bytes.size();
    }
  }
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == bytes.end() ? "" : most->first;
}

void look(const fs::path& folder, FolderSurvey& out) {
  const fs::path path = folder / "config.json";
  const Json config = read_json_limited(path, kMaxConfigBytes);
  if (config.is_object() && config.contains("model_type") && config["model_type"].is_string())
    out.model_type = config["model_type"].get<std::string>();
  const ShardList shards = list_shards(folder);
  out.missing = shards.absent;
  if (!shards.absent.empty()) out.state = FolderSurvey::State::kMissingShards;
  if (shards.expected() == 0) {
    out.state = FolderSurvey::State::kNoWeights;
    out.problem = no_weights_reason(folder, shards.others);
    return;
  }
  const QuantizationConfig quantization = QuantizationConfig::read(folder, config);
  out.format = quantization.foreign() != nullptr ? quantization.foreign()->name
                                                 : main_format(shards.files, quantization);
}

}  // namespace

std::string_view name_of(FolderSurvey::State state) {
  switch (state) {
    case FolderSurvey::State::kComplete:
      return "complete";
    case FolderSurvey::State::kMissingShards:
      return "missing shards";
    case FolderSurvey::State::kNoWeights:
      return "no weights";
    case FolderSurvey::State::kBroken:
      break;
  }
  return "broken";
}

FolderSurvey survey_folder(const fs::path& folder) {
  FolderSurvey out;
  out.bytes = bytes_of(folder);
  try {
    look(folder, out);
  } catch (const Error& error) {
    out.state = FolderSurvey::State::kBroken;
    out.problem = error.what();
  }
  return out;
}

}  // namespace decant
