#include "sampling/params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/errors.h"
#include "sampling/token_history.h"

namespace decant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

TEST(SamplingParams, DefaultsAndLimitsPass) {
  EXPECT_THAT(sampling_problems({}, 100), IsEmpty());
  SamplingParams most{.temperature = 100,
                      .top_k = std::numeric_limits<int32_t>::max(),
                      .top_p = 1,
                      .min_p = 1,
                      .typical_p = 1e-30f,
                      .repetition_penalty = 100,
                      .presence_penalty = -2,
                      .frequency_penalty = 2,
                      .logprobs = 20};
  for (int32_t id = 0; id < 1024; ++id)
    most.logit_bias.push_back({id, id % 2 == 0 ? 100.0f : -100});
  EXPECT_THAT(sampling_problems(most, 1024), IsEmpty());
}

TEST(SamplingParams, NameFieldRangeAndValue) {
  EXPECT_THAT(sampling_problems({.top_p = 1.5f}, 100),
              ElementsAre("top_p: expected a number above 0 and at most 1, got 1.5"));
  EXPECT_THAT(sampling_problems({.top_p = 0}, 100),
              ElementsAre("top_p: expected a number above 0 and at most 1, got 0"));
  EXPECT_THAT(sampling_problems({.temperature = -0.5f}, 100),
              ElementsAre("temperature: expected a number from 0 to 100, got -0.5"));
  EXPECT_THAT(sampling_problems({.temperature = kNan}, 100),
              ElementsAre("temperature: expected a number from 0 to 100, got nan"));
  EXPECT_THAT(sampling_problems({.top_k = -1}, 100),
              ElementsAre("top_k: expected a whole number from 0 to 2147483647, got -1"));
  EXPECT_THAT(sampling_problems({.logprobs = 21}, 100),
              ElementsAre("logprobs: expected a whole number from 0 to 20, got 21"));
  EXPECT_THAT(sampling_problems({.logprobs = -1}, 100),
              ElementsAre("logprobs: expected a whole number from 0 to 20, got -1"));
}

TEST(SamplingParams, NoNumberIsInNoRange) {
  for (const NumberRange& range : sampling_ranges()) {
    EXPECT_FALSE(range.contains(static_cast<double>(kNan))) << range.name;
    EXPECT_FALSE(range.contains(static_cast<double>(kInf))) << range.name;
    EXPECT_FALSE(range.contains(static_cast<double>(-kInf))) << range.name;
    EXPECT_FALSE(range.contains(range.high + 1)) << range.name;
    EXPECT_FALSE(range.contains(range.low - 1)) << range.name;
    EXPECT_TRUE(range.contains(range.high)) << range.name;
    EXPECT_EQ(range.contains(range.low), !range.above_low) << range.name;
    EXPECT_EQ(range.contains((range.low + range.high) / 2 + 0.25), !range.whole) << range.name;
  }
}

TEST(SamplingParams, BiasesAreCheckedOneByOne) {
  EXPECT_THAT(
      sampling_problems({.logit_bias = {{3, 101}, {100, 1}, {-1, kNan}, {4, 1}, {4, 2}}}, 100),
      ElementsAre("logit_bias[3]: expected a number from -100 to 100, got 101",
                  "logit_bias: expected token ids from 0 to 99, got 100",
                  "logit_bias: expected token ids from 0 to 99, got -1",
                  "logit_bias[-1]: expected a number from -100 to 100, got nan",
                  "logit_bias: expected each id once, got 4 twice"));
  SamplingParams many;
  many.logit_bias.resize(1025);
  EXPECT_THAT(sampling_problems(many, 100),
              ElementsAre("logit_bias: expected at most 1024 entries, got 1025"));
}

TEST(SamplingParams, AllProblemsComeAtOnce) {
  EXPECT_NO_THROW(throw_request_problems({}));
  try {
    throw_request_problems(sampling_problems({.top_p = kInf}, 10));
    FAIL() << "expected an error";
  } catch (const RequestError& error) {
    EXPECT_STREQ(error.what(), "[request] top_p: expected a number above 0 and at most 1, got inf");
  }
  try {
    throw_request_problems(
        sampling_problems({.min_p = -1, .repetition_penalty = 0, .frequency_penalty = 3}, 10));
    FAIL() << "expected an error";
  } catch (const RequestError& error) {
    for (const char* field :
         {"[request]", "min_p: ", "repetition_penalty: ", "frequency_penalty: "})
      EXPECT_THAT(error.what(), HasSubstr(field));
  }
}

TEST(TokenHistory, NamesEachTokenOnce) {
  TokenHistory history;
  history.add_prompt(std::vector<int32_t>{5, 7, 5});
  history.add_generated(9);
  history.add_generated(7);
  history.add_generated(9);
  ASSERT_EQ(history.counts().size(), 3u);
  const auto expect = [&](size_t i, int32_t id, int32_t generated, bool in_prompt) {
    EXPECT_EQ(history.counts()[i].id, id);
    EXPECT_EQ(history.counts()[i].generated, generated);
    EXPECT_EQ(history.counts()[i].in_prompt, in_prompt);
  };
  expect(0, 5, 0, true);
  expect(1, 7, 1, true);
  expect(2, 9, 2, false);
}

}  // namespace
}  // namespace decant
