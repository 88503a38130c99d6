#include "hub/model_store.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <system_error>

#include "base/errors.h"
#include "base/file.h"
#include "base/nearest.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxEntries = 10'000;  // of one folder
constexpr size_t kMaxNameBytes = 256;
constexpr uint64_t kMaxRefBytes = 4096;
constexpr size_t kShortCommit = 8;     // digits of a commit in a name
constexpr size_t kShortestPrefix = 4;  // of a commit a user may type
constexpr std::string_view kFolderPrefix = "models--";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path expand_home(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const std::string home = variable("HOME");
  return home.empty() ? fs::path(path)
                      : fs::path(home) / path.substr(std::min<size_t>(2, path.size()));
}

fs::path hugging_face_cache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (const std::string value = variable(name); !value.empty()) return expand_home(value);
  if (const std::string home = variable("HF_HOME"); !home.empty()) return expand_home(home) / "hub";
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty())
    return expand_home(cache) / "huggingface/hub";
  if (const std::string home = variable("HOME"); !home.empty())
    return fs::path(home) / ".cache/huggingface/hub";
  return {};
}

/// Names of the folders in a folder, sorted; links to folders count. Nothing if it cannot be read.
std::vector<std::string> folders_in(const fs::path& folder) {
  std::vector<std::string> out;
  std::error_code error;
  size_t seen = 0;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (++seen > kMaxEntries) break;
    std::error_code ignored;
    if (it->is_directory(ignored)) out.push_back(it->path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

bool is_model_folder(const fs::path& folder) {
  std::error_code error;
  return fs::is_regular_file(folder / "config.json", error);
}

/// A plain component of a path: nothing that could lead elsewhere.
bool is_plain(std::string_view part) {
  return !part.empty() && part != "." && part != ".." && part.size() <= kMaxNameBytes &&
         part.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

/// The commit a ref of a cached model names, or "" when there is none such.
std::string read_ref(const fs::path& repository, std::string_view name) {
  fs::path path = repository / "refs";
  for (size_t at = 0; at <= name.size();) {
    const size_t slash = std::min(name.find('/', at), name.size());
    if (!is_plain(name.substr(at, slash - at))) return {};
    path /= name.substr(at, slash - at);
    at = slash + 1;
  }
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  try {
    std::string commit = read_text_file(path, kMaxRefBytes);
    while (!commit.empty() &&
           (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' '))
      commit.pop_back();
    return is_plain(commit) ? commit : std::string();
  } catch (const RuntimeError&) {
    return {};
  }
}

std::string name_of_repository(std::string_view folder) {
  std::string name(folder.substr(kFolderPrefix.size()));
  // The tools write "--" for every "/", and a name cannot hold "--" itself.
  for (size_t at = name.find("--"); at != std::string::npos; at = name.find("--", at + 1))
    name.replace(at, 2, "/");
  return name;
}

constexpr std::string_view kIncomplete =
    "no snapshot: the download was interrupted (the command that began it resumes it)";

void add_repository(const fs::path& cache, const std::string& folder,
                    std::vector<StoredModel>& out) {
  const fs::path repository = cache / folder;
  const std::string name = name_of_repository(folder);
  const std::vector<std::string> snapshots = folders_in(repository / "snapshots");
  std::string main = read_ref(repository, "main");
  if (main.empty() && snapshots.size() == 1) main = snapshots.front();
  const bool has_main = std::binary_search(snapshots.begin(), snapshots.end(), main);
  if (!has_main && (snapshots.empty() || !main.empty()))
    out.push_back({name, {}, main, std::string(kIncomplete)});
  for (const std::string& commit : snapshots)
    out.push_back({commit == main ? name : name + "@" + commit.substr(0, kShortCommit),
                   repository / "snapshots" / commit,
                   commit,
                   {}});
}

std::vector<StoredModel> models_of_dir(const fs::path& dir) {
  std::vector<StoredModel> out;
  for (const std::string& first : folders_in(dir)) {
    if (first.starts_with('.')) continue;
    if (is_model_folder(dir / first)) {
      out.push_back({first, dir / first, {}, {}});
      continue;
    }
    for (const std::string& second : folders_in(dir / first))
      if (!second.starts_with('.') && is_model_folder(dir / first / second))
        out.push_back({first + "/" + second, dir / first / second, {}, {}});
  }
  return out;
}

std::string last_part(std::string_view name) {
  while (name.ends_with('/')) name.remove_suffix(1);
  const size_t slash = name.rfind('/');
  return std::string(slash == std::string_view::npos ? name : name.substr(slash + 1));
}

/// "org/name@rev" in its pieces; a '@' in a path is none.
struct Wanted {
  std::string name;
  std::string revision;
};
Wanted split(std::string_view model) {
  const size_t at = model.rfind('@');
  if (at == std::string_view::npos || at == 0) return {std::string(model), {}};
  const std::string_view revision = model.substr(at + 1);
  if (revision.empty())
    throw UsageError("[model] {}: expected a branch, tag or commit after '@', got nothing",
                     quote(model));
  return {std::string(model.substr(0, at)), std::string(revision)};
}

/// The name without the commit that tells snapshots apart.
std::string base_of(const StoredModel& stored) {
  if (stored.revision.empty()) return stored.name;
  return stored.name.substr(0, stored.name.find('@'));
}

bool is_default(const StoredModel& stored) { return stored.name == base_of(stored); }

std::string list_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

/// The snapshot of `model` that `revision` means.
fs::path snapshot_of(const StoredModel& model, const std::string& revision) {
  const fs::path repository = model.folder.parent_path().parent_path();
  const std::vector<std::string> snapshots = folders_in(repository / "snapshots");
  if (const std::string commit = read_ref(repository, revision); !commit.empty()) {
    if (!std::binary_search(snapshots.begin(), snapshots.end(), commit))
      throw ConfigError(
          "[model] {}@{}: expected the snapshot {}, got none on disk (an interrupted "
          "download is resumed by the command that began it)",
          model.name, revision, commit);
    return repository / "snapshots" / commit;
  }
  std::vector<std::string> found;
  if (revision.size() >= kShortestPrefix)
    for (const std::string& commit : snapshots)
      if (commit.starts_with(revision)) found.push_back(commit);
  if (found.size() == 1) return repository / "snapshots" / found.front();
  throw ConfigError(
      "[model] {}: expected a branch, tag or the start of one commit of {}, got {} "
      "(commits on disk: {})",
      model.name, quote(model.name), quote(revision), list_of(snapshots));
}

[[noreturn]] void report_miss(std::string_view model, const Wanted& wanted,
                              const std::vector<StoredModel>& all, const ModelPlaces& places) {
  // A typo is nearer in the last part; whoever types the whole name means the whole.
  std::map<std::string, std::vector<std::string>> by_last;
  std::vector<std::string> names;
  std::vector<std::string> parts;
  for (const StoredModel& stored : all) {
    if (!is_default(stored)) continue;
    names.push_back(stored.name);
    parts.push_back(last_part(stored.name));
    by_last[parts.back()].push_back(stored.name);
  }
  std::vector<std::string> near = nearest(wanted.name, names);
  for (const std::string& part : nearest(last_part(wanted.name), parts))
    for (const std::string& name : by_last[part])
      if (near.size() < 5 && std::find(near.begin(), near.end(), name) == near.end())
        near.push_back(name);
  throw ConfigError(
      "[model] {}: expected a model folder or the name of a model here, got neither\n  nearest "
      "names: {}\n  looked in: {}",
      quote(model, 200), near.empty() ? "none" : list_of(near), places.text());
}

/// Whether `path` lies in `folder`, both canonical.
bool inside(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

}  // namespace

ModelPlaces ModelPlaces::find(const std::string& dirs) {
  ModelPlaces out;
  out.hf_cache = hugging_face_cache();
  const std::string list = dirs.empty() ? variable("DECANT_MODELS_DIR") : dirs;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(':', at), list.size());
    if (end > at) out.models_dirs.push_back(expand_home(list.substr(at, end - at)));
    at = end + 1;
  }
  return out;
}

std::string ModelPlaces::text() const {
  std::string out = "the file system";
  for (const fs::path& dir : models_dirs) out += ", " + dir.string();
  if (!hf_cache.empty()) out += ", " + hf_cache.string();
  if (models_dirs.empty()) out += " (--models-dir or DECANT_MODELS_DIR adds folders)";
  return out;
}

std::vector<StoredModel> stored_models(const ModelPlaces& places) {
  std::vector<StoredModel> out;
  for (const fs::path& dir : places.models_dirs)
    for (StoredModel& model : models_of_dir(dir)) out.push_back(std::move(model));
  if (!places.hf_cache.empty())
    for (const std::string& folder : folders_in(places.hf_cache))
      if (folder.starts_with(kFolderPrefix) && folder.size() > kFolderPrefix.size())
        add_repository(places.hf_cache, folder, out);
  // The first of a name counts: what the user pointed at comes before the cache.
  std::stable_sort(out.begin(), out.end(),
                   [](const StoredModel& a, const StoredModel& b) { return a.name < b.name; });
  return out;
}

fs::path resolve_model(std::string_view model, const ModelPlaces& places) {
  if (model.empty()) throw UsageError("[model] expected a model folder or name, got \"\"");
  if (model.size() > 4096 || model.find('\0') != std::string_view::npos)
    throw UsageError("[model] {}: expected a path or ORG/NAME, got {} bytes", quote(model),
                     model.size());
  fs::path path(model);
  std::error_code error;
  if (fs::exists(path, error)) {
    if (!fs::is_directory(path, error))
      throw ConfigError("[model] {}: expected a model folder, got a file", quote(model, 200));
    // The folder of a cached model stands for its default snapshot.
    const std::string name = fs::canonical(path, error).filename().string();
    if (error || !name.starts_with(kFolderPrefix) || fs::exists(path / "config.json", error) ||
        !fs::is_directory(path / "snapshots", error))
      return path;
    std::vector<StoredModel> found;
    add_repository(fs::canonical(path).parent_path(), name, found);
    for (const StoredModel& stored : found)
      if (is_default(stored) && !stored.folder.empty()) return stored.folder;
    throw ConfigError("[model] {}: expected a snapshot of refs/main, got none", quote(model, 200));
  }

  const Wanted wanted = split(model);
  const std::vector<StoredModel> all = stored_models(places);
  const StoredModel* found = nullptr;
  std::vector<std::string> same_last;
  for (const StoredModel& stored : all) {
    const std::string base = base_of(stored);
    // A revision picks among the snapshots of a cached model, whichever of them came first.
    const bool usable = wanted.revision.empty()
                            ? is_default(stored)
                            : !stored.revision.empty() && !stored.folder.empty();
    if (!usable) continue;
    if (base == wanted.name) {
      found = &stored;
      break;
    }
    if (wanted.name.find('/') == std::string::npos && last_part(base) == wanted.name &&
        std::find(same_last.begin(), same_last.end(), base) == same_last.end()) {
      same_last.push_back(base);
      if (same_last.size() == 1) found = &stored;
    }
  }
  if (found != nullptr && base_of(*found) != wanted.name && same_last.size() > 1)
    throw ConfigError("[model] {}: expected the name of one model, got that of {}: {}",
                      quote(model), same_last.size(), list_of(same_last));
  if (found == nullptr) {
    // Snapshots without a default one need their revision said.
    std::vector<std::string> revisions;
    for (const StoredModel& stored : all)
      if (!is_default(stored) &&
          (base_of(stored) == wanted.name || last_part(base_of(stored)) == wanted.name))
        revisions.push_back(stored.name);
    if (wanted.revision.empty() && !revisions.empty())
      throw ConfigError(
          "[model] {}: expected a revision, for none is the default (refs/main); got "
          "none; here are {}",
          quote(model), list_of(revisions));
    report_miss(model, wanted, all, places);
  }
  if (found->folder.empty())
    throw ConfigError("[model] {}: expected a whole model, got {}", found->name, found->problem);
  if (wanted.revision.empty()) return found->folder;
  StoredModel named = *found;
  named.name = base_of(*found);
  return snapshot_of(named, wanted.revision);
}

void check_links(const fs::path& folder) {
  std::error_code error;
  const fs::path own = fs::canonical(folder, error);
  if (error) return;  // whoever opens it says why it cannot be
  fs::path root = own;
  const fs::path repository = own.parent_path().parent_path();
  if (own.parent_path().filename() == "snapshots" &&
      repository.filename().string().starts_with(kFolderPrefix))
    root = repository;
  Problems problems;
  size_t seen = 0;
  for (fs::directory_iterator it(own, error), end; !error && it != end; it.increment(error)) {
    if (++seen > kMaxEntries) break;
    std::error_code ignored;
    if (!it->is_symlink(ignored)) continue;
    const fs::path target = fs::canonical(it->path(), ignored);
    // A link to nothing is a missing file, which the reader names; one to a folder is never read.
    if (ignored || fs::is_directory(target, ignored) || inside(target, root)) continue;
    problems.add(fmt::format("{}: expected a file inside, got a link to {}",
                             quote(it->path().filename().string(), 200),
                             quote(target.string(), 200)));
  }
  if (!problems.empty())
    throw ConfigError("{}", problems.text(fmt::format(
                                "[model] {}: files that lie outside of {} are read only with "
                                "--allow-links:",
                                folder.string(), root == own ? "the folder" : root.string())));
}

}  // namespace decant
