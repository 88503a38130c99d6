#!/usr/bin/env python3
"""Holds the Jinja engine against the real jinja2 on random conversations and random expressions.

usage: templates.py CHAT_TEST [--count N] [--seed S] [--expressions N] [--folder FOLDER]
CHAT_TEST is the built test executable chat_test; jinja2 3.1.6 must be installed.
"""
import argparse
import copy
import datetime
import functools
import glob
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
NOW = datetime.datetime(2026, 3, 7, 14, 5, 9)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_render")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


@functools.lru_cache(maxsize=64)
def compiled(env, template):
    return env.from_string(template)


def record(env, name, template, context):
    case = {"name": name, "template": template, "context": context}
    try:
        case["expected"] = compiled(env, template).render(**copy.deepcopy(context))  # |indent changes a list in place
        case["expected"].encode()
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        case["error"] = {"type": type(error).__name__, "message": str(error), "raised_by_template": raised}
        case.pop("expected", None)
    except Exception as error:
        case["error"] = {"type": type(error).__name__, "message": str(error), "raised_by_template": False}
        case.pop("expected", None)
    return case


WORDS = ["hello", "World", " ", "\n", "\n\n", "  two", "<think>", "</think>", "<tool_call>", "</tool_call>", "naïve",
         "日本", "🚀", "ß", "'", '"', "\\", "<|im_end|>", "\t", "a-b", "1.5", "{{ x }}", "[TOOL_CALLS]", "<channel|>",
         "<|channel>", "ÀÉ", ".", "\u2028", "\x1f", "\x00", "<eos>", "\u3000", "<tool_response>x</tool_response>"]


def text(r, most=8):
    return "".join(r.choice(WORDS) for _ in range(r.randrange(most)))


def value(r, depth=0):
    pick = r.randrange(9 if depth < 3 else 6)
    if pick == 0: return r.choice([0, 1, -7, 123456789012, 2**53])
    if pick == 1: return r.choice([0.0, 1.0, 0.1, -2.5, 1e16, 1e-7, 3.0e20, 123.456])
    if pick == 2: return r.choice([True, False, None])
    if pick <= 5: return text(r, 4)
    if pick == 6: return [value(r, depth + 1) for _ in range(r.randrange(4))]
    return {r.choice(["b", "a", "Z", "city", "type", "items", "naïve", text(r, 3)]): value(r, depth + 1)
            for _ in range(r.randrange(4))}


def tool(r):
    schema = {"type": "object", "properties": {
        name: {"type": r.choice(["string", "number", "array", ["string", "null"]]), "description": text(r)}
        for name in r.sample(["city", "unit", "query", "n"], r.randrange(4))}}
    if r.random() < 0.5: schema["required"] = list(schema["properties"])
    function = {"name": r.choice(["get_weather", "search"]), "description": text(r), "parameters": schema}
    if r.random() < 0.1: function["return"] = {"type": "string"}
    return {"type": "function", "function": function}


def message(r, role):
    out = {"role": role}
    pick = r.random()
    if pick < 0.75: out["content"] = text(r)
    elif pick < 0.85: out["content"] = None
    elif pick < 0.95: out["content"] = [r.choice([{"type": "text", "text": text(r)}, {"type": "image"}])
                                        for _ in range(r.randrange(3))]
    if role == "assistant":
        if r.random() < 0.3: out[r.choice(["reasoning_content", "reasoning", "thinking"])] = text(r)
        if r.random() < 0.4:
            out["tool_calls"] = [{"id": r.choice(["call_1", "abcdef123", "x"]), "type": "function", "function": {
                "name": "get_weather",
                "arguments": value(r) if r.random() < 0.2 else {k: value(r, 1) for k in r.sample(["city", "unit", "n"], r.randrange(4))}}}
                for _ in range(r.randrange(1, 3))]
    if role == "tool":
        if r.random() < 0.7: out["tool_call_id"] = r.choice(["call_1", "abcdef123", "x"])
        if r.random() < 0.5: out["name"] = "get_weather"
    return out


def conversation(r):
    roles = ["system"] if r.random() < 0.5 else []
    if r.random() < 0.7:
        for _ in range(r.randrange(1, 4)):
            roles += ["user", "assistant"]
            if r.random() < 0.4: roles += ["tool"] * r.randrange(1, 3) + ["assistant"]
        if r.random() < 0.7: roles.append("user")
    else:
        roles += [r.choice(["user", "assistant", "tool", "system"]) for _ in range(r.randrange(6))]
    context = {"messages": [message(r, role) for role in roles], "bos_token": "<bos>", "eos_token": "<eos>",
               "add_generation_prompt": r.random() < 0.5,
               "tools": [tool(r) for _ in range(r.randrange(1, 3))] if r.random() < 0.4 else None}
    for name in ["enable_thinking", "thinking", "preserve_thinking", "add_vision_id", "clear_thinking"]:
        if r.random() < 0.2: context[name] = r.random() < 0.5
    if r.random() < 0.1: context["reasoning_effort"] = r.choice(["low", "high"])
    if r.random() < 0.1: context["documents"] = [{"title": text(r), "text": text(r)}]
    return context


