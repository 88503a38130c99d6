#pragma once

#include <filesystem>

namespace decant::cli {

/// The bundled demo model: $DECANT_DEMO_MODEL, else beside the program (a build tree or an
/// installation), else in the source tree the program was built from. Errors: ConfigError naming
/// the places.
std::filesystem::path find_demo_model();

}  // namespace decant::cli
