#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "engine/programs.h"

namespace decant {
namespace {

struct Fixture {
  KvPages kv{{{0}, {8}, 256, true}};
  SlotPool slots{4};
};

std::vector<int64_t> counts(const StepPlan& plan) {
  std::vector<int64_t> out;
  for (const auto& chunk : plan.prefill) out.push_back(chunk.count);
  return out;
}

TEST(Scheduler, ChunksShareAStepInOrderOfArrival) {
  Fixture f;
  Scheduler scheduler({4, 100, 4, false}, f.kv, nullptr);
  scheduler.enqueue(1, 70, 80);
  scheduler.enqueue(2, 60, 70);
  scheduler.enqueue(3, 10, 20);
  EXPECT_EQ(scheduler.admit(), (std::vector<RequestId>{1, 2, 3}));
  StepPlan plan = scheduler.plan();
  EXPECT_EQ(counts(plan), (std::vector<int64_t>{70, 30}));
  EXPECT_TRUE(plan.prefill[0].last);
  EXPECT_FALSE(plan.prefill[1].last);
  scheduler.prefilled(1, 70);
  scheduler.prefilled(2, 30);
  plan = scheduler.plan();
  EXPECT_EQ(plan.decode, (std::vector<RequestId>{1}));
  EXPECT_EQ(counts(plan), (std::vector<int64_t>{30, 10}));
  EXPECT_EQ(plan.prefill[0].past, 30);
  EXPECT_TRUE(plan.prefill[0].last);
}

TEST(Scheduler, CutsAtPagesForRecurrentStates) {
  Fixture f;
  Scheduler scheduler({4, 128, 4, true}, f.kv, &f.slots);
  scheduler.enqueue(1, 100, 100);
  scheduler.enqueue(2, 70, 70);
  scheduler.admit();
  // 28 tokens of room are left for the second: less than a page.
  EXPECT_EQ(counts(scheduler.plan()), (std::vector<int64_t>{100}));
  scheduler.prefilled(1, 100);
  EXPECT_EQ(counts(scheduler.plan()), (std::vector<int64_t>{70}));
  EXPECT_NE(scheduler.slot(1), scheduler.slot(2));
}

TEST(Scheduler, NoChunkEndsWithinASpan) {
  Fixture f;
  Scheduler scheduler({4, 50, 4, false, 120}, f.kv, nullptr);
  scheduler.enqueue(1, 200, 200, {{40, 60}, {61, 170}});
  scheduler.admit();
  // The first chunk of a step grows to the end of a span it would cut.
  EXPECT_EQ(counts(scheduler.plan()), (std::vector<int64_t>{60}));
  scheduler.prefilled(1, 60);
  EXPECT_EQ(counts(scheduler.plan()), (std::vector<int64_t>{110}));
  scheduler.prefilled(1, 110);
  // One that cannot is not begun beside another prompt.
  scheduler.enqueue(2, 200, 200, {{10, 40}});
  scheduler.admit();
  EXPECT_EQ(counts(scheduler.plan()), (std::vector<int64_t>{30, 10}));
}

TEST(Scheduler, TheHeadOfTheQueueIsNotOvertaken) {
  Fixture f;
  Scheduler scheduler({4, 100, 4, false}, f.kv, nullptr);
  scheduler.enqueue(1, 10, 6 * kPageSize);
  scheduler.enqueue(2, 10, 3 * kPageSize);  // does not fit beside the first
  scheduler.enqueue(3, 10, kPageSize);      // would, but came later
  EXPECT_EQ(scheduler.admit(), (std::vector<RequestId>{1}));
  EXPECT_EQ(scheduler.waiting(), 2);
  scheduler.finish(1);
  EXPECT_EQ(scheduler.admit(), (std::vector<RequestId>{2, 3}));
  scheduler.finish(2);
  scheduler.finish(3);
  EXPECT_EQ(f.kv.sequences(), 0);
}

TEST(Scheduler, SlotsAndSequencesBoundAdmission) {
  Fixture f;
  Scheduler by_sequences({2, 100, 4, false}, f.kv, nullptr);
  for (RequestId id = 1; id <= 3; ++id) by_sequences.enqueue(id, 1, 1);
  EXPECT_EQ(by_sequences.admit().size(), 2u);
  for (RequestId id = 1; id <= 3; ++id) by_sequences.finish(id);
  EXPECT_EQ(by_sequences.waiting(), 0);
  Scheduler by_slots({8, 100, 4, true}, f.kv, &f.slots);
  for (RequestId id = 11; id <= 16; ++id) by_slots.enqueue(id, 1, 1);
  EXPECT_EQ(by_slots.admit().size(), 4u);
  by_slots.finish(12);
  EXPECT_EQ(by_slots.admit(), (std::vector<RequestId>{15}));
}

TEST(CapacityLadder, DoublesRowsAndQuadruplesChunks) {
  const auto ladder = capacity_ladder(6, 500);
  std::vector<std::pair<Phase, int>> got;
  for (const Capacity& c : ladder) got.emplace_back(c.phase, c.tokens);
  EXPECT_EQ(got, (std::vector<std::pair<Phase, int>>{{Phase::kDecode, 1},
                                                     {Phase::kDecode, 2},
                                                     {Phase::kDecode, 4},
                                                     {Phase::kDecode, 6},
                                                     {Phase::kPrefill, 64},
                                                     {Phase::kPrefill, 256},
                                                     {Phase::kPrefill, 500}}));
  EXPECT_EQ(capacity_ladder(1000, 7).back().tokens, 7);
  EXPECT_EQ(capacity_ladder(1000, 7)[6].tokens, kMaxDecodeRows);
}

}  // namespace
}  // namespace decant
