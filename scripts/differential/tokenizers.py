#!/usr/bin/env python3
"""Holds `decant tokenize` against the official library (PyPI tokenizers 0.23.3) on random strings.

usage: tokenizers.py DECANT WORK [--strings N] [--seed S] [--only PART] [--freeze OUT] [--list]
DECANT is the built program, WORK a folder for what is written on the way (trained tokenizers are kept there).
Three groups of tokenizer.json, in tokenizer_kinds.py: the committed fixtures; one small file per normalizer,
pre-tokenizer, model option, decoder, post-processor and added-token flag of the format; and large ones trained here with
the exact settings of released families. Every file encodes N random strings with and without --no-special and decodes
random ids and its own encodings with and without --skip-special; the first differences are printed, the exit code is 1.
--freeze writes a small part of it with the expected results, the data of src/tokenizer/tokenizer_frozen_test.cpp.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

# This file has the name of the library it needs.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
os.environ["RUST_BACKTRACE"] = "0"  # the library panics on some inputs: a thousand backtraces take minutes
import tokenizers  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent))
from tokenizer_kinds import kinds  # noqa: E402
from tokenizer_texts import random_text  # noqa: E402

VERSION = "0.23.3"
FROZEN_TEXTS = 45


def decant(program, arguments, value, work):
    """What decant makes of a JSON list."""
    file = work / "batch.json"
    file.write_text(json.dumps(value))
    done = subprocess.run([program, "tokenize", *arguments, "--batch", str(file)], capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode().strip())
    return json.loads(done.stdout)


def random_ids(rng, tok, size, encoded):
    byte = [i for i in (tok.token_to_id("<0x%02X>" % b) for b in range(256)) if i is not None]
    kind = rng.random()
    if kind < 0.3 and encoded:
        ids = list(rng.choice(encoded))[:64]
        for _ in range(rng.randint(0, 2)):
            if ids:
                ids.insert(rng.randrange(len(ids)), rng.randrange(size))
        return ids
    if kind < 0.65 and byte:
        return [rng.choice(byte) if rng.random() < 0.75 else rng.randrange(size) for _ in range(rng.randint(1, 12))]
    if kind < 0.75:
        repeated = rng.randrange(size)
        return [repeated if rng.random() < 0.5 else rng.randrange(size) for _ in range(rng.randint(1, 10))]
    return [rng.randrange(size) for _ in range(rng.randint(1, 10))]


class Differences:
    def __init__(self):
        self.count = 0

    def compare(self, name, what, inputs, expected, got):
        wrong = [i for i in range(len(inputs)) if expected[i] != got[i]]
        for i in wrong[:3]:
            print(f"{name}: {what}: {inputs[i]!a}\n  expected {expected[i]!a}\n  got      {got[i]!a}")
        if wrong:
            print(f"{name}: {what}: {len(wrong)} of {len(inputs)} differ")
        self.count += len(wrong)


def official(tok, texts):
    """ids with and without special tokens; None where the library gives up."""
    def encode(text, special):
        try:
            return tok.encode(text, add_special_tokens=special).ids
        except BaseException:  # a panic of the Rust side is no Exception
            return None
    return [encode(t, True) for t in texts], [encode(t, False) for t in texts]


def decoded(tok, ids, skip):
    """None where the library gives up: a Strip decoder panics on some empty tokens."""
    try:
        return tok.decode(ids, skip_special_tokens=skip)
    except BaseException:
        return None


def check(program, name, spec, work, rng, count, differences):
    """Compares one tokenizer; returns texts, their ids and the decoded id lists."""
    folder = work / "now"
    folder.mkdir(exist_ok=True)
    text = json.dumps(spec, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text)
    tok = Tokenizer.from_str(text)
    tok.no_truncation()
    tok.no_padding()
    hints = [t["content"] for t in spec.get("added_tokens", [])]
    texts = [random_text(rng, hints) for _ in range(count)]
    full, bare = official(tok, texts)
    kept = [i for i in range(len(texts)) if full[i] is not None and bare[i] is not None]
    texts, full, bare = [texts[i] for i in kept], [full[i] for i in kept], [bare[i] for i in kept]
    differences.compare(name, "encode", texts, full, decant(program, [str(folder)], texts, work))
    differences.compare(name, "encode --no-special", texts, bare, decant(program, [str(folder), "--no-special"], texts, work))
    size = max(tok.get_vocab(with_added_tokens=True).values()) + 3
    lists = [random_ids(rng, tok, size, full) for _ in range(count // 2)] + [ids[:200] for ids in full[:count // 2]]
    lists = [ids for ids in lists if ids]
    pairs = [(decoded(tok, ids, False), decoded(tok, ids, True)) for ids in lists]
    lists = [ids for ids, pair in zip(lists, pairs) if None not in pair]
    shown, skipped = [p[0] for p in pairs if None not in p], [p[1] for p in pairs if None not in p]
    differences.compare(name, "decode", lists, shown, decant(program, [str(folder), "--decode"], lists, work))
    differences.compare(name, "decode --skip-special", lists, skipped,
                        decant(program, [str(folder), "--decode", "--skip-special"], lists, work))
    return texts, full, bare, lists, shown, skipped


class Frozen:
    """What of the feature group goes into the repository: one file per part of a tokenizer, equal models stored once."""

    def __init__(self):
        self.parts = {}

    def add(self, name, spec, result):
        texts, full, bare, lists, shown, skipped = result
        part = self.parts.setdefault(name.split("_")[0], {"models": [], "kinds": []})
        spec = dict(spec)
        if spec["model"] not in part["models"]:
            part["models"].append(spec["model"])
        spec["model"] = part["models"].index(spec["model"])
        decodes, encodes = (60, 10) if name.startswith("decoder") else (10, FROZEN_TEXTS)
        short = [i for i in range(len(texts)) if 0 < len(texts[i]) <= 16][:encodes]
        few = [i for i in range(len(lists)) if len(lists[i]) <= 10][:decodes]
        part["kinds"].append({
            "name": name, "tokenizer": spec, "texts": [texts[i] for i in short], "ids": [full[i] for i in short],
            "bare": {str(n): bare[i] for n, i in enumerate(short) if bare[i] != full[i]},
            "decode": [[lists[i], shown[i], skipped[i]] for i in few]})

    def write(self, out):
        out.mkdir(parents=True, exist_ok=True)
        for name, part in self.parts.items():
            (out / f"{name}.json").write_text(json.dumps(part, separators=(",", ":"), ensure_ascii=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decant")
    parser.add_argument("work", type=Path)
    parser.add_argument("--strings", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--freeze", type=Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    assert tokenizers.__version__ == VERSION, f"expected tokenizers {VERSION}, got {tokenizers.__version__}"
    options.work.mkdir(parents=True, exist_ok=True)
    frozen = Frozen()
    differences = Differences()
    total = files = 0
    for group, name, make in kinds(options.work):
        if options.only not in f"{group}/{name}":
            continue
        if options.list:
            print(f"{group}/{name}")
            continue
        rng = random.Random(f"{options.seed}/{group}/{name}")
        began = time.monotonic()
        spec = make()
        count = options.strings * (3 if group == "trained" else 1)
        before = differences.count
        try:
            result = check(options.decant, f"{group}/{name}", spec, options.work, rng, count, differences)
        except RuntimeError as error:
            print(f"{group}/{name}: decant fails: {error}")
            differences.count += 1
            continue
        total += len(result[0])
        files += 1
        if group == "feature":
            frozen.add(name, spec, result)
        print(f"{group}/{name}: {len(result[0])} strings, {differences.count - before} differences "
              f"({time.monotonic() - began:.1f} s)", flush=True)
    if options.freeze:
        frozen.write(options.freeze)
    print(f"{files} tokenizers, {total} strings, {differences.count} differences")
    return 1 if differences.count else 0


if __name__ == "__main__":
    sys.exit(main())
