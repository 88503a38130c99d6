#include "checkpoint/quantize_staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/errors.h"
#include "base/file.h"
#include "checkpoint/quantize.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLock = "lock";
constexpr const char* kPlan = "plan.json";

}  // namespace

fs::path partial_folder(fs::path target) {
  if (!target.has_filename()) target = target.parent_path();
  const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  return parent / fmt::format(".{}.partial", target.filename().string());
}

Staging::Staging(const fs::path& target, const std::string& plan)
    : target_(target.has_filename() ? target : target.parent_path()),
      folder_(partial_folder(target_)) {
  std::error_code error;
  const auto status = fs::symlink_status(target_, error);
  if (fs::exists(status) && !(fs::is_directory(status) && fs::is_empty(target_, error)))
    throw UsageError("[quantize] {}: expected a new or empty folder, got one with content",
                     target_.string());
  fs::create_directory(folder_, error);
  if (!error) lock_ = open((folder_ / kLock).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  if (lock_ < 0)
    throw RuntimeError("[quantize] cannot make {}: {}", folder_.string(),
                       error ? error.message() : std::generic_category().message(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    close(lock_);
    throw UsageError("[quantize] {}: expected no other process that writes it, got one",
                     target_.string());
  }
  if (same_plan(plan)) return;
  try {
    clear();
    AtomicFile file(folder_ / kPlan);
    file.write(plan);
    file.commit();
  } catch (...) {
    fs::remove_all(folder_, error);
    close(lock_);
    throw;
  }
}

Staging::~Staging() {
  std::error_code error;
  if (!published_ && !has_shard()) fs::remove_all(folder_, error);
  close(lock_);
}

bool Staging::has(const std::string& name, const std::vector<TensorDeclaration>& tensors) const {
  std::error_code error;
  if (!fs::exists(folder_ / name, error)) return false;
  try {
    const auto file = SafetensorsFile::open(folder_ / name);
    return std::ranges::equal(
        file->tensors(), tensors, [](const TensorInfo& a, const TensorDeclaration& b) {
          return a.name == b.name && a.dtype == b.dtype && std::ranges::equal(a.dims(), b.shape);
        });
  } catch (const WeightError&) {
    return false;
  }
}

void Staging::publish() {
  std::error_code error;
  fs::remove(folder_ / kPlan, error);
  fs::remove(folder_ / kLock, error);
  fs::rename(folder_, target_, error);  // replaces an empty folder
  if (error)
    throw RuntimeError("[quantize] cannot rename {} to {}: {}", folder_.string(), target_.string(),
                       error.message());
  published_ = true;
}

bool Staging::same_plan(const std::string& plan) const {
  std::error_code error;
  return fs::exists(folder_ / kPlan, error) && read_text_file(folder_ / kPlan) == plan;
}

std::vector<fs::path> Staging::files() const {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error))
    out.push_back(it->path());
  return out;
}

bool Staging::has_shard() const {
  const auto all = files();
  return std::any_of(all.begin(), all.end(),
                     [](const fs::path& path) { return path.extension() == ".safetensors"; });
}

void Staging::clear() const {
  std::error_code error;
  for (const fs::path& path : files())
    if (path.filename() != kLock) fs::remove_all(path, error);
}

}  // namespace decant
