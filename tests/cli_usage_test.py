"""Process tests of decant: flags, environment, tokenize, template, quantize and bad models."""
import json
import os
import re
import signal
import subprocess
import time
import unittest

from cli_fixtures import (DECANT, FIXTURES, QWEN3, TOKENIZER, CliTest, decant, environment, read_safetensors,
                          write_raw_safetensors, write_safetensors)

VERBS = ["run", "inspect", "tokenize", "template", "logits", "quantize", "bench", "graph", "eval", "list", "doctor"]


class Usage(CliTest):
    def test_help_and_version(self):
        self.assertRegex(self.good("--version").stdout, r"\Adecant \d+\.\d+\.\d+\n\Z")
        text = self.good("--help").stdout
        for verb in VERBS:
            self.assertIn(verb, text)
            explained = self.good("help", verb).stdout
            self.assertEqual(explained, self.good(verb, "--help").stdout)
            self.assertIn("Examples:", explained)
        self.assertIn("DECANT_MAX_TOKENS", self.good("help", "run").stdout)
        self.assertEqual(self.good("help").stdout, text)

    def test_wrong_flags(self):
        self.bad(2, says="help")
        self.bad(2, "nonsense", says="nonsense")
        self.bad(2, "help", "nonsense")
        for verb in VERBS:
            self.bad(2, verb, QWEN3, "--bogus", says="--bogus")
        self.bad(2, "run", QWEN3, "hi", "--ctx-size", "0", says=["--ctx-size", "got \"0\""])
        self.bad(2, "run", QWEN3, "hi", "--temperature", "nan", says=["--temperature", "nan"])
        self.bad(2, "run", QWEN3, "hi", "--device", "tpu", says="tpu")
        self.bad(2, "inspect", QWEN3, "--ctx-size", "0")

    def test_sampling_values(self):
        for flag, values in {"--max-tokens": ["0", "-1", "1.5"], "--temperature": ["nan", "-1", "101", "warm"],
                             "--top-k": ["-1", "1.5"], "--top-p": ["0", "1.5", "nan"], "--min-p": ["-0.1", "1.1"],
                             "--typical-p": ["0", "1.5", "inf"], "--repetition-penalty": ["0", "-1", "nan"],
                             "--repeat-penalty": ["0"], "--presence-penalty": ["-2.5", "3"],
                             "--frequency-penalty": ["nan", "2.01"], "--logit-bias": ["5", "5=101", "x=1", "5=nan"],
                             "--logprobs": ["-1", "21"], "--seed": ["-1", "x"], "--stop-token": ["-1", "eos"],
                             "--stop": [""]}.items():
            for value in values:
                self.bad(2, "run", QWEN3, "hi", flag, value, says=[f"{flag.replace('repeat-', 'repetition-')}: expected", f'got "{value}"'])
        self.bad(2, "run", QWEN3, "hi", "--top-p", "1.5", says='--top-p: expected a number above 0 and at most 1, got "1.5"')
        self.bad(2, "run", QWEN3, "hi", env=environment(DECANT_TYPICAL_P="2"), says=["DECANT_TYPICAL_P", "at most 1"])
        self.bad(2, "run", QWEN3, "hi", env=environment(DECANT_LOGIT_BIAS="7=x"), says=["DECANT_LOGIT_BIAS", "7=x"])

    def test_environment(self):
        model = QWEN3
        context = lambda **env: json.loads(self.good(  # noqa: E731
            "inspect", model, "--json", *env.pop("flags", []), env=environment(**env)).stdout)["memory"]["ctx_size"]
        self.assertEqual(context(DECANT_CTX_SIZE="128"), 128)
        self.assertEqual(context(DECANT_CTX_SIZE="128", flags=["--ctx-size", "256"]), 256)
        self.bad(2, "inspect", model, env=environment(DECANT_CTX_SIZE="many"), says=["DECANT_CTX_SIZE", "many"])
        self.bad(2, "inspect", model, env=environment(DECANT_JSON="perhaps"), says=["DECANT_JSON"])
        # The variable of another verb does not matter.
        self.good("inspect", model, env=environment(DECANT_TOP_P="nonsense"))

    def test_broken_pipe_is_quiet(self):
        texts = self.write("texts.json", ["hello world " * 50] * 3000)
        process = subprocess.Popen([DECANT, "tokenize", TOKENIZER, "--batch", texts], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=environment())
        process.stdout.read(10)
        process.stdout.close()
        self.assertEqual(process.stderr.read(), b"")
        process.stderr.close()
        self.assertEqual(process.wait(), 141)

    def test_full_disk(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full here")
        with open("/dev/full", "w") as full:
            result = subprocess.run([DECANT, "tokenize", TOKENIZER, "--text", "hi"], stdout=full,
                                    stderr=subprocess.PIPE, text=True, env=environment())
        self.assertEqual(result.returncode, 1)
        self.assertIn("[output]", result.stderr)


class Tokenize(CliTest):
    def test_matches_goldens(self):
        golden = json.loads((TOKENIZER / "golden.json").read_text())
        texts = ["Hello world", "", "naïve café ✓", "a\nb\t c  "]
        ids = json.loads(self.good("tokenize", TOKENIZER, "--batch", self.write("t.json", texts)).stdout)
        self.assertEqual(len(ids), len(texts))
        for text, row in zip(texts, ids):
            one = self.good("tokenize", TOKENIZER, "--text", text) if text else None
            if one:
                self.assertEqual([int(word) for word in one.stdout.split()], row)
                self.assertEqual(one.stdout, " ".join(map(str, row)) + "\n")
                as_json = self.good("tokenize", TOKENIZER, "--json", "--text", text)
                self.assertEqual(json.loads(as_json.stdout), row)
        back = self.good("tokenize", TOKENIZER, "--decode", "--json", "--batch", self.write("i.json", ids))
        self.assertEqual(json.loads(back.stdout), texts)
        self.assertTrue(golden)

    def test_special_tokens(self):
        ids = json.loads(self.good("tokenize", FIXTURES / "tokenizers/llama3", "--json", "--text", "x").stdout)
        plain = json.loads(self.good("tokenize", FIXTURES / "tokenizers/llama3", "--json", "--no-special",
                                     "--text", "x").stdout)
        self.assertEqual(ids[1:], plain)
        self.assertEqual(len(ids), len(plain) + 1)
        rows = self.write("i.json", [ids])
        text = json.loads(self.good("tokenize", FIXTURES / "tokenizers/llama3", "--decode", "--batch", rows).stdout)
        skipped = json.loads(self.good("tokenize", FIXTURES / "tokenizers/llama3", "--decode", "--batch", rows,
                                       "--skip-special").stdout)
        self.assertNotEqual(text, skipped)
        self.assertEqual(skipped[0].strip(), "x")

    def test_file_and_stdin(self):
        path = self.write("text.txt", "Hello\nworld")
        want = self.good("tokenize", TOKENIZER, "--text", "Hello\nworld").stdout
        self.assertEqual(self.good("tokenize", TOKENIZER, "--file", path).stdout, want)
        self.assertEqual(self.good("tokenize", TOKENIZER, "--file", "-", stdin="Hello\nworld").stdout, want)

    def test_bad_input(self):
        self.bad(3, "tokenize", self.folder / "absent", "--text", "x", says="absent")
        self.bad(2, "tokenize", TOKENIZER, says="--text")
        self.bad(2, "tokenize", TOKENIZER, "--text", "x", "--file", "y", says="--file")
        self.bad(2, "tokenize", TOKENIZER, "--file", self.folder / "absent.txt", says="absent.txt")
        self.bad(2, "tokenize", TOKENIZER, "--batch", self.write("a.json", '["a",\n"b"'), says="a.json:2")
        self.bad(2, "tokenize", TOKENIZER, "--batch", self.write("b.json", '["a", 5]'), says="[1]")
        self.bad(2, "tokenize", TOKENIZER, "--batch", self.write("c.json", '{"a": 5}'), says="object")
        self.bad(2, "tokenize", TOKENIZER, "--batch", self.write("d.json", '["ok, [", "\\u00e9\\"x\\ud83d y"]'),
                 says=["element 1", "\\ud83d", "offset 3"])
        self.bad(2, "tokenize", TOKENIZER, "--batch", self.write("e.json", '["\\ud83d\\ude00", "\\ude00"]'),
                 says=["element 1", "\\ude00", "offset 0"])
        for ids in ("[[-1]]", "[[1.5]]", "[[4294967296]]", '[["1"]]', "[5]", "[[true]]"):
            self.bad(2, "tokenize", TOKENIZER, "--decode", "--batch", self.write("f.json", ids), says="f.json[0]")
        self.bad(2, "tokenize", TOKENIZER, "--batch", self.write("g.json", '["a", "b", "\\ud800\\ud800"]'),
                 says=["element 2", "\\ud800", "offset 0"])
        for change, says in ((lambda j: j["model"]["vocab"].update(twice=5), "id 5 is given twice"),
                             (lambda j: j["model"]["vocab"].update(far=1 << 40), "1099511627776"),
                             (lambda j: j["model"]["merges"].append(["a", "nothing"]), "nothing"),
                             (lambda j: j.update(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}), "Precompiled")):
            broken = json.loads((TOKENIZER / "tokenizer.json").read_text())
            change(broken)
            (self.folder / "tokenizer.json").write_text(json.dumps(broken))
            self.bad(3, "tokenize", self.folder, "--text", "x", says=["tokenizer.json", says])
        path = self.folder / "latin1.txt"
        path.write_bytes(b"abc\xe9def")
        self.bad(2, "tokenize", TOKENIZER, "--file", path, says="3")