ATOMS = ["s", "e", "n", "i", "f", "b", "l", "d", "ms", "nope", "1", "2", "-1", "0", "2.5", "'a'", "''", "'Ab c'", "none",
         "true", "[1, 'x', 2.0]", "(1, 'a')", "{'k': 1, 'j': [2]}", "range(3)", "ms[0]", "u", "[]", "{}", "'  x '"]
FILTERS = ["upper", "lower", "trim", "length", "list", "first", "last", "join", "join('-')", "string", "int", "float",
           "tojson", "tojson(indent=2)", "default('z')", "default('z', true)", "reverse", "sort", "unique|list", "title",
           "capitalize", "abs", "round", "round(1)", "replace('a', 'b')", "map('upper')|list", "map(attribute='role')|list",
           "select|list", "reject|list", "selectattr('role')|list", "selectattr('n', 'gt', 1)|list", "items|list",
           "dictsort", "sum", "min", "max", "batch(2)|list", "slice(2)|list", "indent", "indent(1, true)", "truncate(7)",
           "wordcount", "wordwrap(5)", "center(9)", "count", "format", "e", "urlencode", "trim('a')", "filesizeformat",
           "groupby('role')", "attr('role')", "sort(reverse=true)", "sort(attribute='n')"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float",
         "boolean", "true", "false", "odd", "even", "divisibleby 2", "callable", "lower", "upper", "in [1, 'a']", "eq 1",
         "lt 2", "sameas none", "ne 'a'"]
METHODS = [".upper()", ".strip()", ".split()", ".split('a')", ".split(none, 1)", ".rsplit(none, 1)", ".split(' ', 1)",
           ".replace('l', 'LL')", ".startswith('H')", ".endswith(('d', 'x'))", ".title()", ".get('k')", ".get('x', 2)",
           ".keys()|list", ".items()|list", ".values()|list", ".lstrip('H')", ".rstrip()", ".join(['x', 'y'])", ".find('l')",
           ".count('l')", ".index(1)", ".role", ".content", ".k", "['k']", "[0]", "[-1]", "[1:]", "[:-1]", "[::-1]",
           "[::2]", ".append(1)", ".isdigit()", ".isalpha()", ".format(1, k=2)", ".zfill(4)", ".partition(' ')",
           ".splitlines()", ".capitalize()", ".swapcase()", ".islower()", ".removeprefix('He')", ".center(7, '*')"]
BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or"]


def expression(r, depth=0):
    pick = r.randrange(10)
    if depth > 3 or pick < 2: return r.choice(ATOMS)
    inner = lambda: expression(r, depth + 1)
    if pick < 4: return f"({inner()})|{r.choice(FILTERS)}"
    if pick < 6: return f"({inner()}){r.choice(METHODS)}"
    if pick < 8: return f"({inner()} {r.choice(BINARY)} {inner()})"
    if pick == 8: return f"({inner()} is {r.choice(['', 'not '])}{r.choice(TESTS)})"
    return r.choice([f"({inner()} if {inner()} else {inner()})", f"(not {inner()})", f"[{inner()}, {inner()}]",
                     f"(-{inner()})", f"{{'q': {inner()}}}", f"'%s-%r' % ({inner()}, {inner()})",
                     f"'{{}}|{{!r}}'.format({inner()}, {inner()})"])


