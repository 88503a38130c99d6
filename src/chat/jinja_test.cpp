#include "chat/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "base/json.h"

namespace decant {
namespace {

using testing::HasSubstr;

std::string render(std::string_view source, const Json& context = Json::object()) {
  return JinjaTemplate::parse(source, "test")->render(context);
}

std::string error_of(std::string_view source, const Json& context = Json::object()) {
  try {
    return "rendered: " + render(source, context);
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(Jinja, ErrorsNameTemplateLineAndType) {
  EXPECT_EQ(error_of("a\nb {{ x.y }}"), "[template] test:2: UndefinedError: 'x' is undefined");
  EXPECT_EQ(error_of("a\n{% if %}"),
            "[template] test:2: Expected an expression, got 'end of "
            "statement block'");
  EXPECT_THROW(JinjaTemplate::parse("{% for %}", "t"), TemplateError);
  try {
    render("{{ raise_exception('it is\nso') }}");
    FAIL();
  } catch (const TemplateRenderError& error) {
    EXPECT_TRUE(error.raised_by_template());
    EXPECT_STREQ(error.what(), "it is\nso");
  }
}

// Expectations below were printed by jinja2 3.1.6.
TEST(Jinja, NamesFollowJinjasSymbolAnalysis) {
  const Json context = {{"z", "ctx"}, {"y", "outer"}};
  // A name assigned later in the frame is missing in inner frames until then.
  EXPECT_EQ(render("{% for i in [1] %}[{{ z }}]{% endfor %}{% set z = 1 %}", context), "[]");
  EXPECT_EQ(render("{{ z }}{% for i in [1] %}[{{ z }}]{% endfor %}{% set z = 1 %}", context),
            "ctx[ctx]");
  EXPECT_EQ(render("{% if false %}{% set z = 1 %}{% endif %}{{ z }}", context), "ctx");
  EXPECT_EQ(render("{% set z %}<{{ z }}>{% endset %}{{ z }}", context), "<>");
  EXPECT_EQ(render("{% macro f() %}{{ q }}{% endmacro %}{% set q = 3 %}{{ f() }}"), "3");
  EXPECT_EQ(
      render("{% for i in [1,2] %}{{ y }}{% set y = i %}{{ y }} {% endfor %}{{ y }}", context),
      "outer1 outer2 outer");
  EXPECT_EQ(render("{% macro f(a, b=a) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}"
                   "{{ f(1, 2, 3, k=4) }}"),
            "12(3,){'k': 4}");
}

TEST(Jinja, LoopsAreLazyAndRecursive) {
  EXPECT_EQ(render("{% for i in [1,[2,[3]]] recursive %}{% if i is iterable %}({{ loop(i) }})"
                   "{% else %}{{ i }}@{{ loop.depth }}{% endif %}{% endfor %}"),
            "1@1(2@2(3@3))");
  EXPECT_EQ(render("{% set ns = namespace(n=0) %}{% for i in [1,2,3] if ns.n < 2 %}"
                   "{% set ns.n = i %}{{ i }}{% else %}none{% endfor %}"),
            "12");
  EXPECT_EQ(render("{% for i in [1,2,3]|select('odd') %}{{ i }}{{ loop.last }}{{ loop.length }} "
                   "{% endfor %}"),
            "1False2 3True2 ");
  EXPECT_EQ(render("{% for i in [] %}x{% else %}empty{% endfor %}"), "empty");
  EXPECT_EQ(render("{% set g = [1,2]|map('string') %}{{ g|list }}{{ g|list }}"), "['1', '2'][]");
  EXPECT_EQ(render("{% for a in [1,2,3] %}{{ loop.previtem }}<{{ a }}>{{ loop.nextitem }} "
                   "{% endfor %}"),
            "<1>2 1<2>3 2<3> ");
}

TEST(Jinja, BreakLeavesTheBlocksAround) {
  // What a filter or set block has gathered so far is lost; what the loop has printed is not.
  EXPECT_EQ(render("{% for i in [0,1] %}{{ i }}{% filter upper %}a{% break %}{% endfilter %}b"
                   "{% endfor %}c"),
            "0c");
  EXPECT_EQ(render("{% for i in [0,1] %}{{ i }}{% filter upper %}a{% continue %}{% endfilter %}b"
                   "{% endfor %}c"),
            "01c");
  EXPECT_EQ(render("{% for i in [0,1] %}{{ i }}{% set x %}a{% break %}{% endset %}b{% endfor %}"
                   "[{{ x }}]"),
            "0[]");
  EXPECT_EQ(render("{%- filter upper -%} q {%- filter upper -%} {% for i in [0,1] -%} {{ i }}x "
                   "{%- filter upper -%} a {%- break -%} {% endfilter -%} b {%- endfor -%} d "
                   "{%- endfilter -%} e {%- endfilter -%} f"),
            "Q0XDEf");
  // Only a run that reaches the end of the body keeps the loop from its else.
  EXPECT_EQ(render("{% for i in [0,1] %}{{ i }}{% filter upper %}{% break %}{% endfilter %}"
                   "{% else %}e{% endfor %}"),
            "0e");
  EXPECT_EQ(render("{% for i in [0,1] %}{{ i }}{% if i %}{% break %}{% endif %}{% else %}e"
                   "{% endfor %}"),
            "01");
}

TEST(Jinja, WhitespaceControl) {
  EXPECT_EQ(render("a  {%- if true -%}  b  {%- endif -%}  c"), "abc");
  EXPECT_EQ(render("  {%+ if true %}x{% endif +%}\ny"), "  x\ny");
  EXPECT_EQ(render("{% raw -%} {{ x }} {%- endraw %}\n!"), "{{ x }}!");
  EXPECT_EQ(render("a\n  {# c #}\nb\n"), "a\nb");
  EXPECT_EQ(render("a\r\nb\rc\n\n"), "a\nb\nc\n");
}

TEST(Jinja, StringsAndSlices) {
  EXPECT_EQ(render("{{ 'h\u00e9llo'[1] }}{{ 'h\u00e9llo'[::-1] }}{{ 'h\u00e9llo'[-3:] }}"
                   "{{ [1,2,3,4][3:0:-2] }}{{ (1,2)[5:] }}"),
            "\u00e9oll\u00e9hllo[4, 2]()");
  EXPECT_EQ(
      render("{{ 'stra\u00dfe'.upper() }} {{ '\u039f\u0394\u039f\u03a3'.lower() }} {{ "
             "'ab'.center(5, '*') }}"
             " {{ '%5.1f|%-4d|%s|%(a)s' is string }} {{ '%05.1f|%-4d|%s' % (2.25, 7, none) }}"),
      "STRASSE \u03bf\u03b4\u03bf\u03c2 **ab* True 002.2|7   |None");
  EXPECT_EQ(render("{{ ' a-b c '.split(None, 1) }}{{ ' a  b c '.rsplit(None, 1) }}"
                   "{{ 'a.b.c'.rsplit('.', 1) }}{{ 'x=1'.partition('=') }}"),
            "['a-b', 'c '][' a  b', 'c']['a.b', 'c']('x', '=', '1')");
  EXPECT_EQ(render("{{ '{:,}|{:+.2e}|{:>{w}}|{!r}|{a[0]}'.format(1234567, 0.5, 'x', 'y', w=3, "
                   "a=[9]) }}"),
            "1,234,567|+5.00e-01|  x|'y'|9");
  EXPECT_EQ(render("{{ '<b>'|e }}{{ '<'|safe + '<' }}{{ ['a\\n', \"it's\"] }}"),
            "&lt;b&gt;<&lt;['a\\n', \"it's\"]");
}

TEST(Jinja, JsonIndentAndKeys) {
  EXPECT_EQ(render("{{ {'a': [1, {}], 2: []}|tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"2\": []\n}");
}

TEST(Jinja, MarksFollowTheRequestsText) {
  RenderOptions options;
  options.marked = {"m"};
  const Json context = {{"m", " <a> "}, {"s", "<s>"}};
  const auto parts = [&](std::string_view source) {
    std::string out;
    for (const auto& part : JinjaTemplate::parse(source, "t")->render_parts(context, options))
      out += part.from_message ? "[" + part.text + "]" : part.text;
    return out;
  };
  EXPECT_EQ(parts("{{ s + m.strip() + s }}"), "<s>[<a>]<s>");
  EXPECT_EQ(parts("{{ '%s|%s' % (s, m|trim) }}"), "<s>|[<a>]");
  EXPECT_EQ(parts("{{ 'x{}y'.format(m) }}"), "x[ <a> ]y");
  EXPECT_EQ(parts("{{ (s ~ m)[2:5] }}{{ (s ~ m)|upper }}"), ">[ <]<S>[ <A> ]");
  EXPECT_EQ(parts("{{ [s, m]|join(',') }}{{ {'k': m}|tojson }}"),
            "<s>,[ <a> ]{\"k\": \"[ <a> ]\"}");
  EXPECT_EQ(parts("{{ s.replace('s', m) }}{{ m.split('a')[1] }}"), "<[ <a> ]>[> ]");
  EXPECT_EQ(parts("{% set x %}{{ s }}{{ m }}{% endset %}{{ x|replace('<', '(') }}"),
            "(s>[ ]([a> ]");
}

TEST(JinjaFilters, ReverseOfAnIteratorIsAList) {
  EXPECT_EQ(render("{{ ([1, 2]|reverse)|reverse }}"), "[1, 2]");
  EXPECT_EQ(render("{{ ([1, 2]|map('string'))|reverse }}"), "['2', '1']");
  EXPECT_EQ(render("{{ [1, 2]|reverse|list }}"), "[2, 1]");
}

class Hostile : public testing::TestWithParam<const char*> {};

TEST_P(Hostile, EndsSoonWithAnError) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(render(GetParam(), {{"big", std::string(1 << 20, 'a')}}), Error);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

INSTANTIATE_TEST_SUITE_P(
    Templates, Hostile,
    testing::Values(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 20000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n ~ n) }}{% endmacro %}{{ f('abcdefgh') }}", "{{ range(100001) }}",
        "{{ 'x' * 1000000000000 }}", "{{ [0] * 1000000000000 }}", "{{ 9999999999 * 9999999999 }}",
        "{{ 2 ** 100000000 }}", "{{ '%1000000000d' % 1 }}", "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x'.center(100000000000) }}", "{{ 'x'|indent(100000000000) }}",
        "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}"
        "{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% endfor %}{{ ns.x == ns.x + [] or ns.x|tojson }}",
        "{% set ns = namespace() %}{% set ns.s = ns %}{{ ns }}",
        "{% set ns = namespace(x='a') %}{% for a in range(99999) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}"
        "{% set ns.x = ns.x + [big ~ a] %}{% endfor %}",
        "{% set ns = namespace(c=1) %}{% for a in range(99999) %}{% set ns.c = cycler(ns.c) %}"
        "{% endfor %}",
        "{% set ns = namespace(g=[1]) %}{% for a in range(99999) %}"
        "{% set ns.g = ns.g|map('string') %}{% endfor %}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set n = (big ~ 'b') %}{% for a in range(99999) %}{{ n in big * 8 }}{% endfor %}",
        "{% for a in range(99999) %}{{ (big ~ 'b').rfind(big[5:] ~ 'c') }}{% endfor %}",
        "{{ strftime_now('%c' * 3000) }}",
        "{{ (range(99999)|list * 40)|sort|length }}"
        "{% for a in range(99999) %}{{ range(99999)|sum }}{% endfor %}"));

TEST(JinjaHostile, DeepSourcesAreRefused) {
  const auto repeat = [](std::string_view text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  const int many = 100'000;
  EXPECT_THROW(render("{{ " + repeat("(", many) + "1" + repeat(")", many) + " }}"), TemplateError);
  EXPECT_THROW(render("{{ " + repeat("[", many) + " }}"), TemplateError);
  EXPECT_THROW(render("{{ " + repeat("not ", many) + "1 }}"), TemplateError);
  EXPECT_THROW(render("{{ " + repeat("-", many) + "1 }}"), TemplateError);
  EXPECT_THROW(render("{{ 1" + repeat("+1", many) + " }}"), TemplateError);
  EXPECT_THROW(render("{{ x" + repeat(".x", many) + " }}"), TemplateError);
  EXPECT_THROW(render("{{ x" + repeat("|e", many) + " }}"), TemplateError);
  EXPECT_THROW(render("{{ 1" + repeat(" if 1 else 1", many) + " }}"), TemplateError);
  EXPECT_THROW(render(repeat("{% if 1 %}", many)), TemplateError);
  EXPECT_THROW(render("{% set " + repeat("(", many) + " %}"), TemplateError);
  EXPECT_EQ(render("{{ 'a'" + repeat(" ~ 'a'", many) + " }}").size(), many + 1u);
  EXPECT_EQ(render("{% if 0 %}" + repeat("{% elif 0 %}", 2000) + "{% else %}x{% endif %}"), "x");
}

TEST(JinjaHostile, StringsCountAsMemory) {
  RenderOptions options;
  options.limits.memory_bytes = 1 << 20;
  const Json context = {{"big", std::string(300'000, 'a')}};
  const auto parsed = JinjaTemplate::parse(
      "{% set a = big ~ 'a' %}{% set b = big ~ 'b' %}{% set c = big ~ 'c' %}{{ c|length }}", "t");
  EXPECT_THROW(parsed->render(context, options), TemplateRenderError);
  options.limits.memory_bytes = 2 << 20;
  EXPECT_EQ(parsed->render(context, options), "300001");
}

TEST(JinjaHostile, DeepContextsAreRefused) {
  Json deep = 1;
  for (int i = 0; i < 5000; ++i) deep = Json::array({std::move(deep)});
  EXPECT_THAT(error_of("{{ x }}", {{"x", deep}}), HasSubstr("RecursionError"));
}

}  // namespace
}  // namespace decant
