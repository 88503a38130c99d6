#include "state/page_pool.h"

#include <algorithm>

#include "base/checked.h"

namespace decant {

PagePool::PagePool(int64_t pages) : owner_(static_cast<size_t>(pages), OwnerId{0}) {
  free_.reserve(owner_.size());
  for (int64_t page = pages; page-- > 0;) free_.push_back(narrow<int32_t>(page));
}

int32_t PagePool::allocate(OwnerId owner) {
  DECANT_ASSERT(owner != 0, "a page is held by somebody");
  if (free_.empty()) return -1;
  const int32_t page = free_.back();
  free_.pop_back();
  owner_[static_cast<size_t>(page)] = owner;
  return page;
}

void PagePool::release(int32_t page, OwnerId owner) {
  DECANT_ASSERT(page >= 0 && page < pages(), "a page of this pool is released");
  DECANT_ASSERT(owner != 0 && owner_[static_cast<size_t>(page)] == owner,
                "a page is released by its owner");
  owner_[static_cast<size_t>(page)] = 0;
  free_.push_back(page);
}

void PagePool::check_integrity() const {
  std::vector<bool> seen(owner_.size(), false);
  for (int32_t page : free_) {
    DECANT_ASSERT(page >= 0 && page < pages(), "a free page lies in the pool");
    DECANT_ASSERT(!seen[static_cast<size_t>(page)], "a page is free once");
    DECANT_ASSERT(owner_[static_cast<size_t>(page)] == 0, "a free page has no owner");
    seen[static_cast<size_t>(page)] = true;
  }
  for (size_t page = 0; page < owner_.size(); ++page)
    DECANT_ASSERT(seen[page] == (owner_[page] == 0), "a page is free or owned");
}

KvPages::KvPages(Options options)
    : options_(std::move(options)), promised_(options_.windows.size(), 0) {
  DECANT_ASSERT(options_.windows.size() == options_.pages.size(), "every group has a pool");
  DECANT_ASSERT(options_.ahead >= 1, "a sequence advances by at least one token");
  for (int64_t pages : options_.pages) pools_.emplace_back(pages);
}

int64_t KvPages::pages_for(int window, int64_t positions, int64_t ahead) {
  const int64_t all = div_up(positions, int64_t{kPageSize});
  if (window <= 0) return all;
  // An advance touches positions past - window + 1 .. past + ahead - 1, beginning anywhere in a
  // page.
  const int64_t span = int64_t{window} + ahead - 1;
  return std::min(all, div_up(span - 1, int64_t{kPageSize}) + 1);
}

int64_t KvPages::need(int group, int64_t positions) const {
  return pages_for(options_.recycle ? options_.windows[static_cast<size_t>(group)] : 0, positions,
                   options_.ahead);
}

bool KvPages::can_ever_hold(int64_t positions) const {
  for (int g = 0; g < groups(); ++g)
    if (need(g, positions) > options_.pages[static_cast<size_t>(g)]) return false;
  return true;
}

bool KvPages::admit(OwnerId owner, int64_t positions) {
  DECANT_ASSERT(owner != 0 && !sequences_.contains(owner), "a sequence is admitted once");
  DECANT_ASSERT(positions >= 1, "a sequence has positions");
  for (int g = 0; g < groups(); ++g)
    if (need(g, positions) > unpromised_pages(g)) return false;
  Sequence sequence{positions, 0, {}};
  for (int g = 0; g < groups(); ++g) {
    promised_[static_cast<size_t>(g)] += need(g, positions);
    sequence.tables.push_back(
        {std::vector<int32_t>(static_cast<size_t>(div_up(positions, int64_t{kPageSize})), -1), 0,
         0});
  }
  sequences_.emplace(owner, std::move(sequence));
  return true;
}

void KvPages::advance(OwnerId owner, int64_t past, int64_t count) {
  auto& sequence = const_cast<Sequence&>(find(owner));
  DECANT_ASSERT(count >= 1 && count <= options_.ahead, "an advance is no longer than announced");
  DECANT_ASSERT(past >= sequence.past, "a sequence is not taken back behind the step before");
  DECANT_ASSERT(past + count <= sequence.positions, "a sequence stays within its promise");
  sequence.past = past;
  for (size_t g = 0; g < sequence.tables.size(); ++g) {
    PageTable& table = sequence.tables[g];
    PagePool& pool = pools_[g];
    const int window = options_.recycle ? options_.windows[g] : 0;
    const int64_t first =
        window > 0 ? std::max<int64_t>(0, past - window + 1) / kPageSize : int64_t{0};
    for (; table.begin < std::min(first, table.end); ++table.begin) {
      int32_t& page = table.pages[static_cast<size_t>(table.begin)];
      pool.release(page, owner);
      page = -1;
    }
    const int64_t end = div_up(past + count, int64_t{kPageSize});
    for (; table.end < end; ++table.end) {
      const int32_t page = pool.allocate(owner);
      DECANT_ASSERT(page >= 0, "a promised page is there");
      table.pages[static_cast<size_t>(table.end)] = page;
    }
  }
}

void KvPages::release(OwnerId owner) {
  const Sequence& sequence = find(owner);
  for (size_t g = 0; g < sequence.tables.size(); ++g) {
    for (int32_t page : sequence.tables[g].pages)
      if (page >= 0) pools_[g].release(page, owner);
    promised_[g] -= need(static_cast<int>(g), sequence.positions);
  }
  sequences_.erase(owner);
}

const KvPages::Sequence& KvPages::find(OwnerId owner) const {
  const auto at = sequences_.find(owner);
  DECANT_ASSERT(at != sequences_.end(), "a sequence is admitted before it is used");
  return at->second;
}

const int32_t* KvPages::table(OwnerId owner, int group) const {
  return find(owner).tables.at(static_cast<size_t>(group)).pages.data();
}

int64_t KvPages::used_pages(int group) const {
  const PagePool& pool = pools_.at(static_cast<size_t>(group));
  return pool.pages() - pool.free_pages();
}

int64_t KvPages::unpromised_pages(int group) const {
  return options_.pages.at(static_cast<size_t>(group)) - promised_.at(static_cast<size_t>(group));
}

void KvPages::check_integrity() const {
  std::vector<int64_t> held(pools_.size(), 0), promised(pools_.size(), 0);
  for (const auto& [owner, sequence] : sequences_) {
    for (size_t g = 0; g < pools_.size(); ++g) {
      const PageTable& table = sequence.tables[g];
      int64_t pages = 0;
      for (size_t i = 0; i < table.pages.size(); ++i) {
        const auto logical = static_cast<int64_t>(i);
        const bool inside = logical >= table.begin && logical < table.end;
        DECANT_ASSERT(inside == (table.pages[i] >= 0), "a table holds the pages of its range");
        if (!inside) continue;
        DECANT_ASSERT(pools_[g].owner(table.pages[i]) == owner, "a table's pages are its owner's");
        ++pages;
      }
      const int64_t need_here = need(static_cast<int>(g), sequence.positions);
      DECANT_ASSERT(pages <= need_here, "a sequence holds no more than it was promised");
      held[g] += pages;
      promised[g] += need_here;
    }
  }
  for (size_t g = 0; g < pools_.size(); ++g) {
    pools_[g].check_integrity();
    DECANT_ASSERT(held[g] == used_pages(static_cast<int>(g)), "every used page is in one table");
    DECANT_ASSERT(promised[g] == promised_[g] && promised[g] <= pools_[g].pages(),
                  "promises fit the pool");
  }
}

}  // namespace decant
