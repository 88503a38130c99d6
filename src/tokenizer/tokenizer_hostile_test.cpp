// Texts and tokenizers made to hurt: linear, and fast enough to be sat through.
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

namespace decant {
namespace {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr double kSlowBuild = 30;
#else
constexpr double kSlowBuild = 1;
#endif
constexpr size_t kSmall = 250'000;
constexpr double kMaxSeconds = 1.0 * kSlowBuild;
// Four times the text takes four times as long, and some more where caches no longer hold it.
constexpr double kMaxRatio = 9;

// Seconds of this thread's own work: what else the machine does must not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string repeated(std::string_view unit, size_t bytes) {
  std::string out;
  out.reserve(bytes + unit.size());
  while (out.size() < bytes) out += unit;
  return out;
}

double encode_seconds(const Tokenizer& tokenizer, const std::string& text, int runs) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const double begin = thread_seconds();
    const auto ids = tokenizer.encode(text);
    best = std::min(best, thread_seconds() - begin);
    EXPECT_GT(ids.size() + 1, 0u);
  }
  return best;
}

void expect_linear(const Tokenizer& tokenizer, std::string_view unit, const std::string& what) {
  const double large = encode_seconds(tokenizer, repeated(unit, 4 * kSmall), 1);
  EXPECT_LT(large, kMaxSeconds) << what;
  // What is over in no time has no measurable ratio.
  if (large < 0.1 * kSlowBuild) return;
  const double small = encode_seconds(tokenizer, repeated(unit, kSmall), 3);
  const double again = encode_seconds(tokenizer, repeated(unit, 4 * kSmall), 2);
  EXPECT_LT(std::min(large, again) / small, kMaxRatio)
      << what << ": " << small << " s, then " << std::min(large, again) << " s";
}

