"""Process tests of decant: inspect, graph, logits, bench and run, on tiny models."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
import unittest

from cli_fixtures import (DECANT, FIXTURES, QWEN3, CliTest, environment, floats, ints, make_chat_model,
                          read_safetensors, write_raw_safetensors)

CONFIG = QWEN3 / "config.json"


class Inspect(CliTest):
    def test_counts(self):
        report = json.loads(self.good("inspect", QWEN3, "--ctx-size", "128", "--json").stdout)
        tensors = read_safetensors(QWEN3 / "model.safetensors")
        elements = 0
        for _, shape, _ in tensors.values():
            count = 1
            for size in shape:
                count *= size
            elements += count
        self.assertEqual((report["family"], report["parameters"]), ("qwen3", elements))
        # 3 layers, keys and values of 2 heads of 64, 2 bytes each.
        self.assertEqual(report["memory"]["kv"], 128 * 3 * 2 * 2 * 64 * 2)
        memory = report["memory"]
        self.assertEqual(memory["total"], memory["weights"] + memory["kv"] + memory["states"])
        self.assertEqual(sum(module["parameters"] for module in report["modules"]), elements)
        per_token = report["bytes_per_token"]
        self.assertEqual(per_token["total"], per_token["weights"] + per_token["kv"])
        self.assertGreater(per_token["kv"], 0)

    def test_draft_layers_are_shown_and_not_counted(self):
        model = FIXTURES / "mtp/glm_moe_dsa"
        report = json.loads(self.good("inspect", model, "--json").stdout)
        tensors = read_safetensors(model / "model.safetensors")
        draft = sum(1 for name in tensors if name.startswith("model.layers.3."))
        self.assertGreater(draft, 20)
        self.assertGreater(report["draft_layer_bytes"], 100_000)
        self.assertNotIn("eh_proj", json.dumps(report["modules"]))
        self.assertIn("draft layer", self.good("inspect", model).stdout)
        self.assertNotIn("draft", self.good("inspect", QWEN3).stdout)

    def test_formats(self):
        text = self.good("inspect", FIXTURES / "mlx/qwen3_moe-mixed_4_6").stdout
        self.assertIn("4bit", text)
        self.assertIn("6bit", text)

    def test_formats_of_other_tools(self):
        report = json.loads(self.good("inspect", FIXTURES / "hf_formats/ct-mixed", "--json").stdout)
        kinds = {(m["module"], m.get("stored_as"), m["format"]) for m in report["modules"]}
        self.assertIn(("layers.*.self_attn.q_proj", "int4-g32", "4bit-g32"), kinds)
        self.assertIn(("layers.*.mlp.up_proj", "fp8-row", "bf16"), kinds)
        self.assertIn(("layers.*.mlp.up_proj", "fp8-tensor", "bf16"), kinds)
        self.assertIn(("layers.*.self_attn.o_proj", None, "bf16"), kinds)  # the one that was ignored
        # Two fp8 modules and the biases and scales of four kinds of integers.
        up = 256 * 128 * 2
        q, k, gate, down = 128 * 4 * 2, 64 * 2 * 8, 256 * 2, 128 * 2 * 8
        self.assertEqual(report["memory"]["converted"], 2 * (up + q + k + gate + down))
        text = self.good("inspect", FIXTURES / "hf_formats/awq4").stdout
        self.assertIn("awq4-g64 -> 4bit-g64", text)
        self.assertIn("converted at load", text)
        self.bad(3, "quantize", FIXTURES / "hf_formats/awq4", self.folder / "out", "--format", "8bit",
                 says=["already quantised (awq)", "rounded a second time"])
        self.good("quantize", FIXTURES / "hf_formats/fp8", self.folder / "out", "--format", "mxfp8")
        self.assertIn("mxfp8", self.good("inspect", self.folder / "out").stdout)
        broken = self.copy_model(FIXTURES / "hf_formats/awq4", "broken")
        config = json.loads((broken / "config.json").read_text())
        config["quantization_config"]["quant_method"] = "hqq"
        (broken / "config.json").write_text(json.dumps(config))
        self.bad(3, "inspect", broken, says=["quant_method", "hqq"])
        self.bad(2, "inspect", QWEN3, "--ctx-size", "1000000", says="32768")


class Graph(CliTest):
    def test_table_histogram_and_picture(self):
        table = self.good("graph", QWEN3).stdout
        self.assertIn("nodes", table.splitlines()[-1])
        counts = {line.split()[1]: int(line.split()[0])
                  for line in self.good("graph", QWEN3, "--histogram", "--device", "reference").stdout.splitlines()}
        self.assertEqual(counts["attention"], 3)
        self.assertEqual(counts["sample"], 1)
        dot = self.folder / "g.dot"
        self.good("graph", "--dummy", CONFIG, "--phase", "prefill", "--dot", dot)
        self.assertTrue(dot.read_text().startswith("digraph"))
        got = json.loads(self.good("graph", QWEN3, "--json").stdout)
        self.assertEqual(len(got["nodes"]), int(re.search(r"(\d+) nodes", table)[1]))
        self.assertEqual(sum(got["histogram"].values()), len(got["nodes"]))
        for key, value in got["total"].items():
            self.assertEqual(sum(node[key] for node in got["nodes"]), value, key)
        self.assertGreater(got["total"]["weight_bytes"], 0)
        self.bad(2, "graph", QWEN3, "--json", "--histogram", says="--json")
        self.bad(2, "graph", QWEN3, "--dummy", CONFIG, says="both")
        self.bad(2, "graph", QWEN3, "--phase", "training", says="--phase")
        self.bad(2, "graph", "--dummy", CONFIG, "--format", "9bit", says="9bit")


class Logits(CliTest):
    def setUp(self):
        super().setUp()
        golden = read_safetensors(QWEN3 / "golden.safetensors")
        self.ids = ints(golden["input_ids"])
        self.want = floats(golden["logits"])
        self.bound = 1e-4 * (max(self.want) - min(self.want))

    def logits(self, ids, *flags):
        out = self.folder / "out.safetensors"
        self.good("logits", QWEN3, "--tokens", self.write("ids.json", ids), "--output", out, *flags)
        return read_safetensors(out)

    def assert_near(self, got, want):
        self.assertEqual(len(got), len(want))
        self.assertLessEqual(max(abs(a - b) for a, b in zip(got, want)), self.bound)

    def test_matches_the_official_implementation(self):
        for flags in ((), ("--chunk", "7"), ("--decode-from", "5"), ("--decode-from", "0"), ("--device", "reference")):
            with self.subTest(flags):
                tensors = self.logits(self.ids, "--exact", *flags)
                self.assertEqual(list(tensors), ["logits"])
                self.assertEqual(tensors["logits"][1], [len(self.ids), 384])
                self.assert_near(floats(tensors["logits"]), self.want)

    def test_rows_run_as_one_batch(self):
        for flags in ((), ("--decode-from", "4")):
            rows = [self.ids, self.ids[:9]]
            tensors = self.logits(rows, "--exact", *flags)
            self.assertEqual(sorted(tensors), ["logits.0", "logits.1"])
            self.assert_near(floats(tensors["logits.0"]), self.want)
            self.assert_near(floats(tensors["logits.1"]), self.want[:9 * 384])

    def test_bad_input(self):
        out = self.folder / "o.safetensors"
        for ids, says in (([1, 384], "384"), ([1, -1], "[1]"), ([], "[]"), ([[1], []], "row 1"), ({"a": 1}, "object"),
                          ([[1], 2], "[1]"), ([1, 2.5], "2.5")):
            path = self.write("ids.json", ids)
            if says == "[]":
                says = "array of 0"
            self.bad(2, "logits", QWEN3, "--tokens", path, "--output", out, says=says)
        good = self.write("ids.json", [1, 2])
        self.bad(2, "logits", QWEN3, "--tokens", good, "--output", out, "--decode-from", "3", says="--decode-from")
        self.bad(2, "logits", QWEN3, "--tokens", self.folder / "absent.json", "--output", out, says="absent.json")
        self.bad(1, "logits", QWEN3, "--tokens", good, "--output", self.folder / "no/such/o.safetensors", says="no/such")
        self.bad(2, "logits", QWEN3, "--tokens", good, says="--output")
        self.assertFalse(out.exists())


class Bench(CliTest):
    SMALL = ("--prompt", "8,16", "--context", "8,64", "--batch", "1,2", "--tokens", "4", "--repeat", "1")

    def test_json(self):
        report = json.loads(self.good("bench", "--dummy", CONFIG, "--format", "8bit", *self.SMALL, "--json").stdout)
        self.assertGreater(report["probe_gb_s"], 0)
        phases = [row["phase"] for row in report["rows"]]
        self.assertEqual(phases, ["prefill"] * 2 + ["decode"] * 4 + ["load"])
        for row in report["rows"]:
            if row["phase"] == "load":
                self.assertGreater(row["seconds"], 0)
                continue
            self.assertEqual(set(row), {"phase", "batch", "context", "tokens", "tok_s", "gb_s", "probe_gb_s", "share"})
            self.assertGreater(row["tok_s"], 0)
            if row["phase"] == "decode":
                self.assertAlmostEqual(row["share"], row["gb_s"] / row["probe_gb_s"], places=6)
            else:
                self.assertIsNone(row["share"])

    def test_counts_the_bytes_that_inspect_counts(self):
        model = FIXTURES / "mlx/qwen3-8bit"
        per_token = json.loads(self.good("inspect", model, "--ctx-size", "1001", "--json").stdout)["bytes_per_token"]
        report = json.loads(self.good("bench", model, "--prompt", "8", "--context", "999", "--batch", "1", "--tokens",
                                      "2", "--repeat", "1", "--json").stdout)
        row = next(row for row in report["rows"] if row["phase"] == "decode")
        self.assertAlmostEqual(row["gb_s"] * 1e9 / row["tok_s"], per_token["total"], delta=1)

    def test_other_forms(self):
        rows = self.folder / "rows.csv"
        out = self.folder / "rows.json"
        table = self.good("bench", QWEN3, *self.SMALL, "--csv", rows, "--json", out, "--profile").stdout
        self.assertEqual(len(rows.read_text().splitlines()), 1 + 6 + 2)
        self.assertEqual(len(json.loads(out.read_text())["rows"]), 7)
        self.assertIn("time by op", table)
        self.assertTrue(self.good("bench", QWEN3, *self.SMALL, "--csv", "-").stdout.startswith("phase,"))
        self.bad(2, "bench", QWEN3, "--context", "40000", says="32768")
        self.bad(2, "bench", QWEN3, "--tokens", "1", says="--tokens")


class Run(CliTest):
    def setUp(self):
        super().setUp()
        self.model = make_chat_model(self.folder / "chat")

    def test_one_shot(self):
        flags = ("--max-tokens", "12", "--temperature", "0", "--exact")
        first = self.good("run", self.model, "Hello there", *flags)
        self.assertTrue(first.stdout.endswith("\n"))
        self.assertFalse(first.stdout.endswith("\n\n"))
        self.assertRegex(first.stderr, r"\Aprompt \d+ tokens, TTFT [\d.]+ s, prefill [\d.]+ tok/s, decode [\d.]+ tok/s "
                                       r"\(12 tokens, length\), peak memory [\d.]+ \w+\n\Z")
        self.assertEqual(self.good("run", self.model, "Hello there", *flags).stdout, first.stdout)
        piped = self.good("run", self.model, *flags, stdin="Hello there\n")
        self.assertEqual(piped.stdout, first.stdout)
        self.assertEqual(self.good("run", self.model, "Hello there", "--quiet", *flags).stderr, "")
        self.assertNotEqual(self.good("run", self.model, "Hello there", "--system", "Be brief", *flags).stdout,
                            first.stdout)
        both = self.good("run", self.model, "Hello", *flags, stdin="there\n")
        joined = self.good("run", self.model, "Hello\n\nthere", *flags)
        self.assertEqual(both.stdout, joined.stdout)
        env = environment(DECANT_DEMO_MODEL=str(self.model))
        self.assertEqual(self.good("run", *flags, stdin="Hello there", env=env).stdout, first.stdout)

    def test_json(self):
        flags = ("--max-tokens", "12", "--temperature", "0", "--exact")
        plain = self.good("run", self.model, "Hello there", *flags)
        result = self.good("run", self.model, "Hello there", *flags, "--json", "--logprobs", "2", "--seed", "7")
        self.assertEqual(result.stderr, "")
        got = json.loads(result.stdout)
        self.assertEqual(got["text"].rstrip("\n") + "\n", plain.stdout)
        self.assertEqual((got["model_type"], got["finish"], got["stop_string"], got["stop_token"], got["seed"],
                          got["reasoning"], got["reasoning_tokens"]), ("qwen3", "length", None, None, 7, "", 0))
        self.assertEqual(len(got["tokens"]), 12)
        self.assertEqual([entry["token"] for entry in got["logprobs"]], got["tokens"])
        for entry in got["logprobs"]:
            self.assertEqual(len(entry["top"]), 2)
            self.assertEqual(entry["top"][0], {key: entry[key] for key in ("token", "text", "logprob")})
        self.assertEqual((got["figures"]["prompt_tokens"], got["figures"]["completion_tokens"]),
                         (int(plain.stderr.split()[1]), 12))
        for name in ("ttft_seconds", "prefill_tok_s", "decode_tok_s", "peak_memory_bytes"):
            self.assertGreater(got["figures"][name], 0, name)
        stop = got["text"][4:7]
        cut = json.loads(self.good("run", self.model, "Hello there", *flags, "--json", "--stop", stop).stdout)
        self.assertEqual((cut["finish"], cut["stop_string"]), ("stop", stop))
        self.assertNotIn("logprobs", cut)
        raw = json.loads(self.good("run", self.model, "--raw", "Hello there", *flags, "--json").stdout)
        self.assertEqual(raw["text"].rstrip("\n") + "\n",
                         self.good("run", self.model, "--raw", "Hello there", *flags).stdout)
        self.assertNotIn("reasoning", raw)
        self.bad(2, "run", self.model, "Hi", "--json", "--show-thinking", says="--json")

    def test_special_tokens_in_messages(self):
        added = json.loads((self.model / "tokenizer.json").read_text())["added_tokens"]
        token = next(t["content"] for t in added if t["special"] and len(t["content"]) > 8)
        count = lambda *flags: int(self.good("run", self.model, token * 3, "--max-tokens", "1", *flags).stderr.split()[1])
        # Three tokens when they count, else their letters.
        self.assertGreater(count(), count("--parse-special"))
        self.assertEqual(count("--parse-special"),
                         int(self.good("run", self.model, "", "--max-tokens", "1").stderr.split()[1]) + 3)

    def test_raw_is_what_the_template_gives(self):
        flags = ("--max-tokens", "8", "--temperature", "0", "--exact", "--quiet")
        messages = self.write("m.json", [{"role": "user", "content": "Hi"}])
        prompt = self.good("template", self.model, "--messages", messages).stdout
        self.assertEqual(self.good("run", self.model, "--raw", prompt, *flags).stdout,
                         self.good("run", self.model, "Hi", *flags).stdout)
        other = self.write("other.jinja", "{{ messages[0].content }} so")
        self.assertEqual(self.good("run", self.model, "--chat-template", other, "Hi", *flags).stdout,
                         self.good("run", self.model, "--raw", "Hi so", *flags).stdout)

    def test_sampling(self):
        flags = ("--max-tokens", "12", "--temperature", "1", "--quiet", "--exact")
        answers = {self.good("run", self.model, "Hi", "--seed", str(seed), *flags).stdout for seed in range(3)}
        self.assertGreater(len(answers), 1)
        self.assertEqual(self.good("run", self.model, "Hi", "--seed", "5", *flags).stdout,
                         self.good("run", self.model, "Hi", "--seed", "5", *flags).stdout)
        text = self.good("run", self.model, "Hi", "--temperature", "0", "--max-tokens", "12", "--quiet").stdout
        stop = text[4:7]
        cut = self.good("run", self.model, "Hi", "--temperature", "0", "--max-tokens", "12", "--quiet", "--stop", stop)
        self.assertEqual(cut.stdout, text[:text.index(stop)].rstrip("\n") + "\n")

    def test_more_sampling(self):
        flags = ("Hi", "--temperature", "0", "--max-tokens", "12", "--exact", "--quiet")
        plain = self.good("run", self.model, *flags, "--logprobs", "2")
        token = r'\d+ "(?:[^"\\]|\\.)*"'
        line = rf"token ({token}) logprob (-\d+\.\d{{4}}); likeliest: ({token}) (-\d+\.\d{{4}}), {token} -\d+\.\d{{4}}"
        lines = [re.fullmatch(line, each) for each in plain.stderr.splitlines()]
        self.assertEqual(len(lines), 12)
        self.assertTrue(all(lines), plain.stderr)
        for each in lines:  # greedy takes the likeliest
            self.assertEqual((each[1], each[2]), (each[3], each[4]))
        ids = [int(each[1].split()[0]) for each in lines]

        def ids_of(*more, env=None):
            result = self.good("run", self.model, *flags, "--logprobs", "0", *more, env=env)
            found = [re.fullmatch(rf"token ({token}) logprob -?\d+\.\d{{4}}", each) for each in result.stderr.splitlines()]
            self.assertTrue(all(found), result.stderr)
            return [int(each[1].split()[0]) for each in found]

        self.assertEqual(ids_of(), ids)
        self.assertNotIn(ids[0], ids_of("--logit-bias", f"{ids[0]}=-100"))
        self.assertEqual(ids_of("--logit-bias", "40=100", "--logit-bias", "41=-3,42=1"), [40] * 12)
        self.assertEqual(ids_of(env=environment(DECANT_LOGIT_BIAS="40=100,41=2")), [40] * 12)
        repeated = ids_of("--repetition-penalty", "100")
        self.assertEqual(repeated, ids_of("--repeat-penalty", "100"))
        self.assertEqual(repeated, ids_of(env=environment(DECANT_REPETITION_PENALTY="100")))
        for penalty in ("--presence-penalty", "--frequency-penalty"):
            self.assertEqual(len(ids_of(penalty, "-2")), 12)
        stop = ids[4]
        self.assertEqual(ids_of("--stop-token", str(stop), "--stop-token", "1"), ids[:ids.index(stop)])
        warm = ("--temperature", "1", "--seed", "3", "--max-tokens", "12", "--quiet")
        free = self.good("run", self.model, "Hi", *warm).stdout
        self.assertNotEqual(self.good("run", self.model, "Hi", *warm, "--typical-p", "0.01").stdout, free)
        # The defaults of the model hold where no flag is given.
        (self.model / "generation_config.json").write_text(json.dumps({"repetition_penalty": 99.0, "do_sample": False}))
        self.assertNotEqual(ids_of(), ids)
        self.assertEqual(ids_of("--repetition-penalty", "1"), ids)
        (self.model / "generation_config.json").write_text(json.dumps({"typical_p": 2}))
        self.bad(3, "run", self.model, "Hi", says=["typical_p", "generation_config.json", "at most 1"])

    def test_bad_input(self):
        self.bad(2, "run", self.model, "Hi", "--logit-bias", "1536=1", says="logit_bias: expected token ids from 0 to 1535, got 1536")
        self.bad(2, "run", self.model, "Hi", "--stop-token", "1536", says="stop_tokens: expected token ids from 0 to 1535, got 1536")
        self.bad(2, "run", self.model, "word " * 2000, says="[")
        self.bad(2, "run", self.model, "Hi", "--ctx-size", "100000", says="512")
        self.bad(2, "run", self.model, stdin="", says="prompt")
        self.bad(2, "run", self.model, "Hi", "--raw", "--system", "x", says="--raw")
        self.bad(2, "run", self.model, "Hi", "--top-p", "1.5", says="--top-p")
        (self.model / "chat_template.jinja").unlink()
        self.bad(2, "run", self.model, "Hi", says="--raw")
        self.bad(3, "run", QWEN3, "Hi", says="tokenizer.json")
        huge = make_chat_model(self.folder / "huge", positions=2_000_000_000)
        self.bad(4, "run", huge, "Hi", "--ctx-size", "2000000000", says=["[memory]", "KV cache", "weights", "largest context that fits"])

    def test_model_larger_than_memory(self):
        with open("/proc/meminfo" if os.path.exists("/proc/meminfo") else os.devnull) as info:
            total = next((int(line.split()[1]) << 10 for line in info if line.startswith("MemTotal")), 1 << 40)
        hidden, inner = 1024, 1 << 22
        layers = 2 * total // (3 * hidden * inner * 2) + 1
        config = json.loads((QWEN3 / "config.json").read_text())
        config.update(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers)
        heads, kv_heads, dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        config.pop("layer_types", None)
        shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden],
                  "lm_head.weight": [config["vocab_size"], hidden]}
        for i in range(layers):
            for name, shape in {
                    "self_attn.q_proj": [heads * dim, hidden], "self_attn.k_proj": [kv_heads * dim, hidden],
                    "self_attn.v_proj": [kv_heads * dim, hidden], "self_attn.o_proj": [hidden, heads * dim],
                    "self_attn.q_norm": [dim], "self_attn.k_norm": [dim], "mlp.gate_proj": [inner, hidden],
                    "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner], "input_layernorm": [hidden],
                    "post_attention_layernorm": [hidden]}.items():
                shapes[f"model.layers.{i}.{name}.weight"] = shape
        header, at = {}, 0
        for name, shape in shapes.items():
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
        model = self.folder / "larger"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(config))
        write_raw_safetensors(model / "model.safetensors", json.dumps(header), b"")
        try:
            os.truncate(model / "model.safetensors", (model / "model.safetensors").stat().st_size + at)
        except OSError as error:
            self.skipTest(f"no sparse file of {at} bytes here: {error}")
        tokens = self.write("tokens.json", [1, 2, 3])
        started = time.monotonic()
        self.bad(4, "logits", model, "--tokens", tokens, "--output", self.folder / "out.safetensors",
                 says=["[memory] weights: expected at most", "KV cache", "free", "--weights-from-disk"])
        self.assertLess(time.monotonic() - started, 5)

    def start(self, *arguments, **options):
        return subprocess.Popen([DECANT, "run", self.model, *arguments], env=environment(), text=True, **options)

    def test_interrupt(self):
        long = make_chat_model(self.folder / "long", positions=100_000)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = subprocess.Popen([DECANT, "run", long, "Hi", "--ctx-size", "90000", "--temperature", "1"],
                                       env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE)
            process.stdout.read(1)  # the answer has begun
            process.send_signal(number)
            process.communicate(timeout=30)
            self.assertEqual(process.returncode, code)

    def test_conversation_at_a_terminal(self):
        terminal, inside = pty.openpty()
        process = subprocess.Popen([DECANT, "run", self.model, "--max-tokens", "5", "--temperature", "0"], stdin=inside,
                                   stdout=subprocess.PIPE, stderr=inside, env=environment())
        os.close(inside)
        seen = b""

        def read_until(mark, count):
            nonlocal seen
            deadline = time.monotonic() + 60
            while seen.count(mark) < count:
                self.assertLess(time.monotonic(), deadline, seen)
                if select.select([terminal], [], [], 0.2)[0]:
                    seen += os.read(terminal, 4096)

        read_until(b">>> ", 1)
        os.write(terminal, b"Hello there\n")
        read_until(b">>> ", 2)
        os.write(terminal, b"/help\n")
        read_until(b">>> ", 3)
        self.assertIn(b"/clear", seen)
        os.write(terminal, b"/clear\nHello there\n")
        read_until(b">>> ", 5)
        os.write(terminal, b"/bye\n")
        out = process.communicate(timeout=30)[0].decode()
        os.close(terminal)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(len(out) % 2, 0)
        self.assertEqual(out[:len(out) // 2], out[len(out) // 2:])  # /clear: the same answer again


if __name__ == "__main__":
    unittest.main()
