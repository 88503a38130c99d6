#include "tokenizer/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/errors.h"
#include "tokenizer/matches.h"

namespace decant::tokenizer {
namespace {

using testing::ElementsAre;

std::vector<std::string> all(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::compile(pattern, "test");
  Scratch scratch;
  find_all(*regex, text, scratch);
  std::vector<std::string> out;
  for (const Match& match : scratch.matches)
    if (match.is_match) out.emplace_back(text.substr(match.begin, match.end - match.begin));
  return out;
}

// Expectations below were read from the official library (Oniguruma) for the same patterns.
TEST(Regex, SpaceIsUnicodeWhiteSpace) {
  EXPECT_THAT(all(R"(\s)", "a\xC2\x85\xE1\xA0\x8E\xE3\x80\x80\v"),
              ElementsAre("\xC2\x85", "\xE3\x80\x80", "\v"));
  EXPECT_THAT(all(R"([^\S\n]+)", " \n\t"), ElementsAre(" ", "\t"));
}

TEST(Regex, WordTakesMarksAndConnectors) {
  EXPECT_THAT(all(R"(\w+)", "e\xCC\x81_1 \xC2\xBD"), ElementsAre("e\xCC\x81_1", "\xC2\xBD"));
  EXPECT_THAT(all(R"([\w]+)", "a \xC2\xBD"), ElementsAre("a"));
  EXPECT_THAT(all(R"(\h+)", "xdeadBEEFg"), ElementsAre("deadBEEF"));
}

TEST(Regex, ClassesNestAndIntersect) {
  EXPECT_THAT(all(R"([a-z&&[^aeiou]]+)", "hello"), ElementsAre("h", "ll"));
  EXPECT_THAT(all(R"([^a-z&&[^aeiou]]+)", "hello"), ElementsAre("e", "o"));
  EXPECT_THAT(all(R"([a[bc]d]+)", "xabcdx"), ElementsAre("abcd"));
  EXPECT_THAT(all(R"([[:alpha:][0-9]]+)", "a1-b"), ElementsAre("a1", "b"));
}

TEST(Regex, IntervalsAreNeitherPossessiveNorLazy) {
  EXPECT_THAT(all(R"(\d{1,3}+)", "12345"), ElementsAre("12345"));
  EXPECT_THAT(all(R"(a{,2}b)", "aaab"), ElementsAre("aab"));
  EXPECT_THAT(all(R"(a{2}?b)", "aab b"), ElementsAre("aab", "b"));
  EXPECT_THAT(all(R"((?:ab){1,2}+)", "ababab"), ElementsAre("ababab"));
  EXPECT_THAT(all(R"(a{x)", "a{x"), ElementsAre("a{x"));
}

TEST(Regex, OptionsMeanWhatOnigurumaMeans) {
  EXPECT_THAT(all(R"(a.b)", "a\nb"), ElementsAre());
  EXPECT_THAT(all(R"((?m:a.b))", "a\nb"), ElementsAre("a\nb"));
  EXPECT_THAT(all(R"(^b)", "a\nb"), ElementsAre("b"));
  EXPECT_THAT(all(R"(a(?i)b|c)", "aC AB aB"), ElementsAre("aC", "aB"));
  EXPECT_THAT(all(R"(x(a(?i)b)c)", "xaBc xaBC"), ElementsAre("xaBc"));
}

TEST(Regex, EmptyMatchesAdvanceByCodePoints) {
  EXPECT_THAT(all("", "a\xC3\xA9"), ElementsAre("", "", ""));
  EXPECT_THAT(all("x*", "axb"), ElementsAre("", "x", ""));
}

TEST(Regex, RefusesOtherDialects) {
  for (const char* pattern : {"(*ACCEPT)", "(?~a)", R"(\C)", "[a", "(a", "a)", R"(\p{Nope})",
                              "(?s)a", R"(\y)", R"(\)", R"([\)"})
    EXPECT_THROW(Regex::compile(pattern, "test"), TokenizerError) << pattern;
}

TEST(Regex, GivesUpOnCatastrophicPatterns) {
  const auto regex = Regex::compile("(?:a|aa)+[xy]", "test");
  RegexScratch scratch;
  size_t begin = 0;
  size_t end = 0;
  EXPECT_THROW(regex->find(std::string(64, 'a') + "b", 0, begin, end, scratch), RequestError);
}

}  // namespace
}  // namespace decant::tokenizer
