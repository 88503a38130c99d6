#!/usr/bin/env python3
"""Holds what `decant quantize` writes against mlx-lm: every file must load there, and give the same logits.

usage: quantised_in_mlx_lm.py DECANT [--only TEXT]
DECANT is the built program; mlx-lm 0.32.2 and mlx[cpu] 0.32.4 must be installed. Both sides compute in float32 on the
quantised weights, so they differ by rounding only: 1e-4 of the range of the logits, as for the goldens.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.pop(0)  # this folder: its tokenizers.py is not the library

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

ZOO = Path(__file__).resolve().parents[2] / "tests/fixtures/zoo"
MODELS = ("llama", "qwen3", "qwen3_moe", "gemma3n")
FORMATS = ([["--format", f"{bits}bit", "--group", str(group)] for bits in (1, 2, 3, 4, 5, 6, 8) for group in (32, 64)] +
           [["--recipe", name] for name in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")] +
           [["--format", "4bit", "--dtype", dtype] for dtype in ("f16", "f32")] +
           [["--format", name] for name in ("mxfp4", "mxfp8", "nvfp4")])
BOUND = 1e-4


def source_of(model, work):
    """Its folder. mlx-lm reads Gemma 3n's text model only inside the multimodal one, and its layers that share keys and
    values do so only with a cache, at wrong positions: here every layer has its own."""
    if model != "gemma3n":
        return ZOO / model
    folder = work / "source"
    if not folder.exists():
        folder.mkdir()
        text = json.loads((ZOO / "gemma3n_text/config.json").read_text())
        first_shared = text["num_hidden_layers"] - text["num_kv_shared_layers"]
        text["num_kv_shared_layers"] = 0
        (folder / "config.json").write_text(json.dumps({"model_type": "gemma3n", "dtype": "bfloat16", "text_config": text}))
        tensors = mx.load(str(ZOO / "gemma3n_text/model.safetensors"))
        for layer in range(first_shared, text["num_hidden_layers"]):
            for part in ("k_norm", "k_proj", "v_proj"):
                tensors[f"model.layers.{layer}.self_attn.{part}.weight"] = tensors[f"model.layers.0.self_attn.{part}.weight"]
        mx.save_safetensors(str(folder / "model.safetensors"),
                            {"model.language_model." + name.removeprefix("model."): x for name, x in tensors.items()})
    return folder


embed = nn.QuantizedEmbedding.__call__
# Where no scale has a float type, MLX decodes to bfloat16 and Gemma would round what it scales.
nn.QuantizedEmbedding.__call__ = lambda self, x: embed(self, x).astype(mx.float32)


def mlx_logits(folder, ids):
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return model(mx.array([ids]))[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("decant")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    ids = [1 + (7 * i * i + 3 * i) % 200 for i in range(24)]
    failed = ran = 0
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        tokens, output = work / "ids.json", work / "logits.safetensors"
        tokens.write_text(json.dumps(ids))
        for model in MODELS:
            for flags in FORMATS:
                name = f"{model} {' '.join(flags)}"
                if options.only not in name:
                    continue
                folder = work / name.replace(" ", "_")
                subprocess.run([options.decant, "quantize", source_of(model, work), folder, *flags], check=True, capture_output=True)
                subprocess.run([options.decant, "logits", folder, "--tokens", tokens, "--output", output, "--exact"],
                               check=True, capture_output=True)
                ours = mx.load(str(output))["logits"]
                theirs = mlx_logits(folder, ids)
                range_ = (theirs.max() - theirs.min()).item()
                distance = mx.abs(ours - theirs).max().item() / range_
                ran += 1
                failed += not distance < BOUND
                print(f"{'ok  ' if distance < BOUND else 'FAIL'} {name}: {distance:.2e} of the range", flush=True)
    print(f"{ran} checkpoints, {failed} differ")
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
