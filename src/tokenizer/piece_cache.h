#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/flat_map.h"

namespace decant::tokenizer {

/// Remembers the ids of short words; a new word replaces the one that had its place.
class PieceCache {
 public:
  static constexpr size_t kMaxKey = 30;
  static constexpr size_t kMaxIds = 8;

  /// The remembered ids of `key` (at most kMaxKey bytes, not empty), or an empty span.
  std::span<const int32_t> find(std::string_view key, uint64_t hash) const {
    if (entries_.empty()) return {};
    const Entry& entry = entries_[hash & (kEntries - 1)];
    if (entry.key_size != key.size() || std::memcmp(entry.key.data(), key.data(), key.size()) != 0)
      return {};
    return {entry.ids.data(), entry.count};
  }

  void put(std::string_view key, uint64_t hash, std::span<const int32_t> ids) {
    if (ids.empty() || ids.size() > kMaxIds) return;
    if (entries_.empty()) entries_.resize(kEntries);
    Entry& entry = entries_[hash & (kEntries - 1)];
    entry.key_size = static_cast<uint8_t>(key.size());
    entry.count = static_cast<uint8_t>(ids.size());
    std::memcpy(entry.key.data(), key.data(), key.size());
    std::memcpy(entry.ids.data(), ids.data(), ids.size_bytes());
  }

 private:
  static constexpr size_t kEntries = 1 << 14;
  struct Entry {
    uint8_t key_size = 0;
    uint8_t count = 0;
    std::array<char, kMaxKey> key;
    std::array<int32_t, kMaxIds> ids;
  };
  std::vector<Entry> entries_;
};

}  // namespace decant::tokenizer
