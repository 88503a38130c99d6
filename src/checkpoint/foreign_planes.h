#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/foreign_module.h"

namespace decant {

/// The planes of foreign modules that are made at load: addresses for them when they are asked for,
/// memory and contents once everything that is asked is known to be right.
class ForeignPlanes {
 public:
  struct Room {
    QuantizedPlanes planes;
    std::shared_ptr<const void> owner;  // null if nothing of the module is made
  };
  /// Reserves addresses only: until make() they cannot be touched and take no memory.
  /// Errors: MemoryError if the process has no more of them.
  Room add(ForeignModule module);
  /// Bytes of all planes that are made.
  int64_t bytes() const { return bytes_; }
  /// Makes them, on all cores, module after module; the pages read are given back. Returns what
  /// the numbers of the files contradict, a line each. Errors: MemoryError if they do not fit.
  std::vector<std::string> make();

 private:
  // Addresses that several modules share.
  struct Range {
    std::shared_ptr<std::byte> begin;
    int64_t size = 0;
    int64_t used = 0;
  };
  struct Entry {
    ForeignModule module;
    QuantizedPlanes planes;
  };
  std::byte* reserve(int64_t bytes);

  std::vector<Range> ranges_;
  std::vector<Entry> entries_;
  int64_t bytes_ = 0;
};

/// The system may drop the pages of a mapped file that lie wholly in these bytes.
void release_pages(const std::byte* begin, int64_t bytes);

}  // namespace decant
