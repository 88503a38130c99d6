#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "base/checked.h"

namespace decant {

/// Numbers by name, for very many names: one flat table without an allocation per entry. The names
/// must outlive the table.
class NameTable {
 public:
  /// Adds a name unless it is there; returns the number of the one that was.
  std::optional<uint32_t> insert(std::string_view name, uint32_t value) {
    if ((size_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = slots_[place(name)];
    if (slot.used) return slot.value;
    slot = {name, value, true};
    ++size_;
    return std::nullopt;
  }
  std::optional<uint32_t> find(std::string_view name) const {
    if (slots_.empty()) return std::nullopt;
    const Slot& slot = slots_[place(name)];
    return slot.used ? std::optional(slot.value) : std::nullopt;
  }
  size_t size() const { return size_; }
  /// Room for this many names.
  void reserve(size_t names) {
    while (slots_.size() < names * 2) grow();
  }

 private:
  struct Slot {
    std::string_view name;
    uint32_t value = 0;
    bool used = false;
  };
  // The slot of this name, or the free one where it would go.
  size_t place(std::string_view name) const {
    const size_t mask = slots_.size() - 1;
    size_t at = std::hash<std::string_view>{}(name)&mask;
    while (slots_[at].used && slots_[at].name != name) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.used) slots_[place(slot.name)] = slot;
  }

  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t size_ = 0;
};

}  // namespace decant
