#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace decant::tokenizer {

/// Token texts and ids, both ways.
class Vocab {
 public:
  enum class Added { kNew, kDuplicateText };

  /// Makes room; call once before adding.
  void reserve(size_t count, size_t bytes);
  /// Adds a token; on a duplicate text nothing changes. The caller checks ids (see index).
  Added add(std::string_view text, int32_t id);
  /// Builds the table of ids; call once after the last add. The table has max_id() + 1 entries: the
  /// caller bounds it. Of two tokens with one id the first keeps it; returns the ids given twice.
  std::vector<int32_t> index();

  std::optional<int32_t> find(std::string_view text) const;
  /// Empty when the id has no token.
  std::string_view text(int32_t id) const;
  bool has(int32_t id) const;
  int32_t max_id() const { return max_id_; }
  size_t size() const { return entries_.size(); }
  /// The id of the n-th token added.
  int32_t id_at(size_t n) const { return entries_[n].id; }

 private:
  struct Entry {
    size_t begin;
    size_t size;
    int32_t id;
  };
  size_t place(std::string_view text) const;
  std::string_view text_of(const Entry& entry) const {
    return std::string_view(arena_).substr(entry.begin, entry.size);
  }

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // entry + 1, 0 when free
  std::vector<uint32_t> by_id_;  // entry + 1, 0 when the id is free
  int32_t max_id_ = -1;
};

}  // namespace decant::tokenizer
