#include "cli/doctor_facts.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "base/checked.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

// The first line of a file of /proc or /sys; empty if it cannot be read.
std::string line_of(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::optional<int64_t> number_in(std::string_view text) {
  const size_t first = text.find_first_of("0123456789");
  if (first == std::string_view::npos) return std::nullopt;
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data() + first, text.data() + text.size(), value);
  if (parsed.ec != std::errc()) return std::nullopt;
  return value;
}

// "32K", "1024K", "8M" of sysfs.
int64_t size_in(std::string_view text) {
  const auto value = number_in(text);
  if (!value) return 0;
  const int64_t unit = text.ends_with('K') ? 1 << 10 : text.ends_with('M') ? 1 << 20 : 1;
  return checked_mul(*value, unit).value_or(0);
}

std::optional<int64_t> limit_of(int resource) {
  rlimit limit{};
  if (getrlimit(static_cast<decltype(RLIMIT_AS)>(resource), &limit) != 0 ||
      limit.rlim_cur == RLIM_INFINITY)
    return std::nullopt;
  return checked_cast<int64_t>(limit.rlim_cur);
}

// This process's folder of a controller, and the ones above it: each may have a limit.
std::vector<fs::path> cgroup_folders(const std::string& controller) {
  std::ifstream in("/proc/self/cgroup");
  std::vector<fs::path> out;
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find("," + controller + ",") == std::string::npos)
      continue;
    const fs::path root = unified ? "/sys/fs/cgroup" : fs::path("/sys/fs/cgroup") / controllers;
    // Inside a container the path may be the host's, of which only the root is seen.
    fs::path below = fs::path(line.substr(second + 1)).relative_path();
    for (int depth = 0; depth < 32 && !below.empty(); ++depth, below = below.parent_path())
      out.push_back(root / below);
    out.push_back(root);
  }
  return out;
}

std::optional<int64_t> cgroup_memory(const char* unified, const char* legacy, bool least) {
  constexpr int64_t kNoLimit = int64_t{1} << 60;  // version 1 writes a huge number for none
  std::optional<int64_t> out;
  for (const fs::path& folder : cgroup_folders("memory"))
    for (const char* name : {unified, legacy}) {
      const auto value = number_in(line_of(folder / name));
      if (!value || *value >= kNoLimit) continue;
      if (!out || (least && *value < *out)) out = value;
      if (!least) return out;
    }
  return out;
}

#ifdef __APPLE__
std::optional<int64_t> system_number(const char* name) {
  int64_t value = 0;
  size_t size = sizeof value;
  if (sysctlbyname(name, &value, &size, nullptr, 0) != 0) return std::nullopt;
  if (size == 4) value &= 0xFFFFFFFF;
  return value;
}
std::string system_text(const char* name) {
  char text[256] = {};
  size_t size = sizeof text - 1;
  return sysctlbyname(name, text, &size, nullptr, 0) == 0 ? text : "";
}
#else
// The value of a key of /proc/cpuinfo or /proc/meminfo.
std::string entry_of(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(key)) continue;
    if (line.find_first_not_of(" \t", key.size()) != colon) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}
std::optional<int64_t> memory_entry(std::string_view key) {
  const auto kib = number_in(entry_of("/proc/meminfo", key));
  return kib ? checked_mul<int64_t>(*kib, 1024) : std::nullopt;
}
#endif

}  // namespace

const char* name_of(Finding::State state) {
  switch (state) {
    case Finding::State::kFine:
      return "fine";
    case Finding::State::kNote:
      return "note";
    case Finding::State::kProblem:
      break;
  }
  return "problem";
}

