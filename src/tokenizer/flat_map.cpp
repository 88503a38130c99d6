#include "tokenizer/flat_map.h"

#include <random>

namespace decant::tokenizer {

uint64_t hash_bytes(std::string_view text) {
  static const uint64_t seed = [] {
    std::random_device device;
    return static_cast<uint64_t>(device()) << 32 | device();
  }();
  uint64_t hash = seed ^ text.size() * 0x9E3779B97F4A7C15ull;
  const char* at = text.data();
  size_t left = text.size();
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    hash = mix64(hash ^ word);
  }
  if (left > 0) {
    uint64_t word = 0;
    std::memcpy(&word, at, left);
    hash = mix64(hash ^ word);
  }
  return mix64(hash);
}

}  // namespace decant::tokenizer
