#pragma once

#include <cstdint>

namespace decant {

/// Bytes that processes can still take without others being paged out, as the system estimates it;
/// all of its memory where it gives no estimate.
int64_t available_memory();

}  // namespace decant
