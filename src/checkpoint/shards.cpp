#include "checkpoint/shards.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <system_error>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/config_reader.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxIndexBytes = 64u << 20;
constexpr std::string_view kIndexName = "model.safetensors.index.json";

bool is_shard_name(std::string_view name) {
  return name.starts_with("model") && name.ends_with(".safetensors");
}

std::vector<std::string> file_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (error)
    throw ConfigError("[checkpoint] {}: cannot list the folder: {}", folder.string(),
                      error.message());
  std::sort(names.begin(), names.end());
  return names;
}

// "model-00002-of-00003.safetensors" without its index: the shards that are not there.
std::vector<std::string> absent_siblings(const std::vector<std::string>& shards) {
  std::vector<std::string> absent;
  const std::string& first = shards.front();
  const size_t of = first.find("-of-");
  if (!first.starts_with("model-") || of == std::string::npos) return absent;
  const size_t width = of - 6;
  const std::string tail = first.substr(of);
  unsigned count = 0;
  const auto parsed = std::from_chars(tail.data() + 4, tail.data() + tail.size(), count);
  if (parsed.ec != std::errc() || std::string_view(parsed.ptr) != ".safetensors" || width < 1 ||
      width > 6 || count > 99999)
    return absent;
  for (unsigned i = 1; i <= count; ++i) {
    const std::string name = fmt::format("model-{:0{}}{}", i, width, tail);
    if (!std::binary_search(shards.begin(), shards.end(), name)) absent.push_back(name);
  }
  return absent;
}

std::set<std::string> files_of_index(const Json& index, const std::string& where) {
  const ConfigReader map = ConfigReader(index, where).object("weight_map");
  std::set<std::string> out;
  for (const auto& [tensor, value] : map.json().items()) {
    if (!value.is_string()) map.fail(quote(tensor), "the name of a shard");
    const auto& shard = value.get_ref<const std::string&>();
    if (shard.empty() || shard.find_first_of("/\\") != std::string::npos || shard.front() == '.' ||
        shard.find('\0') != std::string::npos)
      map.fail(quote(tensor), "the name of a file in this folder");
    out.insert(shard);
  }
  if (out.empty()) map.fail("(all)", "at least one tensor", "none");
  return out;
}

}  // namespace

Json read_json_limited(const fs::path& path, uint64_t limit) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (!error && size > limit)
    throw ConfigError("[json] {}: expected at most {} bytes, got {}", path.string(), limit, size);
  return read_json_file(path);
}

ShardList list_shards(const fs::path& folder) {
  ShardList out;
  const std::vector<std::string> names = file_names(folder);
  std::vector<std::string> present;
  std::copy_if(names.begin(), names.end(), std::back_inserter(present), is_shard_name);
  const fs::path index = folder / kIndexName;
  std::error_code error;
  if (!fs::exists(index, error)) {
    if (present.empty()) {
      out.others = names;
      return out;
    }
    out.absent = absent_siblings(present);
    // A link whose blob was never loaded has a name but no file.
    for (const std::string& name : present) {
      if (fs::exists(folder / name, error))
        out.files.push_back(folder / name);
      else
        out.absent.push_back(name);
    }
    std::sort(out.absent.begin(), out.absent.end());
    return out;
  }
  out.index_path = index.string();
  out.index = std::make_shared<const Json>(read_json_limited(index, kMaxIndexBytes));
  for (const std::string& name : files_of_index(*out.index, out.index_path)) {
    if (fs::exists(folder / name, error))
      out.files.push_back(folder / name);
    else
      out.absent.push_back(name);
  }
  // An index of other files than the ones that are here (a model saved over an older one) is
  // stale; one of which some shards are here belongs to an incomplete download.
  std::erase_if(present,
                [&](const std::string& name) { return !fs::exists(folder / name, error); });
  if (out.absent.empty() || !out.files.empty() || present.empty() ||
      !absent_siblings(present).empty())
    return out;
  out.stale = true;
  out.absent.clear();
  for (const std::string& name : present) out.files.push_back(folder / name);
  return out;
}

std::string no_weights_reason(const fs::path& folder, const std::vector<std::string>& names) {
  std::string got = "none";
  for (const std::string& name : names) {
    for (const char* suffix : {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
      if (name.ends_with(suffix))
        return fmt::format(
            "expected safetensors, the only weights decant reads; got only pickled weights ({}), "
            "which can run code when read: convert them to safetensors first, where you trust "
            "them: python3 -c 'from transformers import AutoModelForCausalLM as M; "
            "M.from_pretrained(\"{}\").save_pretrained(\"NEW-FOLDER\")', and copy the tokenizer's "
            "files",
            quote(name), folder.string());
    if (name.ends_with(".gguf") || name.ends_with(".npz") || name.ends_with(".safetensors"))
      got = quote(name);
  }
  return "expected model*.safetensors, got " + got;
}

}  // namespace decant