def statement(r, depth=0):
    pick = r.randrange(12)
    inner = lambda: "".join(statement(r, depth + 1) for _ in range(r.randrange(1, 3)))
    dash = lambda: r.choice(["", "", "-", "+"])
    tag = lambda body: f"{{%{dash()} {body} {dash()}%}}"
    name = lambda: r.choice(["x", "y", "s", "i"])
    if depth > 2 or pick < 2: return r.choice(["  text\n", "\n", " ", "{{ x }}", "{{ y }}", "{{ i }}", f"{{{{ {expression(r, 2)} }}}}", "{# c #}\n"])
    if pick == 2: return tag(f"if {expression(r, 2)}") + inner() + r.choice(["", tag("else") + inner()]) + tag("endif")
    if pick == 3: return tag(f"for {name()} in {expression(r, 3)}{r.choice(['', ' if x'])}") + inner() + r.choice(["", "{{ loop.index }}{{ loop.last }}", tag("break")]) + r.choice(["", tag("else") + inner()]) + tag("endfor")
    if pick == 4: return tag(f"set {name()} = {expression(r, 2)}")
    if pick == 5: return tag(f"set {name()}") + inner() + tag("endset")
    if pick == 6 and r.random() < 0.5: return tag("macro m(x, y=1)") + inner() + tag("endmacro") + "{{ m(i) }}"
    if pick == 7:
        pairs = r.choice(["d.items()", "d|items", "d|dictsort", "[(1, 'a'), ('b', none)]", "ms|groupby('role')", "l|batch(2)|list", expression(r, 3)])
        return tag(f"for x, y in {pairs}") + inner() + r.choice(["", "{{ loop.cycle('p', 'q') }}{{ loop.previtem }}", tag("continue"),
                                                                   tag("if loop.first") + tag("continue") + tag("endif") + "{{ y }}"]) + tag("endfor")
    if pick == 8:
        return tag("set ns = namespace(a=1, b='')") + tag(f"for x in {expression(r, 3)}") + tag(f"set ns.b = ns.b ~ {expression(r, 3)}") + tag(
            "set ns.a = ns.a + 1") + tag("endfor") + "{{ ns.a }}{{ ns.b }}"
    if pick == 9:
        return tag("macro w(x)") + "{{ caller(x) }}" + inner() + tag("endmacro") + tag(f"call(y) w({expression(r, 3)})") + inner() + tag("endcall")
    if pick == 10:
        return tag(f"if {expression(r, 3)}") + inner() + tag(f"elif {expression(r, 3)}") + inner() + tag("endif")
    if pick == 11:
        return tag("for m in ms recursive") + "{{ m.role }}" + r.choice(["", "{{ loop.depth }}", "{{ loop([]) }}", "{{ loop.revindex }}{{ loop.length }}"]) + inner() + tag("endfor")
    return r.choice([tag(f"with {name()} = {expression(r, 3)}") + inner() + tag("endwith"),
                     tag("filter upper") + inner() + tag("endfilter"), tag("generation") + inner() + tag("endgeneration")])


EXPRESSION_CONTEXT = {
    "s": "Hello World", "e": "", "n": None, "i": 7, "f": 2.5, "b": True, "l": [3, 1, 2],
    "d": {"b": 1, "a": "x", "items": "shadow", "k": [1]}, "u": "naïve – 日本 🚀 ß",
    "ms": [{"role": "user", "content": "q", "n": 2}, {"role": "assistant", "content": "a", "n": 1}]}


def usable(case):
    """Addresses, big integers and lone surrogates are outside of what we promise."""
    shown = case.get("expected", "").lower()  # a filter block may have changed the case of an address
    if "complex" in shown or "j)" in shown or ("** " in case["template"] and len(case["template"]) < 400): return False
    return " at 0x" not in shown and "<" + "built-in" not in shown and "<bound" not in shown and "markup(" not in shown


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("chat_test")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--expressions", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default=os.path.join(ROOT, "tests/fixtures/templates"), help="where the *.jinja are")
    args = parser.parse_args()
    assert jinja2.__version__ == "3.1.6", f"expected jinja2 3.1.6, got {jinja2.__version__}"
    warnings.simplefilter("ignore", SyntaxWarning)
    r = random.Random(args.seed)
    env = environment()
    sources = {os.path.basename(p): open(p, encoding="utf-8", newline="").read()
               for p in sorted(glob.glob(os.path.join(args.folder, "*.jinja")))}
    cases = []
    for _ in range(args.count):
        name = r.choice(sorted(sources))
        cases.append(record(env, name, sources[name], conversation(r)))
    while len(cases) < args.count + args.expressions:
        source = "{{ " + expression(r) + " }}" if r.random() < 0.6 else "".join(statement(r) for _ in range(r.randrange(1, 6)))
        case = record(env, "expression", source, EXPRESSION_CONTEXT)
        # Most random programs fail at once: those say little, one in six is kept.
        if "expected" in case or r.random() < 0.16:
            cases.append(case)
    cases = [case for case in cases if usable(case)]
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump({"now": NOW.isoformat(), "cases": cases}, file, ensure_ascii=False)
    good = sum("expected" in case for case in cases)
    print(f"{len(cases)} cases, {good} rendered by jinja2, in {file.name}", flush=True)
    result = subprocess.run([args.chat_test, "--gtest_filter=JinjaDifferential.*", "--gtest_brief=1"],
                            env=os.environ | {"DECANT_JINJA_CASES": file.name})
    if result.returncode == 0: os.unlink(file.name)
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
