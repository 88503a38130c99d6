#include "state/page_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/errors.h"

#ifdef DECANT_HAVE_RAPIDCHECK
#include <rapidcheck/gtest.h>
#endif

namespace decant {
namespace {

std::vector<int32_t> pages_of(const KvPages& kv, OwnerId owner, int group, int64_t logical) {
  const int32_t* table = kv.table(owner, group);
  return {table, table + logical};
}

TEST(PagePool, HandsOutEveryPageOnce) {
  PagePool pool(3);
  std::set<int32_t> pages;
  for (int i = 0; i < 3; ++i) pages.insert(pool.allocate(7));
  EXPECT_EQ(pages, (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(pool.allocate(7), -1);
  pool.release(1, 7);
  EXPECT_EQ(pool.owner(1), 0u);
  EXPECT_EQ(pool.allocate(9), 1);
  pool.check_integrity();
}

TEST(PagePool, OnlyTheOwnerReleases) {
  PagePool pool(2);
  const int32_t page = pool.allocate(7);
  EXPECT_THROW(pool.release(page, 8), InternalError);
  pool.release(page, 7);
  EXPECT_THROW(pool.release(page, 7), InternalError);
  EXPECT_THROW(pool.release(5, 7), InternalError);
  pool.check_integrity();
}

TEST(KvPages, CountsPagesOfAWindow) {
  EXPECT_EQ(KvPages::pages_for(0, 1, 1), 1);
  EXPECT_EQ(KvPages::pages_for(0, 129, 1), 3);
  EXPECT_EQ(KvPages::pages_for(1, 1000, 1), 1);   // one position lies in one page
  EXPECT_EQ(KvPages::pages_for(2, 1000, 1), 2);   // two may straddle a border
  EXPECT_EQ(KvPages::pages_for(65, 1000, 1), 2);  // 65 positions touch at most two pages
  EXPECT_EQ(KvPages::pages_for(66, 1000, 1), 3);  // 66 may touch three
  EXPECT_EQ(KvPages::pages_for(2, 1000, 64), 2);
  EXPECT_EQ(KvPages::pages_for(512, 100, 64), 2);  // never more than the sequence has
}

TEST(KvPages, AWindowGivesPagesBackAsSoonAsNoQuerySeesThem) {
  KvPages kv({{0, 64}, {8, 4}, 1, true});
  ASSERT_TRUE(kv.admit(1, 8 * kPageSize));
  for (int64_t past = 0; past < 127; ++past) kv.advance(1, past, 1);
  // The query at 126 sees 63 .. 126: page 0 still holds position 63.
  EXPECT_GE(kv.table(1, 1)[0], 0);
  kv.advance(1, 127, 1);  // sees 64 .. 127
  EXPECT_EQ(kv.table(1, 1)[0], -1);
  EXPECT_GE(kv.table(1, 0)[0], 0);
  kv.check_integrity();
  for (int64_t past = 128; past < 8 * kPageSize; ++past) {
    kv.advance(1, past, 1);
    ASSERT_LE(kv.used_pages(1), 2);
  }
  EXPECT_EQ(kv.used_pages(0), 8);
  kv.release(1);
  EXPECT_EQ(kv.used_pages(0) + kv.used_pages(1), 0);
  EXPECT_EQ(kv.unpromised_pages(1), 4);
}

TEST(KvPages, KeepsEveryPageWhenNotRecycling) {
  KvPages kv({{64}, {8}, 64, false});
  ASSERT_TRUE(kv.admit(1, 8 * kPageSize));
  for (int64_t past = 0; past < 8 * kPageSize; past += 64) kv.advance(1, past, 64);
  EXPECT_EQ(kv.used_pages(0), 8);
}

TEST(KvPages, DraftsCanBeTakenBack) {
  KvPages kv({{16}, {4}, 9, true});
  ASSERT_TRUE(kv.admit(1, 400));
  int64_t past = 0;
  for (int step = 0; past + 9 <= 400; ++step) {
    kv.advance(1, past, 9);
    // All that a query at `past` sees, and all it writes, is present.
    for (int64_t p = std::max<int64_t>(0, past - 15); p < past + 9; ++p)
      ASSERT_GE(kv.table(1, 0)[p / kPageSize], 0) << p;
    past += 1 + step % 9;  // some of the nine are rejected
    kv.check_integrity();
  }
  EXPECT_THROW(kv.advance(1, 3, 1), InternalError);  // that far back is gone
}

TEST(KvPages, AdmissionPromisesTheWholeSequence) {
  KvPages kv({{0}, {4}, 64, true});
  EXPECT_TRUE(kv.admit(1, 3 * kPageSize));
  EXPECT_FALSE(kv.admit(2, 2 * kPageSize));  // nothing is assigned yet, all the same
  EXPECT_TRUE(kv.admit(3, kPageSize));
  EXPECT_FALSE(kv.admit(4, 1));
  EXPECT_TRUE(kv.can_ever_hold(4 * kPageSize));
  EXPECT_FALSE(kv.can_ever_hold(4 * kPageSize + 1));
  kv.release(1);
  EXPECT_TRUE(kv.admit(2, 2 * kPageSize));
  kv.check_integrity();
}

TEST(KvPages, RefusesToLeaveItsPromise) {
  KvPages kv({{0}, {4}, 64, true});
  ASSERT_TRUE(kv.admit(1, 70));
  kv.advance(1, 0, 64);
  EXPECT_THROW(kv.advance(1, 64, 7), InternalError);
  EXPECT_THROW(kv.advance(1, 64, 65), InternalError);
  EXPECT_THROW(kv.advance(2, 0, 1), InternalError);
  kv.advance(1, 64, 6);
  EXPECT_EQ(pages_of(kv, 1, 0, 2).size(), 2u);
}

#ifdef DECANT_HAVE_RAPIDCHECK
// Random requests come, advance by random chunks, have drafts rejected and go. What a query needs
// is always there, no page belongs to two sequences, and promises never fail.
RC_GTEST_PROP(KvPagesProperty, InvariantsHoldUnderRandomOperations, ()) {
  const int64_t ahead = *rc::gen::inRange<int64_t>(1, 200);
  const std::vector<int> windows = {0, *rc::gen::inRange(1, 300), *rc::gen::inRange(1, 80)};
  KvPages kv({windows,
              {*rc::gen::inRange<int64_t>(1, 40), *rc::gen::inRange<int64_t>(1, 24),
               *rc::gen::inRange<int64_t>(1, 24)},
              ahead,
              *rc::gen::weightedElement<bool>({{4, true}, {1, false}})});
  struct Shadow {
    int64_t positions, past;
  };
  std::map<OwnerId, Shadow> alive;
  OwnerId next = 1;
  const auto operations = *rc::gen::container<std::vector<int>>(60, rc::gen::inRange(0, 100));
  for (int operation : operations) {
    if (operation < 25) {
      const int64_t positions = *rc::gen::inRange<int64_t>(1, 1500);
      const bool could = kv.can_ever_hold(positions);
      const bool admitted = kv.admit(next, positions);
      RC_ASSERT(could || !admitted);
      RC_ASSERT(!could || admitted || !alive.empty());
      if (admitted) alive[next] = {positions, 0};
      ++next;
    } else if (!alive.empty()) {
      auto at = alive.begin();
      std::advance(at, operation % static_cast<int>(alive.size()));
      auto& [owner, shadow] = *at;
      const int64_t room = std::min(ahead, shadow.positions - shadow.past);
      if (operation < 35 || room == 0) {
        kv.release(owner);
        alive.erase(at);
      } else {
        const int64_t count = *rc::gen::inRange<int64_t>(1, room + 1);
        kv.advance(owner, shadow.past, count);
        for (int g = 0; g < kv.groups(); ++g) {
          const int window = windows[static_cast<size_t>(g)];
          const int64_t first =
              window > 0 ? std::max<int64_t>(0, shadow.past - window + 1) : int64_t{0};
          for (int64_t p = first; p < shadow.past + count; ++p)
            RC_ASSERT(kv.table(owner, g)[p / kPageSize] >= 0);
        }
        shadow.past += *rc::gen::inRange<int64_t>(1, count + 1);
      }
    }
    kv.check_integrity();
  }
  for (const auto& [owner, shadow] : alive) kv.release(owner);
  for (int g = 0; g < kv.groups(); ++g) {
    RC_ASSERT(kv.used_pages(g) == 0);
    RC_ASSERT(kv.unpromised_pages(g) == kv.options().pages[static_cast<size_t>(g)]);
  }
}
#endif

}  // namespace
}  // namespace decant