std::vector<CacheFacts> cpu_caches() {
  std::vector<CacheFacts> out;
#ifdef __APPLE__
  for (const auto& [name, key] :
       {std::pair{"L1d", "hw.perflevel0.l1dcachesize"},
        std::pair{"L2", "hw.perflevel0.l2cachesize"}, std::pair{"L3", "hw.l3cachesize"}})
    if (const auto bytes = system_number(key); bytes && *bytes > 0)
      out.push_back({name, *bytes, {}});
#else
  for (int i = 0; i < 16; ++i) {
    const fs::path folder =
        fs::path("/sys/devices/system/cpu/cpu0/cache") / ("index" + std::to_string(i));
    const std::string type = line_of(folder / "type");
    if (type.empty() || type == "Instruction") continue;
    const int64_t bytes = size_in(line_of(folder / "size"));
    if (bytes <= 0) continue;
    out.push_back({"L" + line_of(folder / "level") + (type == "Data" ? "d" : ""), bytes,
                   line_of(folder / "shared_cpu_list")});
  }
#endif
  return out;
}

std::string cpu_model() {
#ifdef __APPLE__
  return system_text("machdep.cpu.brand_string");
#else
  for (const char* key : {"model name", "Processor", "cpu model"})
    if (std::string text = entry_of("/proc/cpuinfo", key); !text.empty()) return text;
  return {};
#endif
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> out;
#ifndef __APPLE__
  std::string flags = entry_of("/proc/cpuinfo", "flags");
  if (flags.empty()) flags = entry_of("/proc/cpuinfo", "Features");
  std::istringstream words(flags);
  std::set<std::string> have;
  for (std::string word; words >> word;) have.insert(word);
  for (const char* name :
       {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni",
        "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve"})
    if (have.contains(name)) out.emplace_back(name);
#endif
  return out;
}

MemoryFacts memory_facts() {
  MemoryFacts out;
#ifdef __APPLE__
  out.total = system_number("hw.memsize");
#else
  out.total = memory_entry("MemTotal");
  out.available = memory_entry("MemAvailable");
  out.cgroup_limit = cgroup_memory("memory.max", "memory.limit_in_bytes", true);
  out.cgroup_used = cgroup_memory("memory.current", "memory.usage_in_bytes", false);
#endif
  out.address_limit = limit_of(RLIMIT_AS);
  out.locked_limit = limit_of(RLIMIT_MEMLOCK);
  out.file_limit = limit_of(RLIMIT_FSIZE);
  return out;
}

std::optional<double> cpu_quota() {
  std::optional<double> out;
  for (const fs::path& folder : cgroup_folders("cpu")) {
    double share = 0;
    const std::string line = line_of(folder / "cpu.max");  // "200000 100000", or "max 100000"
    if (const size_t space = line.find(' '); space != std::string::npos) {
      const auto quota = line.starts_with("max") ? std::nullopt : number_in(line.substr(0, space));
      const auto period = number_in(line.substr(space));
      if (quota && period && *period > 0)
        share = static_cast<double>(*quota) / static_cast<double>(*period);
    } else {
      const std::string text = line_of(folder / "cpu.cfs_quota_us");
      const auto quota = text.starts_with('-') ? std::nullopt : number_in(text);
      const auto period = number_in(line_of(folder / "cpu.cfs_period_us"));
      if (quota && period && *period > 0)
        share = static_cast<double>(*quota) / static_cast<double>(*period);
    }
    if (share > 0 && (!out || share < *out)) out = share;
  }
  return out;
}

fs::path state_folder() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state != '\0')
    return fs::path(state) / "decant";
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? fs::path() : fs::path(home) / ".local/state/decant";
}

std::string unwritable_reason(const fs::path& folder) {
  if (folder.empty()) return "HOME is not set";
  std::error_code error;
  fs::path at = fs::absolute(folder, error);
  if (error) return error.message();
  while (!fs::exists(at, error) && at.has_parent_path() && at != at.root_path())
    at = at.parent_path();
  if (!fs::is_directory(at, error)) return at.string() + " is no folder";
  if (::access(at.c_str(), W_OK | X_OK) != 0) return at.string() + ": " + std::strerror(errno);
  return {};
}

}  // namespace decant::cli
