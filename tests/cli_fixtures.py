"""What the tests of the command line share: the program, the fixtures, safetensors and tiny models."""
import array
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DECANT = os.environ.get("DECANT_PROGRAM", str(ROOT / "build/release/decant"))
FIXTURES = ROOT / "tests/fixtures"
QWEN3 = FIXTURES / "zoo/qwen3"
TOKENIZER = FIXTURES / "tokenizers/demo_qwen"


def environment(**extra):
    """The caller's environment without DECANT_ variables, which are flags."""
    out = {k: v for k, v in os.environ.items() if not k.startswith("DECANT_")}
    out.update(extra)
    return out


def decant(*arguments, stdin="", env=None, timeout=120):
    return subprocess.run([DECANT, *map(str, arguments)], input=stdin, env=env or environment(), text=True,
                          capture_output=True, timeout=timeout)


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {name: (entry["dtype"], entry["shape"], data[8 + size + entry["data_offsets"][0]:
                                                       8 + size + entry["data_offsets"][1]])
            for name, entry in header.items() if name != "__metadata__"}


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}, written in this order."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    write_raw_safetensors(path, json.dumps(header), b"".join(data for _, _, data in tensors.values()))


def write_raw_safetensors(path, header, data):
    text = header.encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def floats(entry):
    dtype, _, data = entry
    assert dtype == "F32", dtype
    out = array.array("f")
    out.frombytes(data)
    return out


def ints(entry):
    out = array.array({"I32": "i", "I64": "q"}[entry[0]])
    out.frombytes(entry[2])
    return list(out)


def make_chat_model(folder, positions=512):
    """A random qwen3 with the vocabulary of a real tokenizer: says nonsense, but through every part."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocab, hidden, inner, heads, kv_heads, dim, layers = 1536, 64, 128, 4, 2, 16, 2
    config = {"model_type": "qwen3", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "vocab_size": vocab,
              "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": positions,
              "tie_word_embeddings": True, "attention_bias": False, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    rng = random.Random(7)

    def normal(shape):
        count = 1
        for size in shape:
            count *= size
        scale = shape[-1] ** -0.5
        return "F32", shape, array.array("f", (rng.gauss(0, scale) for _ in range(count))).tobytes()

    def ones(size):
        return "F32", [size], array.array("f", [1.0] * size).tobytes()

    tensors = {"model.embed_tokens.weight": normal([vocab, hidden]), "model.norm.weight": ones(hidden)}
    for i in range(layers):
        at = f"model.layers.{i}."
        tensors[at + "self_attn.q_proj.weight"] = normal([heads * dim, hidden])
        tensors[at + "self_attn.k_proj.weight"] = normal([kv_heads * dim, hidden])
        tensors[at + "self_attn.v_proj.weight"] = normal([kv_heads * dim, hidden])
        tensors[at + "self_attn.o_proj.weight"] = normal([hidden, heads * dim])
        tensors[at + "self_attn.q_norm.weight"] = ones(dim)
        tensors[at + "self_attn.k_norm.weight"] = ones(dim)
        tensors[at + "mlp.gate_proj.weight"] = normal([inner, hidden])
        tensors[at + "mlp.up_proj.weight"] = normal([inner, hidden])
        tensors[at + "mlp.down_proj.weight"] = normal([hidden, inner])
        tensors[at + "input_layernorm.weight"] = ones(hidden)
        tensors[at + "post_attention_layernorm.weight"] = ones(hidden)
    write_safetensors(folder / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    shutil.copy(FIXTURES / "templates/qwen3.jinja", folder / "chat_template.jinja")
    return folder


class CliTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="decant-cli-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, content):
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def good(self, *arguments, **options):
        result = decant(*arguments, **options)
        self.assertEqual(result.returncode, 0, f"{arguments}: {result.stderr}")
        return result

    def bad(self, code, *arguments, says=(), **options):
        """Fails with this code and one message on stderr that holds every part of `says`; stdout stays empty."""
        result = decant(*arguments, **options)
        self.assertEqual(result.returncode, code, f"{arguments}: {result.stdout}{result.stderr}")
        self.assertRegex(result.stderr, r"\Adecant: error: \[[a-z_]+\] ")
        self.assertEqual(result.stderr.count("decant: error:"), 1)
        self.assertEqual(result.stdout, "")
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, result.stderr)
        return result

    def copy_model(self, source=QWEN3, name="model"):
        target = self.folder / name
        shutil.copytree(source, target)
        return target

    def edit_config(self, model, **changes):
        path = model / "config.json"
        config = json.loads(path.read_text())
        config.update(changes)
        path.write_text(json.dumps(config))
        return model