const std::vector<std::pair<std::string, std::string>>& units() {
  static const std::vector<std::pair<std::string, std::string>> all = {
      {"letters", "a"},
      {"newlines", "\n"},
      {"spaces", " "},
      {"NUL", std::string(1, '\0')},
      {"digits", "7"},
      {"signs", "<"},
      {"apostrophes", "'"},
      {"tabs", "\t"},
      {"carriage returns", "\r\n"},
      {"accents", "\u0301\u0316"},
      {"one accent", "\u0301"},
      {"wide letters", "中"},
      {"two-byte letters", "é"},
      {"emoji", "😀"},
      {"joined emoji", "👨\u200d"},
      {"ligatures", "\uFDFA"},
      {"jamo", "\u1100\u1161"},
      {"no-break spaces", "\u00A0"},
      {"unassigned", "\U0003FFFD"},
      {"letter, space", "a "},
      {"letter, newline", "a\n"},
      {"space, newline", " \n"},
      {"letter, digit", "a1"},
      {"upper, lower", "aB"},
      {"sign, letter", ".a"},
      {"letter, accent", "e\u0301"},
      {"wide, narrow", "中a"},
      {"contractions", "'s"},
      {"half a special token", "<|im_start|"},
      {"special tokens", "<|im_start|>"},
      {"more special tokens", "<bos><eos><start_of_turn>"},
      {"metaspaces", "▁"},
      {"a long word and a space", std::string(70'000, 'b') + " "},
  };
  return all;
}

class Hostile : public testing::TestWithParam<std::string> {};

TEST_P(Hostile, TextsTakeLinearTime) {
  const auto tokenizer = Tokenizer::load(fs::path(DECANT_TEST_DATA) / "tokenizers" / GetParam());
  for (const auto& [name, unit] : units()) expect_linear(*tokenizer, unit, name);
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Hostile,
                         testing::Values("demo_qwen", "demo_gemma", "llama3", "o200k", "llama2",
                                         "kimi", "gpt2", "metaspace_first", "classic"),
                         [](const auto& test) { return test.param; });

TEST(HostileModels, TextsTakeLinearTime) {
  const Json file = read_json_file(fs::path(DECANT_TEST_DATA) / "tokenizer_features/model.json");
  size_t seen = 0;
  for (const Json& kind : file.at("kinds")) {
    const auto name = kind.at("name").get<std::string>();
    if (name.find("unigram") == std::string::npos && name.find("word") == std::string::npos &&
        name.find("whole") == std::string::npos)
      continue;
    ++seen;
    Json spec = kind.at("tokenizer");
    spec["model"] = file.at("models").at(spec["model"].get<size_t>());
    const auto tokenizer = Tokenizer::from_json(spec.dump(), "", "test");
    for (size_t i = seen % 3; i < units().size(); i += 3)
      expect_linear(*tokenizer, units()[i].second, name + ", " + units()[i].first);
  }
  EXPECT_GE(seen, 6u);
}

Json added_token(size_t id, const std::string& content, bool rstrip) {
  return {{"id", id}, {"content", content}, {"rstrip", rstrip}, {"special", id % 2 == 0}};
}

// Tokens that begin, end and continue in each other, up to the longest that is accepted.
TEST(HostileAddedTokens, OverlapsTakeLinearTime) {
  Json spec = {{"model", {{"type", "BPE"}, {"vocab", {{"x", 0}}}, {"merges", Json::array()}}}};
  const auto load = [&](const std::vector<std::string>& contents, bool rstrip) {
    spec["added_tokens"] = Json::array();
    for (size_t i = 0; i < contents.size(); ++i)
      spec["added_tokens"].push_back(added_token(1 + i, contents[i], rstrip));
    return Tokenizer::from_json(spec.dump(), "", "test");
  };
  std::vector<std::string> nested;
  for (size_t n = 2; n <= 1000; ++n) nested.push_back(std::string(n, 'a') + "b");
  const std::vector<std::pair<std::string, std::shared_ptr<const Tokenizer>>> tokenizers = {
      {"never whole", load({std::string(1023, 'a') + "b"}, false)},
      {"whole or single", load({"a", std::string(1022, 'a') + "b"}, false)},
      {"nested", load(nested, false)},
      {"takes the spaces", load({"\n\n", "\n", " "}, true)},
  };
  for (const auto& [name, tokenizer] : tokenizers)
    for (const std::string unit : {"a", "ab", "aab", "\n", " ", "\n "})
      expect_linear(*tokenizer, unit, name + " on " + quote(unit));
}

TEST(HostileAddedTokens, BothWaysOfFindingThemAgree) {
  Json spec = {
      {"model",
       {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}}}, {"merges", Json::array()}}}};
  spec["added_tokens"] = Json::array();
  const std::vector<std::string> contents = {"aab", "aaaab", "ab", "ba", "aaaaaaaaaaaaaaac", "cc"};
  for (size_t i = 0; i < contents.size(); ++i)
    spec["added_tokens"].push_back(added_token(3 + i, contents[i], false));
  const auto tokenizer = Tokenizer::from_json(spec.dump(), "", "test");
  // A long run of false starts first makes it change over; a separate text is searched the plain
  // way.
  const std::string start = repeated("aaaaaaaaaaaaaab", 60'000) + "cc";
  const auto before = tokenizer->encode(start);
  uint64_t random = 1;
  for (int round = 0; round < 300; ++round) {
    std::string text;
    std::vector<Tokenizer::Part> parts;
    for (int i = 0; i < 40; ++i) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      text += "aaaaabcc"[random >> 61];
    }
    const size_t cut = random >> 59;
    const std::string_view all = text;
    const std::vector<Tokenizer::Part> tail = {
        {all.substr(0, cut), false}, {all.substr(cut, 5), true}, {all.substr(cut + 5), false}};
    std::vector<Tokenizer::Part> whole = {{start, false}};
    whole.insert(whole.end(), tail.begin(), tail.end());
    std::vector<int32_t> expected = before;
    const auto ids = tokenizer->encode_parts(tail);
    expected.insert(expected.end(), ids.begin(), ids.end());
    ASSERT_EQ(tokenizer->encode_parts(whole), expected) << text << " plain at " << cut;
  }
}

}  // namespace
}  // namespace decant
