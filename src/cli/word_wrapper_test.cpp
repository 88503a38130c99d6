#include "cli/word_wrapper.h"

#include <gtest/gtest.h>

#include "base/utf8.h"
#include "cli/text_width.h"

namespace decant::cli {
namespace {

std::string wrapped(std::string_view text, int columns, size_t piece) {
  WordWrapper wrapper([=] { return columns; });
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t length = std::min(piece, text.size() - at);
    while (at + length < text.size() &&
           (static_cast<unsigned char>(text[at + length]) & 0xC0) == 0x80)
      ++length;  // the engine gives whole code points
    out += wrapper.push(text.substr(at, length));
    at += length;
  }
  return out + wrapper.finish();
}

TEST(GraphemeWidth, CountsColumns) {
  const std::pair<const char*, int> cases[] = {
      {"a", 1},
      {"e\u0301", 1},  // combining acute
      {"漢", 2},
      {"ｶ", 1},                          // halfwidth
      {"👩‍👩‍👧‍👦", 2},  // joined emoji
      {"👍🏽", 2},                       // with a skin tone
      {"🇫🇷", 2},                         // a flag
      {"❤️", 2},                          // text sign drawn as emoji
      {"1️⃣", 2},                          // keycap
      {"\u1112\u1161\u11ab", 2},         // Hangul from parts
      {"\u200b", 0},                     // zero width space
      {"\xff", 1},
  };
  for (const auto& [text, width] : cases) {
    EXPECT_EQ(grapheme_length(text), std::string_view(text).size()) << text;
    EXPECT_EQ(text_width(text), width) << text;
  }
  EXPECT_EQ(text_width("a漢e\u0301👩‍👩‍👧‍👦"), 6);
  EXPECT_EQ(grapheme_length(""), 0u);
}

TEST(WordWrapper, MovesWordsDown) {
  struct Case {
    const char* text;
    int columns;
    const char* want;
  };
  const Case cases[] = {
      {"one two three", 8, "one two\nthree"},
      {"one two three", 7, "one two\nthree"},
      {"one two three", 100, "one two three"},
      {"one two three", 0, "one two three"},
      {"one   two", 6, "one\ntwo"},  // blanks at the edge go
      {"one\ntwo three", 9, "one\ntwo three"},
      {"  indented words here", 10, "  indented\nwords here"},
      {"a\tb c", 10, "a\tb\nc"},  // a tab reaches column 8
      {"see http://example.org/a/long/path now", 12, "see http://example.org/a/long/path\nnow"},
      {"x aaaaaaaaaaaaaaaaaaaa yy zz", 6, "x aaaaaaaaaaaaaaaaaaaa\nyy zz"},
      {"one two   ", 7, "one two   "},
      {"naïve cafés", 6, "naïve\ncafés"},
      {"e\u0301e\u0301 e\u0301e\u0301", 4, "e\u0301e\u0301\ne\u0301e\u0301"},
      {"漢字漢字漢字", 5, "漢字\n漢字\n漢字"},
      {"漢字、漢字", 4, "漢\n字、\n漢字"},  // the comma stays with its character
      {"漢「字」漢", 6, "漢\n「字」\n漢"},  // brackets with what they hold
      {"go 漢字", 5, "go 漢\n字"},
      {"한국어 문장", 8, "한국어\n문장"},  // Korean words stay whole
      {"ab 👩‍👩‍👧‍👦 👩‍👩‍👧‍👦", 5,
       "ab 👩‍👩‍👧‍👦\n👩‍👩‍👧‍👦"},
      {"a 🇫🇷🇩🇪", 4, "a 🇫🇷\n🇩🇪"},
  };
  for (const Case& c : cases)
    for (const size_t piece : {size_t{1}, size_t{2}, size_t{3}, size_t{1000}})
      EXPECT_EQ(wrapped(c.text, c.columns, piece), c.want)
          << c.text << " at " << c.columns << " in pieces of " << piece;
}

TEST(WordWrapper, LeavesCodeAlone) {
  const char* text =
      "long words before it\n```c++\nint value = some_function(of, many, arguments);\n```\n"
      "and words after it";
  const char* want =
      "long words\nbefore it\n```c++\nint value = some_function(of, many, arguments);\n```\n"
      "and words\nafter it";
  const char* nested =
      "~~~~\nsome words in ``` here and there\n```\nmore words in the code\n~~~~\nx y";
  for (size_t piece = 1; piece < 20; ++piece) {
    EXPECT_EQ(wrapped(text, 10, piece), want) << piece;
    EXPECT_EQ(wrapped(nested, 10, piece), nested) << piece;
  }
  // Not at the start of a line: no fence.
  EXPECT_EQ(wrapped("a ``` b c d e f", 6, 1), "a ```\nb c d\ne f");
}

TEST(WordWrapper, KeepsControlCharactersFromTheTerminal) {
  EXPECT_EQ(wrapped("a\033[2Jb\x7f\rc\u009bd", 80, 1), "a␛[2Jb␡␍c\uFFFDd");
  EXPECT_EQ(wrapped("a\r\nb", 80, 100), "a\nb");
  EXPECT_EQ(wrapped(std::string_view("a\0b", 3), 0, 1), "a␀b");
}

TEST(WordWrapper, FollowsAResize) {
  int columns = 100;
  WordWrapper wrapper([&] { return columns; });
  std::string out = wrapper.push("one two three ");
  columns = 16;
  out += wrapper.push("four five six ");
  EXPECT_EQ(out + wrapper.finish(), "one two three\nfour five six ");
}

TEST(WordWrapper, LosesAndAddsNothingButBlanks) {
  std::string text;
  const char* pieces[] = {"word",      " ",       "漢", "\n", "👩‍👩‍👧‍👦",
                          "```",       "e\u0301", "\t", "(",  "。",
                          "longerword"};
  uint32_t random = 7;
  for (int i = 0; i < 4000; ++i) {
    random = random * 1664525u + 1013904223u;
    text += pieces[(random >> 16) % std::size(pieces)];
  }
  const auto visible = [](std::string all) {
    std::erase_if(all, [](char c) { return c == ' ' || c == '\n' || c == '\t'; });
    return all;
  };
  for (const int columns : {1, 2, 7, 40}) {
    const std::string whole = wrapped(text, columns, text.size());
    EXPECT_EQ(visible(whole), visible(text));
    for (const size_t piece : {size_t{1}, size_t{5}})
      EXPECT_EQ(wrapped(text, columns, piece), whole);
  }
  // Marks without end stay bounded.
  std::string marks = "a";
  for (int i = 0; i < 20000; ++i) marks += "\u0301";
  EXPECT_EQ(wrapped(marks, 10, 2), marks);
}

}  // namespace
}  // namespace decant::cli
