#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace decant::media {

/// SHA-256 of a file's bytes. Placeholders of two pictures are equal tokens: a prefix cache tells
/// them apart by this, so it must not be possible to forge.
using ContentHash = std::array<uint8_t, 32>;

ContentHash content_hash(std::span<const std::byte> bytes);

/// 64 hexadecimal digits.
std::string to_string(const ContentHash& hash);

}  // namespace decant::media
