#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/checked.h"
#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/units.h"
#include "base/utf8.h"

namespace decant {
namespace {

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::temp_directory_path() / fmt::format("decant-base-{}-{}", getpid(), name);
}

TEST(Checked, Overflow) {
  EXPECT_EQ(checked_mul<int64_t>(1LL << 40, 1LL << 30), std::nullopt);
  EXPECT_EQ(checked_mul<uint64_t>(3, 4), 12u);
  EXPECT_EQ(checked_add<int32_t>(2147483647, 1), std::nullopt);
  EXPECT_EQ(checked_cast<int32_t>(int64_t{1} << 33), std::nullopt);
  EXPECT_EQ(round_up(65, 64), 128);
}

TEST(Json, RefusesDuplicatesDepthAndTrailingBytes) {
  EXPECT_THROW(parse_json(R"({"a":1,"a":2})", "x"), ConfigError);
  EXPECT_THROW(parse_json("{} x", "x"), ConfigError);
  EXPECT_THROW(parse_json(std::string(100000, '['), "x"), ConfigError);
  EXPECT_THROW(parse_json("\"\xff\"", "x"), ConfigError);
  const Json value = parse_json(R"({"b":[1,2.5,{"c":null}],"a":"\u00e9"})", "x");
  EXPECT_EQ(value.dump(), "{\"b\":[1,2.5,{\"c\":null}],\"a\":\"\xc3\xa9\"}");
}

TEST(Json, NamesFileAndLine) {
  try {
    parse_json("{\n\n \"a\": tru\n}", "config.json");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("config.json:3"), std::string::npos) << error.what();
  }
}

TEST(Utf8, LossyAndTails) {
  EXPECT_EQ(utf8_lossy("a\xff\xe2\x82z"), "a\xEF\xBF\xBD\xEF\xBF\xBDz");
  EXPECT_EQ(utf8_lossy("\xed\xa0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(utf8_incomplete_tail("ab\xf0\x9f\x98"), 3u);
  EXPECT_EQ(utf8_incomplete_tail("ab\xc3\xa9"), 0u);
  EXPECT_EQ(utf8_first_error("ok\xc0"), 2u);
  std::string out;
  append_utf8(out, 0x1F600);
  EXPECT_EQ(out, "\xf0\x9f\x98\x80");
}

TEST(Units, Formats) {
  EXPECT_EQ(format_bytes(12), "12 B");
  EXPECT_EQ(format_bytes(3ull << 30), "3.00 GiB");
  EXPECT_EQ(format_count(4022468096), "4.02 B");
}

TEST(File, AtomicWriteLeavesNothingWithoutCommit) {
  const auto path = scratch("atomic");
  {
    AtomicFile(path).write("half");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  AtomicFile file(path);
  file.write("whole");
  file.commit();
  EXPECT_EQ(read_text_file(path), "whole");
  std::filesystem::remove(path);
}

TEST(File, CutWhileMappedReadsZerosAndIsMarked) {
  const auto path = scratch("cut");
  std::ofstream(path) << std::string(1 << 20, 'x');
  const auto mapped = MappedFile::open(path);
  EXPECT_EQ(static_cast<char>(mapped->bytes()[1000]), 'x');
  EXPECT_EQ(damaged_mapping(), "");
  std::filesystem::resize_file(path, 0);
  EXPECT_EQ(static_cast<int>(mapped->bytes()[900000]), 0);
  EXPECT_TRUE(mapped->damaged());
  EXPECT_EQ(damaged_mapping(), path.string());
  std::filesystem::remove(path);
}

TEST(Errors, ExitCodesAndCap) {
  EXPECT_EQ(exit_code(WeightError("x").kind()), 3);
  Problems problems(2);
  for (int i = 0; i < 5; ++i) problems.add(std::to_string(i));
  EXPECT_EQ(problems.text("head"), "head\n  0\n  1\n  ... and 3 more");
}

}  // namespace
}  // namespace decant
