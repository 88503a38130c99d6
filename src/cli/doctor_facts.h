#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace decant::cli {

/// One thing `decant doctor` looked at.
struct Finding {
  enum class State {
    kFine,
    kNote,     // decant runs, with less than there could be
    kProblem,  // decant cannot run
  };
  std::string area;  // "build", "devices", "memory", ...
  std::string name;
  std::string value;
  State state = State::kFine;
  std::string remedy;  // what to do, of everything that is not fine
};
const char* name_of(Finding::State state);

/// A cache of the first processor.
struct CacheFacts {
  std::string name;  // "L1d", "L2", "L3"
  int64_t bytes = 0;
  std::string shared_by;  // processors, as the system lists them; may be empty
};
/// From sysfs or sysctl; empty where the system does not tell.
std::vector<CacheFacts> cpu_caches();
/// "AMD EPYC 7B13", and which of the instructions the kernels or their successors use it has.
std::string cpu_model();
std::vector<std::string> cpu_features();

/// Bytes; absent: not known, or no limit.
struct MemoryFacts {
  std::optional<int64_t> total;
  std::optional<int64_t> available;
  std::optional<int64_t> cgroup_limit;
  std::optional<int64_t> cgroup_used;
  std::optional<int64_t> address_limit;  // ulimit -v
  std::optional<int64_t> locked_limit;   // ulimit -l
  std::optional<int64_t> file_limit;     // ulimit -f
};
MemoryFacts memory_facts();

/// Processors that the cgroup's quota amounts to; absent: no quota.
std::optional<double> cpu_quota();

/// Where decant keeps what should survive a run: XDG_STATE_HOME or ~/.local/state, then decant.
std::filesystem::path state_folder();
/// Why files cannot be made in a folder (or, where it is not there yet, in the nearest one that
/// is), or nothing.
std::string unwritable_reason(const std::filesystem::path& folder);

}  // namespace decant::cli
