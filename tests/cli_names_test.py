"""Process tests of decant: names of models, links, list, and what a disk or a reader can do to every verb."""
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import unittest

from cli_fixtures import DECANT, FIXTURES, QWEN3, TOKENIZER, CliTest, decant, environment, make_chat_model

COMMIT = "1234567890abcdef1234567890abcdef12345678"
OTHER = "1234aaaa90abcdef1234567890abcdef12345678"
SHARDED = FIXTURES / "mlx/qwen3-4bit-sharded"


class Store(CliTest):
    """A Hugging Face cache and a folder of models of the test's own."""

    def setUp(self):
        super().setUp()
        self.hub = self.folder / "hub"
        self.dir = self.folder / "models"
        self.hub.mkdir()
        self.dir.mkdir()
        self.env = environment(HF_HUB_CACHE=str(self.hub), DECANT_MODELS_DIR=str(self.dir))

    def cache(self, name, source, commit=COMMIT, main=True):
        """As huggingface_hub lays it out: snapshots link to blobs."""
        repository = self.hub / ("models--" + name.replace("/", "--"))
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir(exist_ok=True)
        for path in source.iterdir():
            blob = f"{commit[:8]}-{path.name}"
            shutil.copy(path, repository / "blobs" / blob)
            (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
        if main:
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs/main").write_text(commit)
        return snapshot


class Names(Store):
    def test_every_verb_takes_names(self):
        self.cache("org/Tiny-Qwen3", QWEN3)
        shutil.copytree(TOKENIZER, self.dir / "words")
        (self.dir / "words/config.json").write_text("{}")
        chat = make_chat_model(self.dir / "chat")
        tokens = self.write("t.json", [1, 2, 3])
        messages = self.write("m.json", [{"role": "user", "content": "Hi"}])
        text = self.write("text.txt", "Hello there, how are you today?")
        for name in ("org/Tiny-Qwen3", "Tiny-Qwen3", "org/Tiny-Qwen3@main", "Tiny-Qwen3@1234567"):
            got = json.loads(self.good("inspect", name, "--json", env=self.env).stdout)
            self.assertEqual(got, json.loads(self.good("inspect", QWEN3, "--json").stdout))
        self.good("logits", "Tiny-Qwen3", "--tokens", tokens, "--output", self.folder / "l", env=self.env)
        self.good("graph", "Tiny-Qwen3", "--histogram", env=self.env)
        self.good("quantize", "Tiny-Qwen3", self.folder / "out", "--format", "8bit", env=self.env)
        self.good("bench", "Tiny-Qwen3", "--prompt", "8", "--context", "8", "--batch", "1", "--tokens", "2", "--repeat", "1",
                  env=self.env)
        self.assertEqual(self.good("tokenize", "words", "--text", "Hello", env=self.env).stdout,
                         self.good("tokenize", TOKENIZER, "--text", "Hello").stdout)
        self.assertEqual(self.good("template", "chat", "--messages", messages, env=self.env).stdout,
                         self.good("template", chat, "--messages", messages).stdout)
        self.good("eval", "chat", "--text", text, "--reference", "chat", env=self.env)
        # The flag wins over the variable.
        self.bad(3, "tokenize", "words", "--text", "x", "--models-dir", self.folder / "none", env=self.env)
        self.good("tokenize", "words", "--text", "x", "--models-dir", self.dir, env=environment())

    def test_misses(self):
        self.cache("mlx-community/Qwen3-0.6B-4bit", QWEN3)
        for verb, *rest in (["inspect"], ["tokenize", "--text", "x"], ["logits", "--tokens", self.write("t.json", [1]),
                            "--output", self.folder / "o"], ["graph"], ["bench"], ["eval", "--text", self.write("x", "x")],
                            ["template", "--messages", self.write("m.json", [])],
                            ["quantize", self.folder / "out", "--format", "4bit"]):
            self.bad(3, verb, "Qwen3-0.6B-4bti", *rest, env=self.env,
                     says=["[model]", "Qwen3-0.6B-4bti", "nearest names: mlx-community/Qwen3-0.6B-4bit", str(self.hub),
                           str(self.dir)])
        self.bad(3, "inspect", "mlx-community/Qwen3-0.6B-4bit@dev", env=self.env, says=["dev", COMMIT])
        self.bad(2, "inspect", "mlx-community/Qwen3-0.6B-4bit@", env=self.env)
        self.bad(2, "inspect", "", env=self.env)
        self.cache("other/Qwen3-0.6B-4bit", QWEN3)
        self.bad(3, "inspect", "Qwen3-0.6B-4bit", env=self.env, says="mlx-community/Qwen3-0.6B-4bit, other/Qwen3-0.6B-4bit")

    def test_links(self):
        model = self.copy_model()
        (self.folder / "outside.json").write_text((model / "config.json").read_text())
        (model / "config.json").unlink()
        (model / "config.json").symlink_to(self.folder / "outside.json")
        result = self.bad(3, "inspect", model, says=["[model]", "config.json", "expected a file inside, got a link to",
                                                     "outside.json", "--allow-links"])
        self.assertNotIn("model.safetensors", result.stderr)
        self.good("inspect", model, "--allow-links")
        self.good("inspect", model, env=environment(DECANT_ALLOW_LINKS="1"))
        for verb, *rest in (["graph"], ["logits", "--tokens", self.write("t.json", [1]), "--output", self.folder / "o"],
                            ["quantize", self.folder / "out", "--format", "4bit"], ["tokenize", "--text", "x"]):
            self.bad(3, verb, model, *rest, says="got a link to")
        snapshot = self.cache("org/name", QWEN3)
        self.good("inspect", "org/name", env=self.env)  # links to blobs of the same model
        self.good("inspect", snapshot)
        (snapshot / "tokenizer.json").symlink_to("/etc/passwd")
        self.bad(3, "inspect", "org/name", env=self.env, says=["tokenizer.json", "/etc/passwd"])
        self.bad(3, "inspect", snapshot, says="/etc/passwd")

    def test_pickles(self):
        for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth"):
            model = self.copy_model(name="only-" + name)
            (model / "model.safetensors").rename(model / name)
            self.bad(3, "inspect", model, says=["safetensors", "pickled", name, "save_pretrained", str(model)])
            shutil.rmtree(model)


class List(Store):
    def rows(self, *flags):
        return {row["name"]: row for row in json.loads(self.good("list", "--json", *flags, env=self.env).stdout)}

    def test_rows(self):
        self.assertEqual(self.rows(), {})
        self.assertIn("no models", self.good("list", env=self.env).stdout)
        self.cache("org/one", QWEN3)
        self.cache("org/one", SHARDED, OTHER, main=False)
        self.cache("org/cut", SHARDED)
        (self.hub / f"models--org--cut/blobs/{COMMIT[:8]}-model-00002-of-00003.safetensors").unlink()
        (self.hub / "models--org--begun/blobs").mkdir(parents=True)
        shutil.copytree(FIXTURES / "demo/gemma3n", self.dir / "demo")
        shutil.copytree(QWEN3, self.dir / "org/broken")
        (self.dir / "org/broken/model.safetensors").write_bytes(b"\xff" * 64)
        shutil.copytree(QWEN3, self.dir / "martian")
        self.edit_config(self.dir / "martian", model_type="martian")
        (self.dir / "bad json").mkdir()
        (self.dir / "bad json/config.json").write_text("{")
        (self.dir / "pickle").mkdir()
        (self.dir / "pickle/config.json").write_text('{"model_type": "llama"}')
        (self.dir / "pickle/pytorch_model.bin").write_text("x")
        rows = self.rows()
        self.assertEqual(set(rows), {"org/one", "org/one@1234aaaa", "org/cut", "org/begun", "demo", "org/broken", "martian",
                                     "bad json", "pickle"})
        one = rows["org/one"]
        self.assertEqual((one["family"], one["format"], one["state"], one["supported"], one["revision"]),
                         ("qwen3", "bf16", "complete", True, COMMIT))
        self.assertEqual(one["bytes"], sum(path.stat().st_size for path in QWEN3.iterdir()))
        self.assertEqual(one["path"], str(self.hub / "models--org--one/snapshots" / COMMIT))
        self.assertEqual(rows["org/one@1234aaaa"]["format"], "4bit-g64")
        self.assertEqual(rows["org/cut"]["state"], "missing shards")
        self.assertEqual(rows["org/cut"]["missing"], ["model-00002-of-00003.safetensors"])
        self.assertEqual((rows["org/begun"]["state"], rows["org/begun"]["path"]), ("broken", None))
        self.assertIn("interrupted", rows["org/begun"]["problem"])
        self.assertEqual((rows["demo"]["family"], rows["demo"]["format"]), ("gemma3n_text", "bf16"))
        self.assertEqual(rows["org/broken"]["state"], "broken")
        self.assertIn("model.safetensors", rows["org/broken"]["problem"])
        self.assertEqual((rows["martian"]["state"], rows["martian"]["supported"]), ("complete", False))
        self.assertIn("config.json:1", rows["bad json"]["problem"])
        self.assertEqual(rows["pickle"]["state"], "no weights")
        table = self.good("list", env=self.env).stdout.splitlines()
        self.assertEqual(len(table), 1 + len(rows))
        self.assertRegex(table[0], r"\ANAME +FAMILY +FORMAT +SIZE +STATE\Z")
        for line, name in zip(table[1:], sorted(rows)):
            self.assertTrue(line.startswith(name + " "), line)
            self.assertIn(rows[name]["state"], line)
        names = self.good("list", "--names", env=self.env).stdout.split("\n")[:-1]
        self.assertEqual(names, sorted(set(rows) - {"org/begun"}))
        # Each of the names opens what its row says.
        self.good("inspect", "org/one@1234aaaa", env=self.env)

    def test_odd_places(self):
        env = environment(HF_HUB_CACHE=str(self.folder / "none"), DECANT_MODELS_DIR="")
        self.assertEqual(json.loads(self.good("list", "--json", env=env).stdout), [])
        home = self.folder / "home"
        hub = home / ".cache/huggingface/hub"
        hub.parent.mkdir(parents=True)
        self.cache("org/mine", QWEN3)
        self.hub.rename(hub)
        bare = {key: value for key, value in environment().items() if not key.startswith(("HF_", "XDG_", "HUGGINGFACE"))}
        bare["HOME"] = str(home)
        self.assertEqual(self.good("list", "--names", env=bare).stdout, "org/mine\n")
        os.symlink(hub, hub / "models--loop--x")
        self.good("list", env=bare)
        os.makedirs(self.folder / "odd/a\nb\x1b[31m")
        shutil.copy(QWEN3 / "config.json", self.folder / "odd/a\nb\x1b[31m")
        table = self.good("list", "--models-dir", self.folder / "odd", env=bare).stdout
        self.assertIn('"a\\x0ab\\x1b[31m"', table)
        self.assertNotIn("\x1b", table)
        self.assertNotIn("\x1b", self.good("list", "--names", "--models-dir", self.folder / "odd", env=bare).stdout)
        os.makedirs(os.fsencode(self.folder) + b"/bytes/\xff\xfe")
        shutil.copy(QWEN3 / "config.json", os.fsencode(self.folder) + b"/bytes/\xff\xfe/config.json")
        result = subprocess.run([DECANT, "list", "--json", "--models-dir", self.folder / "bytes"], env=bare, capture_output=True)
        self.assertEqual(result.returncode, 0)
        self.assertEqual(len(json.loads(result.stdout)), 3)  # with org/mine and the link


def drop_root_powers():
    """Root may write anywhere: in the child it loses that, so that permissions count."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


class Disk(Store):
    def commands(self):
        """One command of every verb that prints."""
        model = make_chat_model(self.folder / "chat")
        messages = self.write("m.json", [{"role": "user", "content": "Hi"}])
        text = self.write("text.txt", "Hello there, how are you today?")
        return [["--help"], ["--version"], ["help", "run"], ["--help=context"], ["inspect", model], ["inspect", model, "--json"],
                ["tokenize", model, "--text", "hi"], ["template", model, "--messages", messages], ["graph", model],
                ["bench", model, "--prompt", "8", "--context", "8", "--batch", "1", "--tokens", "2", "--repeat", "1"],
                ["list"], ["list", "--names", "--models-dir", self.folder], ["doctor"], ["doctor", "--json"],
                ["completion", "bash"], ["man"], ["man", "run"], ["eval", model, "--text", text],
                ["run", model, "Hi", "--max-tokens", "3", "--quiet"]]

    def test_full_disk(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full here")
        for command in self.commands():
            with open("/dev/full", "w") as full:
                result = subprocess.run([DECANT, *command], input="", stdout=full, stderr=subprocess.PIPE, text=True,
                                        env=self.env, timeout=120)
            self.assertEqual(result.returncode, 1, f"{command}: {result.stderr}")
            self.assertIn("decant: error: [output] cannot write to stdout: No space left", result.stderr, command)

    def test_broken_pipe(self):
        for command in self.commands():
            reader, writer = os.pipe()
            os.close(reader)
            result = subprocess.run([DECANT, *command], input="", stdout=writer, stderr=subprocess.PIPE, text=True,
                                    env=self.env, timeout=120)
            os.close(writer)
            self.assertEqual(result.returncode, 141, f"{command}: {result.stderr}")
            self.assertEqual(result.stderr, "", command)

    def test_quantize_on_a_full_disk(self):
        def tight():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        target = self.folder / "out"
        result = subprocess.run([DECANT, "quantize", QWEN3, target, "--format", "8bit"], preexec_fn=tight, text=True,
                                capture_output=True, env=self.env)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("decant: error: [", result.stderr)
        self.assertIn("File too large", result.stderr)
        self.assertEqual([path.name for path in self.folder.iterdir() if "out" in path.name], [])

    def test_read_only_target(self):
        locked = self.folder / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        try:
            for verb in (["quantize", QWEN3, locked / "out", "--format", "8bit"],
                         ["man", "--output", locked / "man"],
                         ["logits", QWEN3, "--tokens", self.write("t.json", [1]), "--output", locked / "l.safetensors"],
                         ["graph", QWEN3, "--dot", locked / "g.dot"]):
                result = subprocess.run([DECANT, *map(str, verb)], preexec_fn=drop_root_powers, text=True,
                                        capture_output=True, env=self.env)
                self.assertEqual(result.returncode, 1, f"{verb}: {result.stderr}")
                self.assertIn("locked", result.stderr)
                self.assertIn("Permission denied", result.stderr)
                self.assertEqual(list(locked.iterdir()), [])
        finally:
            locked.chmod(0o755)

    def test_unreadable_model(self):
        model = self.copy_model()
        (model / "model.safetensors").chmod(0)
        result = subprocess.run([DECANT, "inspect", model], preexec_fn=drop_root_powers, text=True, capture_output=True,
                                env=self.env)
        self.assertEqual(result.returncode in (1, 3), True, result.stderr)
        self.assertIn("model.safetensors", result.stderr)
        self.assertIn("Permission denied", result.stderr)

    def test_context_beyond_the_trained(self):
        model = make_chat_model(self.folder / "chat", positions=64)
        self.bad(2, "inspect", model, "--ctx-size", "65", says=["64", "65"])
        self.bad(2, "run", model, "Hi", "--ctx-size", "65", says=["64", "65"])
        self.bad(2, "run", model, "Hi", "--ctx-size", "0", says='got "0"')
        text = self.write("text.txt", "Hello there")
        self.bad(2, "eval", model, "--text", text, "--context", "65", says=["--context", "64", "65"])
        self.bad(2, "eval", model, "--text", text, "--context", "1", says="--context")

    def test_interrupted_sweep_leaves_nothing(self):
        temporary = self.folder / "tmp"
        temporary.mkdir()
        text = self.write("text.txt", "Hello there. " * 4000)
        process = subprocess.Popen([DECANT, "eval", FIXTURES / "demo/gemma3n", "--text", text, "--formats", "8bit,4bit"],
                                   env=dict(self.env, TMPDIR=str(temporary)), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        while process.poll() is None and not list(temporary.iterdir()):
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(list(temporary.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
