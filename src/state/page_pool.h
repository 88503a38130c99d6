#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "graph/batch.h"

namespace decant {

/// Who holds a page or a slot: a request's id. 0 is nobody.
using OwnerId = uint64_t;

/// The physical pages of one window group, as ids: which are free, and whose the others are.
class PagePool {
 public:
  explicit PagePool(int64_t pages);
  int64_t pages() const { return static_cast<int64_t>(owner_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  OwnerId owner(int32_t page) const { return owner_.at(static_cast<size_t>(page)); }
  /// A free page, now `owner`'s; -1 when there is none.
  int32_t allocate(OwnerId owner);
  /// Gives a page back. Errors: InternalError if it is not `owner`'s.
  void release(int32_t page, OwnerId owner);
  /// Every page is either free or owned, and free once only. Errors: InternalError.
  void check_integrity() const;

 private:
  std::vector<OwnerId> owner_;
  std::vector<int32_t> free_;  // the last one is handed out first: it is warm in caches
};

/// Recurrent state slots.
class SlotPool {
 public:
  explicit SlotPool(int64_t slots) : pool_(slots) {}
  int64_t slots() const { return pool_.pages(); }
  int64_t free_slots() const { return pool_.free_pages(); }
  int32_t allocate(OwnerId owner) { return pool_.allocate(owner); }
  void release(int32_t slot, OwnerId owner) { pool_.release(slot, owner); }
  void check_integrity() const { pool_.check_integrity(); }

 private:
  PagePool pool_;
};

/// One sequence's pages of one group: physical page of each logical one (position / kPageSize), -1
/// before it is reached and once the window has left it behind.
struct PageTable {
  std::vector<int32_t> pages;
  int64_t begin = 0;  // logical pages [begin, end) are held
  int64_t end = 0;
};

/// Page tables of all sequences in all window groups.
///
/// A sequence is admitted with the number of positions it may ever reach. The pages that takes are
/// promised at once and assigned as it advances, so an admitted sequence never finds the pool
/// empty. A group with a window gives a page back as soon as no query at or after the sequence's
/// committed length can see it; a step of up to `ahead` tokens (the largest prompt chunk, or drafts
/// + 1) may then be taken back to any length not below the `past` it started from.
class KvPages {
 public:
  struct Options {
    std::vector<int> windows;    // by group; 0: full attention
    std::vector<int64_t> pages;  // by group
    int64_t ahead = 1;           // largest number of tokens of one advance
    bool recycle = true;         // false keeps every page, as if there were no window
  };
  explicit KvPages(Options options);

  /// Pages that a sequence of `positions` positions holds at most at one time.
  static int64_t pages_for(int window, int64_t positions, int64_t ahead);
  int64_t need(int group, int64_t positions) const;
  /// True if an empty pool could hold such a sequence.
  bool can_ever_hold(int64_t positions) const;

  /// Promises pages for `positions` positions. False: not enough of them are unpromised now.
  bool admit(OwnerId owner, int64_t positions);
  /// Makes the pages of positions [past, past + count) present, after giving back those that the
  /// windows have left behind. `past` may fall, but not below that of the advance before.
  void advance(OwnerId owner, int64_t past, int64_t count);
  /// Gives everything back.
  void release(OwnerId owner);

  /// Valid until the sequence is released.
  const int32_t* table(OwnerId owner, int group) const;
  int groups() const { return static_cast<int>(options_.windows.size()); }
  const Options& options() const { return options_; }
  int64_t sequences() const { return static_cast<int64_t>(sequences_.size()); }
  int64_t used_pages(int group) const;
  int64_t unpromised_pages(int group) const;
  /// Tables and pools agree, promises are kept within the pools. Errors: InternalError.
  void check_integrity() const;

 private:
  struct Sequence {
    int64_t positions = 0;
    int64_t past = 0;
    std::vector<PageTable> tables;  // by group
  };
  const Sequence& find(OwnerId owner) const;

  Options options_;
  std::vector<PagePool> pools_;
  std::vector<int64_t> promised_;
  std::unordered_map<OwnerId, Sequence> sequences_;
};

}  // namespace decant
