#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "chat/jinja.h"

namespace decant {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(DECANT_TEST_DATA) / "templates";

std::tm parse_now(const std::string& text) {
  std::tm out{};
  EXPECT_EQ(std::sscanf(text.c_str(), "%d-%d-%dT%d:%d:%d", &out.tm_year, &out.tm_mon, &out.tm_mday,
                        &out.tm_hour, &out.tm_min, &out.tm_sec),
            6);
  out.tm_year -= 1900;
  out.tm_mon -= 1;
  out.tm_isdst = -1;
  std::tm copy = out;
  timegm(&copy);  // fills in the day of the week and of the year
  out.tm_wday = copy.tm_wday;
  out.tm_yday = copy.tm_yday;
  return out;
}

/// Renders one recorded case and holds the outcome against the record.
void check_case(const std::string& source, const std::string& name, const Json& context,
                const Json& record, const RenderOptions& options, size_t& exact) {
  std::string got;
  bool raised = false, failed = false;
  try {
    const auto parts = JinjaTemplate::parse(source, name)->render_parts(context, options);
    for (const auto& part : parts) got += part.text;
  } catch (const TemplateRenderError& error) {
    failed = true;
    raised = error.raised_by_template();
    got = error.what();
  } catch (const TemplateError& error) {
    failed = true;
    got = error.what();
  }
  if (record.contains("expected")) {
    EXPECT_FALSE(failed) << got;
    EXPECT_EQ(got, record["expected"].get<std::string>());
    exact += !failed;
  } else if (record["error"]["raised_by_template"] == true) {
    EXPECT_TRUE(raised) << got;
    // what() ends at a NUL, which a message may quote from the conversation.
    EXPECT_STREQ(got.c_str(), record["error"]["message"].get<std::string>().c_str());
    exact += raised;
  } else if (failed) {
    // Not required, but it is Python's own wording that users will search for.
    EXPECT_FALSE(raised) << got;
    exact += got.find(record["error"]["message"].get<std::string>()) != std::string::npos;
  }
}

class TemplateFixture : public testing::TestWithParam<std::string> {};

TEST_P(TemplateFixture, RendersEveryCaseAsJinja2) {
  const Json file = read_json_file(kFolder / (GetParam() + ".cases.json"));
  const std::string source = read_text_file(kFolder / (GetParam() + ".jinja"));
  RenderOptions options;
  options.now = parse_now(file["now"]);
  size_t exact = 0;
  for (const bool marked : {false, true}) {
    options.marked = marked ? std::vector<std::string>{"*"} : std::vector<std::string>{};
    for (const Json& record : file["cases"]) {
      SCOPED_TRACE(record["name"].get<std::string>());
      Json context = file["implied_context"];
      for (const auto& [key, value] : record["context"].items()) context[key] = value;
      check_case(source, GetParam(), context, record, options, exact);
    }
  }
  EXPECT_GT(file["cases"].size(), 20u);
  EXPECT_GE(exact, file["cases"].size());
}

std::vector<std::string> template_names() {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder))
    if (entry.path().extension() == ".jinja") out.push_back(entry.path().stem().string());
  std::sort(out.begin(), out.end());
  return out;
}

std::string name_of(const testing::TestParamInfo<std::string>& test) { return test.param; }

INSTANTIATE_TEST_SUITE_P(Released, TemplateFixture, testing::ValuesIn(template_names()), name_of);

TEST(TemplateFixtures, AreAllThere) { EXPECT_GE(template_names().size(), 20u); }

TEST(JinjaSnippets, RenderAsJinja2) {
  const Json file = read_json_file(kFolder / "_snippets.json");
  RenderOptions options;
  options.now = parse_now(file["now"]);
  size_t exact = 0;
  for (const Json& record : file["cases"]) {
    const std::string source = record["template"];
    SCOPED_TRACE(source);
    check_case(source, "snippet", file["context"], record, options, exact);
  }
  EXPECT_EQ(file["cases"].size(), 80u);
  EXPECT_GE(exact, 75u);
}

// Cases that scripts/differential/templates.py made with the real jinja2, in the file that
// DECANT_JINJA_CASES names.
TEST(JinjaDifferential, AgreesWithJinja2) {
  const char* path = std::getenv("DECANT_JINJA_CASES");
  if (path == nullptr) GTEST_SKIP() << "DECANT_JINJA_CASES is not set (see templates.py)";
  const Json file = read_json_file(path);
  RenderOptions options;
  options.now = parse_now(file["now"]);
  size_t exact = 0, lenient = 0;
  for (const Json& record : file["cases"]) {
    const std::string source = record["template"];
    SCOPED_TRACE(source.size() < 2000 ? source : record["name"].get<std::string>());
    options.marked = {"*"};
    const size_t before = exact;
    check_case(source, "case", record["context"], record, options, exact);
    lenient += exact == before;
  }
  RecordProperty("exact", static_cast<int>(exact));
  std::printf("%zu cases, %zu exact, %zu with another error text or more lenient\n",
              file["cases"].size(), exact, lenient);
}

}  // namespace
}  // namespace decant
