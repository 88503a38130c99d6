#include "cli/history_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;
constexpr size_t kMaxEntryBytes = size_t{64} << 10;
constexpr size_t kMaxKeptBytes = size_t{4} << 20;

std::string line_of(std::string_view entry) { return Json(entry).dump() + "\n"; }

}  // namespace

HistoryFile::HistoryFile(fs::path path, size_t max_entries)
    : path_(std::move(path)), max_entries_(max_entries) {}

void HistoryFile::fail(std::string reason) {
  if (!problem_) problem_ = std::move(reason);
}

std::vector<std::string> HistoryFile::load() {
  std::vector<std::string> out;
  if (path_.empty()) return out;
  std::error_code error;
  fs::create_directories(path_.parent_path(), error);
  if (error) {
    fail(fmt::format("history is not kept: cannot make {}: {}", path_.parent_path().string(),
                     error.message()));
    path_.clear();
    return out;
  }
  if (!fs::exists(path_, error)) return out;
  size_t damaged = 0;
  try {
    const std::string text = read_text_file(path_, kMaxFileBytes);
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      try {
        const Json json = parse_json(std::string_view(text).substr(at, end - at), "history");
        out.push_back(json.get<std::string>());
      } catch (const std::exception&) {
        ++damaged;
      }
      at = end + 1;
    }
    size_t bytes = 0, keep = 0;
    while (keep < std::min(out.size(), max_entries_)) {
      bytes += out[out.size() - keep - 1].size();
      if (bytes > kMaxKeptBytes) break;
      ++keep;
    }
    const bool cut = keep < out.size();
    out.erase(out.begin(), out.end() - static_cast<std::ptrdiff_t>(keep));
    if (damaged > 0)
      fail(fmt::format("history: {} damaged lines of {} left out", damaged, path_.string()));
    if (cut || damaged > 0) {
      AtomicFile file(path_, 0600);
      for (const std::string& entry : out) file.write(line_of(entry));
      file.commit();
    }
  } catch (const Error& thrown) {
    fail(std::string("history: ") + thrown.what());
  }
  if (!out.empty()) last_ = out.back();
  return out;
}

void HistoryFile::append(std::string_view entry) {
  if (path_.empty() || entry == last_ || entry.size() > kMaxEntryBytes) return;
  last_ = entry;
  const std::string line = line_of(entry);
  const int fd = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  // One write: the lines of two programs do not mix.
  const bool written = fd >= 0 && fchmod(fd, 0600) == 0 &&
                       ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (written) return;
  fail(fmt::format("history is not kept: cannot write {}: {}", path_.string(),
                   std::strerror(reason)));
  path_.clear();
}

fs::path history_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return fs::path(state) / "decant" / "history";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return {};
  return fs::path(home) / ".local" / "state" / "decant" / "history";
}

}  // namespace decant::cli
