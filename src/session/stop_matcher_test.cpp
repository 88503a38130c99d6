#include "session/stop_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/errors.h"

namespace decant {
namespace {

/// All text shown when `text` comes in pieces of `piece` bytes.
std::pair<std::string, std::string> stream(std::vector<std::string> stops, std::string_view text,
                                           size_t piece) {
  StopMatcher matcher(std::move(stops));
  std::string shown;
  for (size_t i = 0; i < text.size() && !matcher.matched(); i += piece)
    shown += matcher.push(text.substr(i, piece));
  if (!matcher.matched()) shown += matcher.finish();
  return {shown, matcher.match()};
}

TEST(StopMatcher, CutsBetweenPiecesDoNotMatter) {
  const std::vector<std::tuple<std::vector<std::string>, std::string, std::string, std::string>>
      cases = {
          {{"END"}, "one END two", "one ", "END"},
          {{"END"}, "one EN", "one EN", ""},
          {{"aab"}, "aaaab", "aa", "aab"},       // a failed beginning overlaps the real one
          {{"abc", "b"}, "xabcx", "xa", "b"},    // whichever ends first
          {{"bc", "abc"}, "xabcx", "x", "abc"},  // the longest of those that end together
          {{"\n\n"}, "a\nb\n\nc", "a\nb", "\n\n"},
          {{"é"}, "caf\u00c3\u00e9", "caf\u00c3", "é"},
          {{}, "free", "free", ""},
      };
  for (const auto& [stops, text, shown, match] : cases)
    for (size_t piece = 1; piece <= text.size(); ++piece) {
      const auto got = stream(stops, text, piece);
      EXPECT_EQ(got.first, shown) << text << " in pieces of " << piece;
      EXPECT_EQ(got.second, match) << text << " in pieces of " << piece;
    }
}

/// The cut by definition: the earliest end of a stop string, of the longest that ends there.
std::pair<std::string, std::string> naive_cut(const std::vector<std::string>& stops,
                                              const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string head = text.substr(0, end);
    std::string match;
    for (const std::string& stop : stops)
      if (head.ends_with(stop) && stop.size() > match.size()) match = stop;
    if (!match.empty()) return {head.substr(0, end - match.size()), match};
  }
  return {text, ""};
}

// Every way to cut a text into pieces, over few letters so that stop strings begin, fail, overlap
// and contain each other.
TEST(StopMatcher, EverySplitGivesTheSameCut) {
  std::mt19937_64 random(3);
  const auto word = [&](size_t most) {
    std::string out;
    for (size_t n = 1 + random() % most; n > 0; --n) out += "ab\xc3"[random() % 3];
    return out;
  };
  int matched = 0;
  for (int i = 0; i < 120; ++i) {
    std::vector<std::string> stops;
    for (size_t n = 1 + random() % 3; n > 0; --n) stops.push_back(word(5));
    const std::string text = word(11);
    const auto expected = naive_cut(stops, text);
    matched += expected.second.empty() ? 0 : 1;
    for (uint32_t cuts = 0; cuts < 1u << (text.size() - 1); ++cuts) {
      StopMatcher matcher(stops);
      std::string shown, piece;
      for (size_t at = 0; at < text.size(); ++at) {
        piece += text[at];
        if ((cuts >> at & 1) == 0 && at + 1 < text.size()) continue;
        shown += matcher.push(piece);
        piece.clear();
        // What was shown is never taken back.
        ASSERT_TRUE(expected.first.starts_with(shown)) << shown;
      }
      if (!matcher.matched()) shown += matcher.finish();
      ASSERT_EQ(shown, expected.first) << text << " cut by " << cuts;
      ASSERT_EQ(matcher.match(), expected.second) << text << " cut by " << cuts;
    }
  }
  EXPECT_GT(matched, 40);
  EXPECT_LT(matched, 115);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBeginAStop) {
  StopMatcher matcher({"STOP", "TOP!"});
  EXPECT_EQ(matcher.push("abcS"), "abc");
  EXPECT_EQ(matcher.push("TO"), "");
  EXPECT_EQ(matcher.push("x"), "STOx");
  EXPECT_EQ(matcher.push("yTO"), "y");
  EXPECT_EQ(matcher.push("P!z"), "");
  EXPECT_EQ(matcher.match(), "TOP!");
  EXPECT_EQ(matcher.push("more") + matcher.finish(), "");
}

TEST(StopMatcher, RefusesBadStops) {
  EXPECT_THROW(StopMatcher({""}), RequestError);
  EXPECT_THROW(StopMatcher({std::string(1025, 'a')}), RequestError);
  EXPECT_THROW(StopMatcher(std::vector<std::string>(17, "a")), RequestError);
}

}  // namespace
}  // namespace decant
