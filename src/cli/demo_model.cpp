#include "cli/demo_model.h"

#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include "base/errors.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

fs::path program_folder() {
  std::error_code error;
#ifdef __APPLE__
  char buffer[4096];
  uint32_t size = sizeof buffer;
  if (_NSGetExecutablePath(buffer, &size) != 0) return {};
  return fs::canonical(buffer, error).parent_path();
#else
  return fs::read_symlink("/proc/self/exe", error).parent_path();
#endif
}

}  // namespace

fs::path find_demo_model() {
  std::error_code error;
  if (const char* chosen = std::getenv("DECANT_DEMO_MODEL"); chosen != nullptr && *chosen != '\0') {
    if (fs::is_directory(chosen, error)) return chosen;
    throw ConfigError("[run] DECANT_DEMO_MODEL: expected a model folder, got {}", quote(chosen));
  }
  std::vector<fs::path> places;
  if (const fs::path folder = program_folder(); !folder.empty())
    places = {folder.parent_path().parent_path() / "demo/model",
              folder.parent_path() / "share/decant/demo"};
  places.push_back(fs::path(DECANT_SOURCE_DIR) / "demo/model");
  std::string tried;
  for (const fs::path& place : places) {
    if (fs::exists(place / "config.json", error)) return place;
    tried += (tried.empty() ? "" : ", ") + place.string();
  }
  throw ConfigError("[run] no MODEL given and no demo model found (looked at {})", tried);
}

}  // namespace decant::cli
