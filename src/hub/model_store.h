#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace decant {

/// Where models lie on this machine.
struct ModelPlaces {
  std::filesystem::path hf_cache;                  // holds models--ORG--NAME folders; empty: none
  std::vector<std::filesystem::path> models_dirs;  // hold NAME or ORG/NAME folders
  /// The Hugging Face cache as its own tools find it (HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE,
  /// HF_HOME/hub, XDG_CACHE_HOME or ~/.cache, then huggingface/hub), and the folders of `dirs`, a
  /// list with ':' between them; an empty one means DECANT_MODELS_DIR.
  static ModelPlaces find(const std::string& dirs = {});
  std::string text() const;
};

/// A model of one of the places.
struct StoredModel {
  std::string name;              // "org/name", "name", or with "@" and the start of a commit
  std::filesystem::path folder;  // empty if nothing can be opened
  std::string revision;          // commit of a snapshot
  std::string problem;           // why there is no folder
};

/// Everything the places hold, by name: folders of models_dirs with a config.json (one or two
/// levels down), and every snapshot of the cache, the default one (refs/main, or the only one)
/// without "@". Looks at names of folders only; at most 10,000 entries of a folder are read.
std::vector<StoredModel> stored_models(const ModelPlaces& places);

/// The folder that MODEL means: an existing path; else a name of the places, `@` and a branch, tag
/// or the start of a commit allowed; else the last part of exactly one name. Errors: UsageError
/// for a malformed name; ConfigError for a miss (with the nearest names and where was looked), a
/// name that fits several models, or a cache entry that is not whole.
std::filesystem::path resolve_model(std::string_view model, const ModelPlaces& places);

/// Refuses a folder whose files are links to somewhere outside of the model: a snapshot of the
/// cache may link anywhere below its models--ORG--NAME folder, any other folder only to itself.
/// Errors: ConfigError naming every such file.
void check_links(const std::filesystem::path& folder);

}  // namespace decant
