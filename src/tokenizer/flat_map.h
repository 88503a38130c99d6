#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace decant::tokenizer {

/// Mixes the bits of a 64-bit value.
inline uint64_t mix64(uint64_t x) {
  x ^= x >> 32;
  x *= 0x9FB21C651E98DF25ull;
  x ^= x >> 35;
  x *= 0xD6E8FEB86659FD93ull;
  return x ^ x >> 32;
}

/// Hash of a byte string, different in every process: a file cannot aim at collisions.
uint64_t hash_bytes(std::string_view text);

/// Open addressing from 64-bit keys to two 32-bit values; sized once, never erased from.
class PairMap {
 public:
  struct Value {
    uint32_t first;
    uint32_t second;
  };

  /// Makes room for `count` keys; drops what was there.
  void reset(size_t count) {
    slots_.assign(std::bit_ceil(count * 2 + 8), Slot{kEmpty, {}});
    mask_ = slots_.size() - 1;
  }

  void put(uint64_t key, Value value) {
    Slot& slot = slots_[place(key)];
    slot.key = key;
    slot.value = value;
  }

  const Value* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[place(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

 private:
  // No pair of 31-bit ids and no (node, byte) has all bits set.
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key;
    Value value;
  };

  size_t place(uint64_t key) const {
    size_t at = mix64(key) & mask_;
    while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & mask_;
    return at;
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

}  // namespace decant::tokenizer