class Template(CliTest):
    def test_messages(self):
        messages = self.write("m.json", [{"role": "user", "content": "Hi"}])
        template = FIXTURES / "templates/qwen3.jinja"
        (self.folder / "chat_template.jinja").write_text(template.read_text())
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (self.folder / name).write_bytes((TOKENIZER / name).read_bytes())
        text = self.good("template", self.folder, "--messages", messages).stdout
        self.assertEqual(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        text = self.good("template", self.folder, "--messages", messages, "--no-generation-prompt").stdout
        self.assertEqual(text, "<|im_start|>user\nHi<|im_end|>\n")
        text = self.good("template", self.folder, "--messages", messages, "--var", "enable_thinking=false").stdout
        self.assertTrue(text.endswith("<think>\n\n</think>\n\n"), text)
        tools = self.write("t.json", [{"type": "function", "function": {"name": "f", "parameters": {}}}])
        self.assertIn('"name": "f"', self.good("template", self.folder, "--messages", messages, "--tools", tools).stdout)
        self.bad(2, "template", self.folder, "--messages", messages, "--var", "x=nope", says="--var x")
        self.bad(2, "template", self.folder, "--messages", self.write("n.json", [{"content": "x"}]), says="messages[0]")
        self.bad(2, "template", self.folder, says="--messages")
        self.bad(3, "template", self.folder / "absent", "--messages", messages, says="absent")
        self.bad(3, "template", QWEN3, "--messages", messages, says="--chat-template FILE")
        other = self.write("o.jinja", "{{ bos_token }}[{{ messages[0].content }}]")
        self.assertEqual(self.good("template", QWEN3, "--messages", messages, "--chat-template", other).stdout, "[Hi]")
        self.assertIn("[Hi]", self.good("template", self.folder, "--messages", messages, "--chat-template", other).stdout)
        self.bad(2, "template", "--template", other, "--context", self.write("c.json", {}), "--chat-template", other,
                 says="--template")

    def test_lone_surrogates(self):
        template = self.write("t.jinja", "{{ messages[0].content }}{{ b }}")
        (self.folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
        bad = self.write("m.json", '[{"role": "user", "content": "x"}, {"role": "user", "content": "ab\\udc00"}]')
        for flag in ("--messages", "--tools"):
            arguments = ["--messages", self.write("ok.json", [{"role": "user", "content": "x"}])] if flag == "--tools" else []
            self.bad(2, "template", self.folder, *arguments, flag, bad, says=["element 1", "\\udc00", "offset 2"])
        context = self.write("c.json", '{"messages": [{"content": "x"}], "b": "\\ud800\\u0041"}')
        self.bad(2, "template", "--template", template, "--context", context, says=["element 1", "\\ud800", "offset 0"])

    def test_file(self):
        template = self.write("t.jinja", "{{ a }}-{{ b|default('none') }}-{{ strftime_now('%Y %j %A %H:%M:%S') }}\n\n")
        context = self.write("c.json", {"a": "é\n"})
        result = self.good("template", "--template", template, "--context", context, "--now", "2024-02-29T23:59:58")
        self.assertEqual(result.stdout, "é\n-none-2024 060 Thursday 23:59:58\n")
        for time_text in ("2023-02-29", "yesterday", "2024-01-01T25:00", "2024-01-01T10:00:00x", "2024-01-01T10:00:00."):
            self.bad(2, "template", "--template", template, "--context", context, "--now", time_text, says="--now")
        self.good("template", "--template", template, "--context", context, "--now", "2024-01-01T10:00:00.25+02:00")
        self.bad(2, "template", "--template", template, says="--context")
        self.bad(2, "template", QWEN3, "--template", template, "--context", context, says="MODEL")

    def test_errors_of_the_template(self):
        context = self.write("c.json", {})
        raising = self.write("r.jinja", "{{ raise_exception('roles must alternate') }}")
        result = self.bad(1, "template", "--template", raising, "--context", context, says="roles must alternate")
        self.assertEqual(result.stderr, "decant: error: [template] roles must alternate\n")
        self.bad(3, "template", "--template", self.write("s.jinja", "a\n{% if %}"), "--context", context, says="s.jinja:2")
        self.bad(1, "template", "--template", self.write("u.jinja", "{{ a.b.c }}"), "--context", context, says="u.jinja:1")


class Quantize(CliTest):
    def source(self):
        """The MLX fixtures were made from layers 0 and 2 of the zoo model."""
        model = self.copy_model(name="source")
        tensors = {}
        for name, entry in read_safetensors(QWEN3 / "model.safetensors").items():
            if ".layers.1." not in name:
                tensors[name.replace(".layers.2.", ".layers.1.")] = entry
        write_safetensors(model / "model.safetensors", tensors)
        return self.edit_config(model, num_hidden_layers=2, layer_types=["full_attention"] * 2)

    def test_writes_what_mlx_writes(self):
        target = self.folder / "out"
        self.good("quantize", self.source(), target, "--format", "4bit")
        want = read_safetensors(FIXTURES / "mlx/qwen3-4bit/model.safetensors")
        got = read_safetensors(target / "model.safetensors")
        self.assertEqual(want, got)
        self.assertEqual(json.loads((target / "config.json").read_text())["quantization"]["group_size"], 64)
        self.good("inspect", target)

    def test_micro_formats(self):
        source = self.source()
        for name in ("mxfp4", "mxfp8", "nvfp4"):
            self.good("quantize", source, self.folder / name, "--format", name)
            self.assertEqual(read_safetensors(self.folder / name / "model.safetensors"),
                             read_safetensors(FIXTURES / f"mlx/qwen3-{name}/model.safetensors"))
            self.assertIn(name, self.good("inspect", self.folder / name).stdout)

    def test_search_and_shards(self):
        result = self.good("quantize", QWEN3, self.folder / "out", "--format", "nvfp4", "--search", "--shard-size", "40KB")
        lines = result.stderr.splitlines()
        found, nearest = map(float, re.search(r"relative error (\S+), rounded to nearest (\S+) ", lines[-2]).groups())
        self.assertLess(found, nearest)
        self.assertRegex(lines[-1], r"\Awrote .*out \(nvfp4, \d\.\d+ bits per weight, .* shards\), peak memory .*iB\Z")
        shards = sorted(self.folder.glob("out/model-*.safetensors"))
        self.assertGreater(len(shards), 3)
        self.good("inspect", self.folder / "out")
        self.bad(2, "quantize", QWEN3, self.folder / "o", "--format", "4bit", "--shard-size", "some", says="shard-size")

    def test_groups_and_recipes(self):
        self.good("quantize", self.source(), self.folder / "g32", "--format", "4bit", "--group", "32")
        self.assertEqual(read_safetensors(self.folder / "g32/model.safetensors"),
                         read_safetensors(FIXTURES / "mlx/qwen3-4bit-g32/model.safetensors"))
        rules = self.write("rules.json", {"name": "mine", "bits": 4, "group_size": 64, "rules": [
            {"pattern": "*down_proj", "bits": 8, "group_size": 32}, {"pattern": "*embed_tokens", "keep": True}]})
        self.good("quantize", QWEN3, self.folder / "mine", "--recipe", rules)
        names = read_safetensors(self.folder / "mine/model.safetensors")
        self.assertNotIn("model.embed_tokens.scales", names)
        self.good("quantize", QWEN3, self.folder / "mixed", "--recipe", "mixed_4_6")
        self.good("quantize", QWEN3, self.folder / "dashes", "--recipe", "mixed-4-6")
        self.assertEqual(read_safetensors(self.folder / "mixed/model.safetensors"),
                         read_safetensors(self.folder / "dashes/model.safetensors"))
        moe = FIXTURES / "zoo/qwen3_moe"
        for name in ("nvfp4-experts", "glm-demolition"):
            self.good("quantize", moe, self.folder / name, "--recipe", name)
            self.good("inspect", self.folder / name)

    def test_bad_input(self):
        self.bad(3, "quantize", self.folder / "absent", self.folder / "o", "--format", "4bit", says="absent")
        self.bad(2, "quantize", QWEN3, self.folder / "o", "--format", "7bit", says="7bit")
        self.bad(2, "quantize", QWEN3, self.folder / "o", "--format", "4bit", "--group", "48", says="48")
        self.bad(2, "quantize", QWEN3, self.folder / "o", says="--format")
        self.write("file", "x")
        self.bad(2, "quantize", QWEN3, self.folder, "--format", "4bit", says=str(self.folder))
        self.bad(3, "quantize", FIXTURES / "mlx/qwen3-4bit", self.folder / "o", "--format", "4bit", says="quantis")
        self.assertFalse((self.folder / "o").exists())


class BadModels(CliTest):
    """Every verb that opens a model refuses it in the same way; inspect stands for them."""

    def test_folder(self):
        self.bad(3, "inspect", self.folder / "absent", says="absent")
        self.bad(3, "inspect", self.folder, says="config.json")
        self.bad(3, "run", self.folder / "absent", says="expected a model folder or the name of a model here")
        self.bad(3, "run", self.folder / "absent", "hi", says="expected a model folder or the name of a model here")
        self.bad(3, "logits", self.folder / "absent", "--tokens", self.write("t.json", [1]), "--output",
                 self.folder / "o", says="absent")
        self.bad(3, "graph", self.folder / "absent", says="absent")
        self.bad(3, "bench", self.folder / "absent", says="absent")
        self.bad(3, "graph", "--dummy", self.folder / "absent.json", says="absent.json")
        self.bad(2, "graph", says="--dummy")

    def test_config(self):
        model = self.copy_model()
        (model / "config.json").write_text('{\n"model_type": "qwen3",\n"hidden_size": }')
        self.bad(3, "inspect", model, says="config.json:3")
        (model / "config.json").write_text('{"model_type": "qwen3", "model_type": "llama"}')
        self.bad(3, "inspect", model, says=["duplicate key", "model_type"])
        other = self.edit_config(self.copy_model(name="other"), model_type="martian")
        self.bad(3, "inspect", other, says=["martian", "qwen3", "llama", "qwen3_moe"])
        wrong = self.edit_config(self.copy_model(name="wrong"), hidden_size=96)
        self.bad(3, "inspect", wrong, says=["(384,96)", "(384,64)"])
        float_size = self.edit_config(self.copy_model(name="float"), hidden_size=64.5)
        self.bad(3, "inspect", float_size, says=["hidden_size", "64.5"])
        bits = self.edit_config(self.copy_model(FIXTURES / "mlx/qwen3-4bit", "bits"),
                                quantization={"group_size": 64, "bits": 7})
        self.bad(3, "inspect", bits, says="7")
        group = self.edit_config(self.copy_model(FIXTURES / "mlx/qwen3-4bit", "group"),
                                 quantization={"group_size": 48, "bits": 4})
        self.bad(3, "inspect", group, says="48")

    def test_safetensors(self):
        sharded = self.copy_model(FIXTURES / "mlx/qwen3-4bit-sharded", "sharded")
        shard = sorted(sharded.glob("model-*.safetensors"))[0]
        shard.unlink()
        self.bad(3, "inspect", sharded, says=shard.name)
        model = self.copy_model()
        path = model / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        self.bad(3, "inspect", model, says="model.safetensors")
        path.write_bytes(whole[:4])
        self.bad(3, "inspect", model, says="model.safetensors")
        tensors = read_safetensors(QWEN3 / "model.safetensors")
        entry = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
        write_raw_safetensors(path, '{"a":' + entry % (0, 8) + ',"b":' + entry % (4, 12) + "}", bytes(12))
        self.bad(3, "inspect", model, says="model.safetensors")
        write_raw_safetensors(path, '{"a":' + entry % (0, 8) + ',"a":' + entry % (8, 16) + "}", bytes(16))
        self.bad(3, "inspect", model, says="twice")
        missing = dict(tensors)
        del missing["model.norm.weight"]
        write_safetensors(path, missing)
        self.bad(3, "inspect", model, says="model.norm.weight")
        write_safetensors(path, {**tensors, "model.layers.0.extra.weight": ("F32", [1], bytes(4))})
        self.bad(3, "inspect", model, says="model.layers.0.extra.weight")


class Signals(CliTest):
    def test_signals_end_the_program_and_leave_nothing_behind(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            config = self.write("config.json", {**json.loads((QWEN3 / "config.json").read_text()),
                                                "hidden_size": 1024, "intermediate_size": 8192, "vocab_size": 100000,
                                                "num_hidden_layers": 48, "layer_types": None})
            process = subprocess.Popen([DECANT, "bench", "--dummy", config, "--tokens", "100000", "--context", "0"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       env=environment(TMPDIR=str(self.folder)))
            deadline = time.monotonic() + 60
            while not list(self.folder.glob("decant-dummy-*/*")) and process.poll() is None:
                self.assertLess(time.monotonic(), deadline, "no dummy weights appeared")
                time.sleep(0.02)
            process.send_signal(number)
            out, error = process.communicate(timeout=30)
            self.assertEqual((process.returncode, out, error), (code, "", ""))
            self.assertEqual(list(self.folder.glob("decant-dummy-*")), [])


if __name__ == "__main__":
    unittest.main()
