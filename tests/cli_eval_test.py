"""Process tests of decant eval, against a float64 reference over the logits that decant logits writes."""
import json
import math
import unittest

from cli_fixtures import FIXTURES, CliTest, floats, make_chat_model, read_safetensors

DEMO = FIXTURES / "demo/gemma3n"
DEMO_4BIT = FIXTURES.parent.parent / "demo/model"


def text_of_demo():
    texts = json.loads((DEMO / "golden_texts.json").read_text())
    found = []

    def collect(value):
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, (list, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    collect(texts)
    return "\n".join(found)


def log_softmax(row):
    top = max(row)
    total = math.log(math.fsum(math.exp(x - top) for x in row)) + top
    return [x - total for x in row]


def quantile(values, q):
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def mean_and_error(values):
    mean = math.fsum(values) / len(values)
    squares = math.fsum((x - mean) ** 2 for x in values)
    return mean, math.sqrt(squares / (len(values) - 1) / len(values))


class Eval(CliTest):
    def setUp(self):
        super().setUp()
        self.text = self.write("text.txt", text_of_demo())

    def evaluate(self, *arguments):
        return json.loads(self.good("eval", *arguments, "--text", self.text, "--json").stdout)

    def ids(self, model):
        with_special = json.loads(self.good("tokenize", model, "--file", self.text, "--json").stdout)
        plain = json.loads(self.good("tokenize", model, "--file", self.text, "--json", "--no-special").stdout)
        return plain, with_special[0] if with_special != plain else None

    def reference(self, model, context, stride, exact):
        """The log-probabilities before every scored token, window by window, in float64."""
        ids, bos = self.ids(model)
        lead = [] if bos is None else [bos]
        size = context - len(lead)
        stride = stride or size
        rows, scored, done, begin = [], [], 0, 0
        while begin < len(ids):
            end = min(begin + size, len(ids))
            rows.append(lead + ids[begin:end])
            scored.append(range(max(done, begin + 1 - len(lead)), end))
            starts = begin
            scored[-1] = (starts, scored[-1])
            done = end
            if end == len(ids):
                break
            begin += stride
        out = self.folder / "logits.safetensors"
        self.good("logits", model, "--tokens", self.write("rows.json", rows), "--output", out, *(["--exact"] if exact else []))
        tensors = read_safetensors(out)
        found = []
        for i, (starts, targets) in enumerate(scored):
            width = tensors[f"logits.{i}"][1][1]
            values = floats(tensors[f"logits.{i}"])
            for target in targets:
                p = target - starts - 1 + len(lead)
                found.append((ids[target], log_softmax(values[p * width:(p + 1) * width])))
        return found, len(rows)

    def check(self, got, mine, theirs=None):
        nll, error = mean_and_error([-row[target] for target, row in mine])
        self.assertEqual(got["tokens"], len(mine))
        self.assertAlmostEqual(got["nll"], nll, delta=1e-9)
        self.assertAlmostEqual(got["nll_error"], error, delta=1e-9)
        self.assertAlmostEqual(got["perplexity"], math.exp(nll), delta=1e-7)
        self.assertAlmostEqual(got["perplexity_error"], math.exp(nll) * error, delta=1e-7)
        if theirs is None:
            self.assertNotIn("kl", got)
            return
        kl = sorted(math.fsum(math.exp(r) * (r - m) for r, m in zip(base[1], row[1])) for base, row in zip(theirs, mine))
        self.assertAlmostEqual(got["kl"]["mean"], math.fsum(kl) / len(kl), delta=1e-10)
        for key, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1)):
            self.assertAlmostEqual(got["kl"][key], quantile(kl, q), delta=1e-9, msg=key)
        same = sum(max(range(len(a[1])), key=a[1].__getitem__) == max(range(len(b[1])), key=b[1].__getitem__)
                   for a, b in zip(mine, theirs))
        self.assertAlmostEqual(got["top1_agreement"], same / len(mine), delta=1e-12)
        base, _ = mean_and_error([-row[target] for target, row in theirs])
        self.assertAlmostEqual(got["perplexity_difference"], math.exp(nll) - math.exp(base), delta=1e-7)
        difference, error = mean_and_error([b[1][b[0]] - a[1][a[0]] for a, b in zip(mine, theirs)])
        self.assertAlmostEqual(got["nll_difference"], difference, delta=1e-9)
        self.assertAlmostEqual(got["nll_difference_error"], error, delta=1e-9)

    def test_perplexity(self):
        for context, stride in ((64, None), (64, 20), (512, None)):
            got = self.evaluate(DEMO, "--context", str(context), *(["--stride", str(stride)] if stride else []))
            mine, windows = self.reference(DEMO, context, stride, exact=False)
            self.assertEqual((got["windows"], got["context"]), (windows, context))
            self.check(got, mine)
        self.assertLess(got["perplexity"], 20)  # the model knows this kind of text

    def test_against_another_model(self):
        got = self.evaluate(DEMO_4BIT, "--context", "96", "--reference", DEMO, "--reference-exact")
        mine, _ = self.reference(DEMO_4BIT, 96, None, exact=False)
        theirs, _ = self.reference(DEMO, 96, None, exact=True)
        self.check(got, mine, theirs)
        self.assertGreater(got["kl"]["mean"], 1e-4)
        self.assertEqual(got["reference"]["model"], str(DEMO))
        self.assertEqual((got["route"], got["reference"]["route"]), ("default", "exact"))
        nll, _ = mean_and_error([-row[target] for target, row in theirs])
        self.assertAlmostEqual(got["reference"]["nll"], nll, delta=1e-9)

    def test_against_the_exact_route(self):
        got = self.evaluate(DEMO_4BIT, "--context", "96", "--reference-exact")
        self.assertGreater(got["kl"]["max"], 0)
        self.assertLess(got["kl"]["mean"], 1e-3)
        same = self.evaluate(DEMO_4BIT, "--exact", "--context", "96", "--reference", DEMO_4BIT, "--reference-exact")
        self.assertEqual((same["kl"]["max"], same["top1_agreement"], same["perplexity_difference"]), (0, 1, 0))
        self.bad(2, "eval", DEMO_4BIT, "--text", self.text, "--exact", "--reference-exact", says="--reference-exact")

    def test_formats(self):
        got = self.evaluate(DEMO, "--context", "128", "--limit", "150", "--formats", "8bit,4bit,2bit-g32,mixed_3_6")
        rows = {row["model"]: row for row in got["rows"]}
        self.assertEqual(list(rows), ["bf16", "8bit", "4bit", "2bit-g32", "mixed_3_6"])
        self.assertEqual(got["text_tokens"], 150)
        self.assertNotIn("kl", rows["bf16"])
        self.assertLess(rows["8bit"]["kl"]["mean"], rows["4bit"]["kl"]["mean"])
        self.assertLess(rows["4bit"]["kl"]["mean"], rows["2bit-g32"]["kl"]["mean"])
        self.assertAlmostEqual(rows["bf16"]["bits_per_weight"], 16, delta=0.5)
        self.assertAlmostEqual(rows["8bit"]["bits_per_weight"], 8.5, delta=0.5)
        self.assertAlmostEqual(rows["4bit"]["bits_per_weight"], 4.5, delta=0.5)
        # The table holds what a quantised copy gives by itself.
        copy = self.folder / "copy"
        self.good("quantize", DEMO, copy, "--format", "4bit")
        alone = self.evaluate(copy, "--context", "128", "--limit", "150", "--reference", DEMO)
        for key in ("nll", "kl", "top1_agreement", "bytes"):
            self.assertEqual(alone[key], rows["4bit"][key], key)
        micro = self.evaluate(DEMO, "--context", "128", "--limit", "150", "--formats",
                              "mxfp8,nvfp4,mxfp4,nvfp4-experts,mixed-4-6")
        rows = {row["model"]: row for row in micro["rows"]}
        self.assertLess(rows["mxfp8"]["kl"]["mean"], rows["nvfp4"]["kl"]["mean"])
        self.assertLess(rows["nvfp4"]["kl"]["mean"], rows["mxfp4"]["kl"]["mean"])
        for name, bits in (("mxfp8", 8.25), ("nvfp4", 4.5), ("mxfp4", 4.25)):
            self.assertAlmostEqual(rows[name]["bits_per_weight"], bits, delta=0.3)
            self.assertEqual(rows[name]["format"], name)
        table = self.good("eval", DEMO, "--text", self.text, "--limit", "100", "--formats", "8bit").stdout.splitlines()
        self.assertEqual(len(table), 4)
        self.assertRegex(table[3], r"\A8bit +\d+\.\d{3} ")

    def test_text_report(self):
        text = self.good("eval", DEMO_4BIT, "--text", self.text, "--reference", DEMO, "--limit", "150").stdout
        self.assertRegex(text, r"(?m)^perplexity +\d+\.\d+ \+- \d+\.\d+$")
        self.assertRegex(text, r"(?m)^KL +mean .*99\.9 % .*max ")
        piped = self.good("eval", DEMO_4BIT, "--text", "-", "--limit", "150", stdin=self.text.read_text()).stdout
        self.assertEqual(piped.splitlines()[:3], text.splitlines()[:3])

    def test_bad_input(self):
        chat = make_chat_model(self.folder / "chat")
        self.bad(2, "eval", DEMO, "--text", self.text, "--reference", chat, says=[str(DEMO), str(chat), "vocabulary"])
        # One vocabulary in size, another in what it means.
        other = make_chat_model(self.folder / "other")
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:3]
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.bad(2, "eval", chat, "--text", self.text, "--reference", other, says=[str(chat), str(other), "at position"])
        self.bad(2, "eval", DEMO, says="--text")
        self.bad(2, "eval", DEMO, "--text", self.folder / "absent.txt", says="absent.txt")
        self.bad(2, "eval", DEMO, "--text", self.write("empty.txt", ""), says="at least 2 tokens")
        latin = self.folder / "latin.txt"
        latin.write_bytes(b"caf\xe9 au lait")
        self.bad(2, "eval", DEMO, "--text", latin, says="3")
        self.bad(2, "eval", DEMO, "--text", self.text, "--context", "64", "--stride", "65", says=["--stride", "65"])
        self.bad(2, "eval", DEMO, "--text", self.text, "--formats", "7bit", says="7bit")
        self.bad(2, "eval", DEMO, "--text", self.text, "--formats", "4bit", "--reference", chat, says="--reference")
        self.bad(3, "eval", DEMO_4BIT, "--text", self.text, "--formats", "4bit", says="already quantised")
        self.bad(3, "eval", FIXTURES / "zoo/qwen3", "--text", self.text, says="tokenizer.json")


if __name__ == "__main__":
    unittest.main()
