// Templates made to hurt end with an error that names the limit, in little time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <string>

#include "chat/jinja.h"

namespace decant {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr double kMaxSeconds = 60;
#else
constexpr double kMaxSeconds = 2;
#endif

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string repeated(const std::string& unit, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += unit;
  return out;
}

struct Case {
  std::string name;
  std::string source;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

class HostileTemplate : public testing::TestWithParam<Case> {};

TEST_P(HostileTemplate, EndsWithAnError) {
  const Json context = parse_json(
      R"({"messages": [{"role": "user", "content": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "n": 3})",
      "test");
  RenderOptions options;
  options.marked = {"messages"};
  const double begin = thread_seconds();
  try {
    const auto text = JinjaTemplate::parse(GetParam().source, "hostile")->render(context, options);
    FAIL() << "expected an error, got " << text.size() << " bytes";
  } catch (const TemplateRenderError& error) {
    EXPECT_FALSE(error.raised_by_template());
    EXPECT_THAT(error.what(), HasSubstr("hostile:"));
    EXPECT_THAT(
        error.what(),
        AnyOf(HasSubstr("limit"), HasSubstr("more than"), HasSubstr("at most"), HasSubstr("depth"),
              HasSubstr("RecursionError"), HasSubstr("OverflowError"), HasSubstr("MemoryError")));
  } catch (const TemplateError& error) {
    EXPECT_THAT(error.what(), HasSubstr("hostile:"));
  }
  EXPECT_LT(thread_seconds() - begin, kMaxSeconds);
}

INSTANTIATE_TEST_SUITE_P(
    Of, HostileTemplate,
    testing::Values(
        Case{"LongLoop",
             "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
             "{% endfor %}"},
        Case{"LoopWithoutOutput",
             "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}"
             "{% if x %}{% endif %}{% endfor %}{% endfor %}"},
        Case{"HugeOutput", "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}"},
        Case{"HugeRange", "{% for i in range(10 ** 12) %}{% endfor %}"},
        Case{"HugeRangeAsList", "{{ range(99999999) | list | length }}"},
        Case{"EndlessRecursion", "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}"},
        Case{"MutualRecursion",
             "{% macro a(x) %}{{ b(x) }}{% endmacro %}{% macro b(x) %}{{ a(x) }}{% endmacro %}"
             "{{ a(1) }}"},
        Case{"ExponentialRecursion",
             "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
             "{{ m(60) }}"},
        Case{"RecursiveLoop", "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}"},
        Case{"EndlessCaller",
             "{% macro w() %}{{ caller() }}{% endmacro %}"
             "{% macro v() %}{% call w() %}{{ v() }}{% endcall %}{% endmacro %}{{ v() }}"},
        Case{"StringsTimesStrings",
             "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s * 2 %}"
             "{% endfor %}{{ ns.s | length }}"},
        Case{"OneHugeMultiply", "{{ ('x' * (10 ** 9)) | length }}"},
        Case{"HugeListMultiply", "{{ ([1, 2, 3] * (10 ** 9)) | length }}"},
        Case{"ListsInLists",
             "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}"
             "{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l | length }}"},
        Case{"SharedListsPrinted",
             "{% set ns = namespace(l=[1]) %}{% for i in range(200) %}"
             "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}"},
        Case{"SharedListsCompared",
             "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(200) %}"
             "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
             "{{ ns.a == ns.b }}"},
        Case{"ReplaceThatGrows",
             "{% set ns = namespace(s='aaaaaaaaaaaaaaaaaaaa') %}{% for i in range(20) %}"
             "{% set ns.s = ns.s.replace('a', 'aaaaaaaaaaaaaaaa') %}{% endfor %}"
             "{{ ns.s | length }}"},
        Case{"JoinThatGrows",
             "{% set ns = namespace(s='abcdefgh') %}{% for i in range(20) %}"
             "{% set ns.s = ns.s | join(ns.s) %}{% endfor %}{{ ns.s | length }}"},
        Case{"WideFormat", "{{ '%999999999d' % 1 }}"},
        Case{"WideCenter", "{{ 'x' | center(2000000000) | length }}"},
        Case{"WideIndent", "{{ 'x\\ny' | indent(2000000000) | length }}"},
        Case{"HugePower", "{{ 9 ** 999999999 }}"},
        Case{"DeepParentheses",
             "{{ " + repeated("(", 100'000) + "1" + repeated(")", 100'000) + " }}"},
        Case{"DeepLists", "{{ " + repeated("[", 100'000) + repeated("]", 100'000) + " }}"},
        Case{"DeepNot", "{{ " + repeated("not ", 100'000) + "1 }}"},
        Case{"DeepMinus", "{{ " + repeated("-", 100'000) + "1 }}"},
        Case{"DeepIfs", repeated("{% if 1 %}", 20'000) + repeated("{% endif %}", 20'000)},
        Case{"DeepLoops",
             repeated("{% for i in [1] %}", 20'000) + repeated("{% endfor %}", 20'000)}),
    [](const auto& test) { return test.param.name; });

// Long, but flat: these are no reason to fail.
TEST(HostileTemplates, LongFlatOnesRender) {
  const double begin = thread_seconds();
  const auto render = [](const std::string& source) {
    return JinjaTemplate::parse(source, "flat")->render(Json::object());
  };
  EXPECT_EQ(render(repeated("{{ 1 }}", 20'000)).size(), 20'000u);
  EXPECT_EQ(render(repeated("{% if 0 %}x{% endif %}", 20'000)), "");
  EXPECT_EQ(render("{{ [" + repeated("1,", 20'000) + "] | length }}"), "20000");
  EXPECT_EQ(render(repeated("{# x #}", 50'000)), "");
  EXPECT_LT(thread_seconds() - begin, kMaxSeconds);
}

}  // namespace
}  // namespace decant
