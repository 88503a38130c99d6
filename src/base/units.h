#pragma once

#include <cstdint>
#include <string>

namespace decant {

/// "3.42 GiB", "17.0 KiB", "12 B": binary units, for memory.
std::string format_bytes(uint64_t bytes);
/// "4.02 B", "8.7 M", "512": decimal counts, for parameters.
std::string format_count(uint64_t count);

}  // namespace decant
