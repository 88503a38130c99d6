"""Writes src/tokenizer/unicode_tables.inc: what the official tokenizer library (PyPI tokenizers 0.23.3) knows of Unicode.

    python scripts/goldens/unicode_tables.py src/tokenizer/unicode_tables.inc

The library's parts follow different versions of Unicode (its normal forms 9, its patterns 16), and the system's utf8proc
and PCRE2 follow others again. So every set is asked of the library itself, code point by code point; Python's own tables
(version 14) only say where to look closer.
"""
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, ALL))
CATEGORIES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl",
              "Zp", "Cc", "Cf", "Co", "Cn"]
SCRIPTS = ["Han", "Hiragana", "Katakana", "Hangul", "Latin", "Greek", "Cyrillic", "Arabic"]


def removed_by(pre_tokenizer):
    left = set()
    for piece, _ in pre_tokenizer.pre_tokenize_str(TEXT):
        left.update(map(ord, piece))
    return set(ALL) - left


def matched(pattern):
    return removed_by(pre_tokenizers.Split(Regex(pattern), "removed"))


def alone_between_letters(pre_tokenizer):
    """Code points that are cut off from letters beside them."""
    out = set()
    for piece, _ in pre_tokenizer.pre_tokenize_str("a" + "a".join(map(chr, ALL)) + "a"):
        if "a" not in piece:
            out.update(map(ord, piece))
    return out


def words():
    """What joins a letter to one piece under the pattern \\w+|[^\\w\\s]+."""
    out = set()
    for piece, _ in pre_tokenizers.Whitespace().pre_tokenize_str(" ".join("a" + chr(c) for c in ALL if c != ord("a"))):
        if len(piece) == 2 and piece[0] == "a":
            out.add(ord(piece[1]))
    return out | {ord("a")}


def erased_by(normalizer):
    return {c for c in ALL if normalizer.normalize_str(chr(c)) == ""}


def inert_in_normal_forms():
    """Code points the normal forms of the library do not know."""
    forms = {name: getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD")}
    out = set()
    for c in ALL:
        s = chr(c)
        if unicodedata.category(s) == "Cn":
            out.add(c)
            continue
        for name, form in forms.items():
            expected, got = unicodedata.normalize(name, s), form.normalize_str(s)
            if expected != got:
                assert got == s, (hex(c), name, got)
                out.add(c)
        k = unicodedata.combining(s)
        if k > 0:
            probe = "a" + s + "\u0334" if k > 1 else "a\u0301" + s
            if forms["NFD"].normalize_str(probe) != unicodedata.normalize("NFD", probe):
                out.add(c)
        parts = unicodedata.decomposition(s).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            pair = "".join(chr(int(p, 16)) for p in parts)
            if forms["NFC"].normalize_str(pair) != unicodedata.normalize("NFC", pair):
                out.update((c, int(parts[1], 16)))
    return out


def runs(value_of):
    """(start, value) of every run of equal values."""
    out = []
    for c in range(0x110000):
        value = value_of(c)
        if not out or out[-1][1] != value:
            out.append((c, value))
    return out


def utf8_length(c):
    return len(chr(c).encode())


def stand_ins(category):
    """Code points that patterns see otherwise than a PCRE2 with Unicode 14 does, each with a long-known code point of the same
    category, script and length."""
    script = {}
    for name in SCRIPTS:
        for c in matched(r"\p{%s}" % name):
            script[c] = name
    known, strange = {}, []
    for c in ALL:
        if category[c] == "Cn":
            continue
        if unicodedata.category(chr(c)) != category[c]:
            strange.append(c)
        elif c >= 0x80:
            known.setdefault((category[c], script.get(c), utf8_length(c)), c)
            known.setdefault((category[c], utf8_length(c)), c)
    out = []
    for c in strange:
        key = (category[c], script.get(c), utf8_length(c))
        stand_in = known.get(key) or known.get((category[c], utf8_length(c)))
        if stand_in is None:
            print("no stand-in for", hex(c), key)
            continue
        if out and out[-1][1] == c - 1 and out[-1][2] == stand_in:
            out[-1][1] = c
        else:
            out.append([c, c, stand_in])
    return out


def lowercase():
    """[first, last, step, difference] of what the library lower-cases beyond ASCII."""
    form = normalizers.Lowercase()
    out = []
    for c in ALL[0x80:]:
        lower = form.normalize_str(chr(c))
        if lower == chr(c):
            continue
        if len(lower) != 1:
            assert c == 0x130 and lower == "i\u0307", hex(c)
            continue
        difference = ord(lower) - c
        last = out[-1] if out else None
        if last and last[3] == difference and (c - last[1] == last[2] or (last[0] == last[1] and c - last[1] <= 2)):
            last[2] = c - last[1]
            last[1] = c
        else:
            out.append([c, c, 1, difference])
    return out


def block(lines, name, comment, type_name, items):
    lines.append(f"// {comment}")
    lines.append(f"constexpr {type_name} {name}[] = {{")
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {item},"
    lines += [line, "};"]


def main():
    assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
    category = {}
    for name in CATEGORIES:
        for c in matched(r"\p{%s}" % name):
            assert c not in category, hex(c)
            category[c] = name
    assert len(category) == len(ALL)
    bert = lambda **on: normalizers.BertNormalizer(**{**dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False), **on})
    replaced = stand_ins(category)
    strange = {c for first, last, _ in replaced for c in range(first, last + 1)}
    sets = [
        ("word", words()), ("numeric", alone_between_letters(pre_tokenizers.Digits(individual_digits=True))),
        ("punctuation", removed_by(pre_tokenizers.Punctuation("removed"))), ("mark", erased_by(normalizers.StripAccents())),
        ("non-spacing mark", erased_by(bert(strip_accents=True))), ("dropped by BERT's cleaning", erased_by(bert(clean_text=True))),
        ("unknown to the normal forms", inert_in_normal_forms()),
        ("strange to patterns", strange | {c for c in ALL if category[c] == "Cn"}),
    ]
    table = runs(lambda c: sum((c in members) << bit for bit, (_, members) in enumerate(sets)))
    lines = ["// Written by scripts/goldens/unicode_tables.py: do not edit."]
    block(lines, "kFlagRuns", "First code point of a run << 8 | flags of the run.", "uint32_t", [f"0x{c << 8 | value:x}" for c, value in table])
    block(lines, "kStandIns", "{first, last, stand-in}: a PCRE2 of Unicode 14 takes the stand-in for what the official patterns see.", "StandIn",
          [f"{{0x{a:x}, 0x{b:x}, 0x{s:x}}}" for a, b, s in replaced])
    block(lines, "kLowercaseRuns", "{first, last, step, difference} of upper-case letters beyond ASCII.", "LowercaseRun",
          [f"{{0x{a:x}, 0x{b:x}, {step}, {d}}}" for a, b, step, d in lowercase()])
    open(sys.argv[1], "w").write("\n".join(lines) + "\n")
    print(len(table), "runs,", len(replaced), "stand-ins", {name: len(members) for name, members in sets})


if __name__ == "__main__":
    main()
