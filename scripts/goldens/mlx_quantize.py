"""Writes tests/fixtures/checkpoint/quantize_<dtype>.safetensors: mx.quantize of mlx 0.32.4 (CPU wheel).

python -m venv V && V/bin/pip install mlx==0.32.4 mlx-cpu==0.32.4 numpy && V/bin/python scripts/goldens/mlx_quantize.py
"""
import pathlib

import mlx.core as mx
import numpy as np

ROWS, COLS = 17, 256


def source():
    rng = np.random.default_rng(20260101)
    w = rng.standard_normal((ROWS, COLS)).astype(np.float32) * 0.05
    w[1] = 0  # all zero
    w[2] = 0.375  # constant
    w[3] = -0.375
    w[4] = np.abs(w[4])  # one sign
    w[5] = -np.abs(w[5])
    w[6, ::2] = 0.25  # edges of equal magnitude
    w[6, 1::2] = -0.25
    w[7] = w[7] * 1e-4
    w[7, 17] = 3.0  # an outlier
    w[8] = w[8] * 1e-7  # below the smallest scale
    w[9] = rng.integers(-8, 8, COLS) / 8  # many ties
    w[10] = w[10] + 1.0  # zero far outside
    w[11] = w[11] * 1e4
    w[12, 1:] = 0  # one value that is not zero
    w[13] = -0.0
    w[16] = w[0] * 1e-3  # scales of nvfp4 that round to zero
    w[16, 40] = 1e-3
    for row, largest in ((14, 6.0), (15, 448.0)):  # ratios just below, at and just above powers of two
        w[row] = 0
        for group in range(COLS // 16):
            value = np.float32(largest * 2.0 ** (group - 9))
            for _ in range(abs(group % 3 - 1)):
                value = np.nextafter(value, np.float32(np.inf if group % 3 == 2 else 0))
            w[row, group * 16 + group % 2] = value * (-1) ** group
    return w


def main():
    out = pathlib.Path(__file__).parents[2] / "tests/fixtures/checkpoint"
    for name, dtype in (("f32", mx.float32), ("bf16", mx.bfloat16), ("f16", mx.float16)):
        w = mx.array(source()).astype(dtype)
        tensors = {"source": w}
        for bits in (1, 2, 3, 4, 5, 6, 8):
            for group in (32, 64, 128):
                q, scales, biases = mx.quantize(w, group_size=group, bits=bits)
                for part, value in (("weight", q), ("scales", scales), ("biases", biases)):
                    tensors[f"b{bits}g{group}.{part}"] = value
        for mode in ("mxfp4", "mxfp8", "nvfp4"):
            q, scales = mx.quantize(w, mode=mode)
            tensors[f"{mode}.weight"] = q
            tensors[f"{mode}.scales"] = scales
        mx.save_safetensors(str(out / f"quantize_{name}.safetensors"), tensors, {"mlx": mx.__version__})


main()
