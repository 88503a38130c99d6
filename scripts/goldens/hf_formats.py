"""Writes tests/fixtures/hf_formats/<name>/: tiny random checkpoints in the quantised formats of the Hugging Face world.

python -m venv V && V/bin/pip install torch==2.9.0 transformers==5.17.0 compressed-tensors==0.20.0 safetensors numpy
[AUTOAWQ=<unpacked sdist of autoawq 0.2.9>] V/bin/python scripts/goldens/hf_formats.py [name ...]

Each folder holds config.json, model.safetensors and golden.safetensors: input_ids, logits, forced_ids, forced_logits,
greedy_ids, greedy_logits as make_zoo.py has them, in float32 on the weights the files stand for, and
`dequant.<module>`, those weights of a few modules (bfloat16 where that holds them, else float32).

What defines a weight: fp8: transformers' Fp8Dequantize to bf16; compressed-tensors: its compressors write and its
unpacking and dequantize() read, with scales in float32. AWQ, GPTQ and ModelOpt are written here from their
definitions (AutoAWQ's WQLinear_GEMM.from_linear, GPTQModel's pack_original and its v1 zero points, ModelOpt's
NVFP4QTensor); with AUTOAWQ set, AutoAWQ's own dequantize_gemm must give the same weights.
"""
import importlib.util
import json
import math
import os
import pathlib
import sys
import zlib

import torch
import transformers as tf
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

torch.set_grad_enabled(False)
torch.set_num_threads(2)
OUT = pathlib.Path(__file__).parents[2] / "tests/fixtures/hf_formats"
VOCAB = 160
E4M3 = torch.float8_e4m3fn
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float32)


# --- packers: (module path, weight [out, in] float32) -> (tensors by suffix, the weights they stand for) ---------------

def fp8_blocks(scale_dtype, block=128):
    def pack(_, w):
        rows, cols = w.shape
        padded = torch.zeros(math.ceil(rows / block) * block, math.ceil(cols / block) * block)
        padded[:rows, :cols] = w
        blocks = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block)
        scale = (blocks.abs().amax((1, 3)) / 448).to(scale_dtype)
        q = (blocks / scale.float()[:, None, :, None]).clamp(-448, 448).reshape(padded.shape).to(E4M3)
        value = Fp8Dequantize(None)._dequantize_one(q, scale, output_dtype=torch.bfloat16).float()
        return {"weight": q[:rows, :cols].contiguous(), "weight_scale_inv": scale}, value[:rows, :cols]
    return pack


def fp8_tensor(_, w):  # ModelOpt's FP8
    scale = w.abs().max() / 448
    q = (w / scale).to(E4M3)
    return ({"weight": q, "weight_scale": scale.float(), "input_scale": torch.tensor(0.02)},
            (q.float() * scale).bfloat16().float())


def e2m1_codes(x):
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    return torch.bucketize(x.abs(), middles) + (x < 0).long() * 8


def nvfp4_modelopt(_, w):
    scale2 = w.abs().max() / (448 * 6)
    groups = w.reshape(w.shape[0], -1, 16)
    scale = (groups.abs().amax(-1) / 6 / scale2).clamp(2 ** -9, 448).to(E4M3)
    whole = scale.float() * scale2
    codes = e2m1_codes(groups / whole[..., None])
    value = (torch.cat([E2M1, -E2M1])[codes] * whole[..., None]).reshape(w.shape)
    codes = codes.reshape(w.shape).to(torch.uint8)
    return ({"weight": codes[:, ::2] | codes[:, 1::2] << 4, "weight_scale": scale, "weight_scale_2": scale2,
             "input_scale": torch.tensor(0.01)}, value)


def compressed(format, **kwargs):
    args = QuantizationArgs(**kwargs)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(format)
    dtype = torch.bfloat16

    def pack(path, w):
        rows, cols = w.shape
        state = {"weight": w.to(dtype)}
        group = {"tensor": None, "channel": cols}.get(args.strategy, args.group_size)
        groups = w.reshape(rows, -1, group) if group else w.reshape(1, 1, -1)
        if args.type == "int":
            if args.symmetric:
                state["weight_scale"] = (groups.abs().amax(-1) / (2 ** (args.num_bits - 1) - 0.5)).to(dtype)
                state["weight_zero_point"] = torch.zeros(rows, groups.shape[1], dtype=torch.int8)
            else:
                low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
                state["weight_scale"] = ((high - low) / (2 ** args.num_bits - 1)).to(dtype)
                zero = torch.round(-2 ** (args.num_bits - 1) - low / state["weight_scale"].float())
                state["weight_zero_point"] = zero.clamp(-2 ** (args.num_bits - 1), 2 ** (args.num_bits - 1) - 1).to(torch.int8)
        elif format in ("mxfp4-pack-quantized", "mxfp8-quantized"):
            top = 6 if args.num_bits == 4 else 448
            state["weight_scale"] = torch.exp2(torch.ceil(torch.log2(groups.abs().amax(-1) / top))).to(dtype)
        elif format == "nvfp4-pack-quantized":
            state["weight_global_scale"] = (448 * 6 / w.abs().max()).float().reshape(1)
            state["weight_scale"] = (groups.abs().amax(-1) / 6 * state["weight_global_scale"]).to(E4M3).to(dtype)
        else:  # fp8 per tensor or per row
            state["weight_scale"] = (groups.abs().amax(-1) / 448).to(dtype)
            if args.strategy == "tensor":
                state["weight_scale"] = state["weight_scale"].reshape(1)
        packed = compressor.compress(state, scheme)
        scale = packed["weight_scale"]
        if format == "pack-quantized":
            q = unpack_from_int32(packed["weight_packed"], args.num_bits, w.shape)
            zero = packed.get("weight_zero_point")
            if zero is not None:
                zero = unpack_from_int32(zero, args.num_bits, scale.shape, packed_dim=0)
            value = dequantize(q, scale.float(), zero, args, torch.float32)
        elif format in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
            q = unpack_fp4_from_uint8(packed["weight_packed"], rows, cols, torch.float32)
            real = scale.float() if scale.dtype == E4M3 else decompress_mx_scale(scale).float()
            value = dequantize(q, real, None, args, torch.float32, packed.get("weight_global_scale"))
        else:
            real = decompress_mx_scale(scale).float() if scale.dtype == torch.uint8 else scale.float()
            value = dequantize(packed["weight"].float(), real, None, args, torch.float32)
            if format == "float-quantized":  # decant rounds these once more
                value = value.bfloat16().float()
        return packed, value
    return pack


def integers(w, bits, group, symmetric):
    """Codes [out, in], float16 scales and zero points [out, groups] as GPTQ and AWQ make them."""
    groups = w.reshape(w.shape[0], -1, group)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = ((high - low) / (2 ** bits - 1)).half()
    zero = torch.full_like(low, 2 ** (bits - 1)) if symmetric else torch.round(-low / scale.float())
    zero = zero.clamp(0, 2 ** bits - 1)
    codes = torch.round(groups / scale.float()[..., None] + zero[..., None]).clamp(0, 2 ** bits - 1)
    value = (codes - zero[..., None]) * scale.float()[..., None]
    return codes.reshape(w.shape).long(), scale, zero.long(), value.reshape(w.shape)


def words(codes, bits, order=None):
    """Packs along the last axis, the first code in the lowest bits; `order` is the code at each place."""
    per = 32 // bits
    codes = codes.reshape(*codes.shape[:-1], -1, per)
    if order:
        codes = codes[..., order]
    out = (codes << (torch.arange(per) * bits)).sum(-1)
    return torch.where(out >= 2 ** 31, out - 2 ** 32, out).to(torch.int32)


def awq(group):
    official = None
    if os.environ.get("AUTOAWQ"):
        spec = importlib.util.spec_from_file_location(
            "packing_utils", pathlib.Path(os.environ["AUTOAWQ"]) / "awq/utils/packing_utils.py")
        official = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(official)

    def pack(_, w):
        codes, scale, zero, value = integers(w, 4, group, False)
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        out = {"qweight": words(codes.T, 4, order), "qzeros": words(zero.T, 4, order), "scales": scale.T.contiguous()}
        if official:
            theirs = official.dequantize_gemm(out["qweight"], out["qzeros"], out["scales"].float(), 4, group)
            assert torch.equal(theirs.T, value), "AutoAWQ reads other weights"
        return out, value
    return pack


def gptq(bits, group, symmetric, version):
    def pack(_, w):
        codes, scale, zero, value = integers(w, bits, group, symmetric)
        # The first version subtracts one from whole words.
        packed = words(zero.T, bits).long() - (0 if version == 2 else int("1" * 8 if bits == 4 else "01010101", 16))
        packed = torch.where(packed < -2 ** 31, packed + 2 ** 32, packed).to(torch.int32)
        return {"qweight": words(codes, bits).T.contiguous(), "qzeros": packed, "scales": scale.T.contiguous(),
                "g_idx": (torch.arange(w.shape[1]) // group).to(torch.int32)}, value
    return pack


# --- checkpoints -------------------------------------------------------------------------------------------------------

def ids_for(name, n):
    g = torch.Generator().manual_seed(7919 + zlib.crc32(name.encode()))
    return torch.randint(8, VOCAB, (n,), generator=g).tolist()


def reinit(model, name):
    g = torch.Generator().manual_seed(1000003 + zlib.crc32(name.encode()))
    for n, p in model.named_parameters():
        if p.ndim >= 2:
            p.copy_(torch.randn(p.shape, generator=g) * (0.25 if "embed" in n else 1 / math.sqrt(p.shape[-1])))
        else:
            p.add_(torch.randn(p.shape, generator=g) * 0.15)


def golden(name, model):
    ids, forced, gen = ids_for(name, 32), ids_for(name + "forced", 12), 8
    inp = torch.tensor([ids])
    out = {"input_ids": torch.tensor(ids, dtype=torch.int32), "forced_ids": torch.tensor(forced, dtype=torch.int32)}
    r = model(input_ids=inp, use_cache=True)
    out["logits"] = r.logits[0].contiguous()
    rows = []
    for t in forced:
        r = model(input_ids=torch.tensor([[t]]), past_key_values=r.past_key_values, use_cache=True)
        rows.append(r.logits[0, -1])
    out["forced_logits"] = torch.stack(rows)
    r = model(input_ids=inp, use_cache=True)
    greedy, rows = [], []
    for _ in range(gen):
        rows.append(r.logits[0, -1])
        greedy.append(int(rows[-1].argmax()))
        r = model(input_ids=torch.tensor([[greedy[-1]]]), past_key_values=r.past_key_values, use_cache=True)
    out["greedy_ids"], out["greedy_logits"] = torch.tensor(greedy, dtype=torch.int32), torch.stack(rows)
    return out


def write(name, quantization, packer, probes, *, moe=False, dtype=torch.bfloat16, file=None, extra=None, **sizes):
    base = dict(vocab_size=VOCAB, hidden_size=128, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
                head_dim=32, num_hidden_layers=2, tie_word_embeddings=True, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    if moe:
        base.update(num_hidden_layers=1, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
                    norm_topk_prob=True, tie_word_embeddings=False)
    base.update(sizes)
    config = (tf.Qwen3MoeConfig if moe else tf.Qwen3Config)(**base)
    config._attn_implementation = "eager"
    model = (tf.Qwen3MoeForCausalLM if moe else tf.Qwen3ForCausalLM)(config).float().eval()
    reinit(model, name)
    tensors, dequant = {}, {}

    def quantise(path, w):
        pack = packer(path)
        if pack is None:
            w = w.to(dtype)
            tensors[path + ".weight"] = w
            return w.float()
        packed, value = pack(path, w)
        for suffix, tensor in packed.items():
            tensors[f"{path}.{suffix}"] = tensor.contiguous()
        if path in probes:
            short = value.bfloat16()
            dequant["dequant." + path] = (short if torch.equal(short.float(), value) else value).contiguous()
        return value

    for n, p in model.named_parameters():
        path = n.removesuffix(".weight")
        if n.endswith("experts.gate_up_proj"):
            for e in range(p.shape[0]):
                gate, up = (quantise(f"{path[:-len('.gate_up_proj')]}.{e}.{which}", half)
                            for which, half in zip(("gate_proj", "up_proj"), p[e].chunk(2)))
                p[e] = torch.cat([gate, up])
        elif n.endswith("experts.down_proj"):
            for e in range(p.shape[0]):
                p[e] = quantise(f"{path[:-len('.down_proj')]}.{e}.down_proj", p[e])
        elif "_proj" in n:
            p.copy_(quantise(path, p))
        else:
            tensors[n] = p.to(dtype)
            p.copy_(tensors[n].float())
    assert set(probes) == {k.removeprefix("dequant.") for k in dequant}, (probes, list(dequant))
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    out = golden(name, model)
    save_file({**out, **dequant}, folder / "golden.safetensors")
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file({**{k: v.clone() for k, v in tensors.items()}, **(extra or {})}, folder / "model.safetensors", {"format": "pt"})
    written = json.loads(config.to_json_string(use_diff=False))
    written = {k: v for k, v in written.items() if v is not None and not k.startswith("_")}
    written.update(architectures=[type(model).__name__], dtype=str(dtype).removeprefix("torch."))
    if quantization:
        written["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    if file:
        (folder / file[0]).write_text(json.dumps(file[1], indent=2) + "\n")
    print(name, {p.name: p.stat().st_size for p in folder.iterdir()}, out["greedy_ids"].tolist())


def everything(packer):
    return lambda path: packer


def group(format, targets, **weights):
    return {"format": format, "targets": targets, "weights": weights, "input_activations": None, "output_activations": None}


L = "model.layers.0."
ALL = {}


def fixture(f):
    ALL[f.__name__.replace("_", "-")] = f
    return f


@fixture
def fp8(name):  # partial blocks on both edges; one module kept
    kept = "model.layers.1.self_attn.k_proj"
    pack = fp8_blocks(torch.float32)
    write(name, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                 "modules_to_not_convert": ["lm_head", kept]},
          lambda path: None if path == kept else pack, [L + "self_attn.k_proj", L + "mlp.down_proj"],
          hidden_size=192, intermediate_size=160)


@fixture
def fp8_moe(name):
    write(name, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                 "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]},
          everything(fp8_blocks(torch.bfloat16)), [L + "mlp.experts.3.gate_proj"], moe=True)


@fixture
def ct_mixed(name):  # every kind of compressed-tensors, by module
    kinds = {
        "q_proj": ("pack-quantized", dict(num_bits=4, type="int", strategy="group", group_size=32, symmetric=True)),
        "k_proj": ("pack-quantized", dict(num_bits=4, type="int", strategy="group", group_size=64, symmetric=False)),
        "v_proj": ("mxfp8-quantized", dict(num_bits=8, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)),
        "o_proj": ("mxfp4-pack-quantized", dict(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)),
        "gate_proj": ("pack-quantized", dict(num_bits=8, type="int", strategy="channel", symmetric=True)),
        "up_proj": ("float-quantized", dict(num_bits=8, type="float", strategy="channel", symmetric=True)),
        "down_proj": ("pack-quantized", dict(num_bits=8, type="int", strategy="channel", symmetric=False)),
    }
    packers = {k: compressed(f, **a) for k, (f, a) in kinds.items()}
    packers["last"] = compressed("float-quantized", num_bits=8, type="float", strategy="tensor", symmetric=True)
    last = "model.layers.1.mlp.up_proj"
    kept = "model.layers.1.self_attn.o_proj"

    def packer(path):
        return None if path == kept else packers["last" if path == last else path.split(".")[-1]]
    groups = {}
    for i, (k, (f, a)) in enumerate(kinds.items()):
        a = {key: str(value) if key == "scale_dtype" else value for key, value in a.items()}
        groups[f"group_{i}"] = group(f, [f"re:.*{k}"], **a)
    write(name, {"quant_method": "compressed-tensors", "format": "mixed-precision", "quantization_status": "compressed",
                 "version": "0.20.0", "ignore": ["lm_head", kept], "kv_cache_scheme": None, "sparsity_config": {},
                 "transform_config": {}, "config_groups": groups},
          packer, [L + "self_attn." + k for k in ("q_proj", "k_proj", "v_proj", "o_proj")] +
          [L + "mlp." + k for k in ("gate_proj", "up_proj", "down_proj")] + [last], intermediate_size=256, hidden_size=128)


@fixture
def ct_nvfp4_moe(name):
    args = dict(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True)
    write(name, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "quantization_status": "compressed",
                 "version": "0.20.0", "ignore": ["lm_head", "re:.*mlp.gate$"],
                 "config_groups": {"group_0": group("nvfp4-pack-quantized", ["Linear"], **args)}},
          everything(compressed("nvfp4-pack-quantized", **args)),
          [L + "self_attn.k_proj", L + "mlp.experts.2.down_proj"], moe=True,
          extra={L + "self_attn.q_proj.input_global_scale": torch.tensor([12.5])})


@fixture
def modelopt(name):  # the config lies beside config.json
    layers = {}

    def packer(path):
        fp8 = "self_attn" in path
        layers[path] = {"quant_algo": "FP8"} if fp8 else {"quant_algo": "NVFP4", "group_size": 16}
        return fp8_tensor if fp8 else nvfp4_modelopt
    write(name, None, packer, [L + "self_attn.v_proj", L + "mlp.down_proj"],
          file=("hf_quant_config.json", {"producer": {"name": "modelopt", "version": "0.47.0"},
                                         "quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8",
                                                          "exclude_modules": ["lm_head"], "quantized_layers": layers}}),
          extra={L + "self_attn.k_proj.k_scale": torch.tensor(0.5), L + "self_attn.v_proj.v_scale": torch.tensor(0.25)})


@fixture
def awq4(name):
    write(name, {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True,
                 "modules_to_not_convert": None}, everything(awq(64)), [L + "self_attn.q_proj", L + "mlp.down_proj"],
          dtype=torch.float16)


@fixture
def gptq4_moe(name):
    write(name, {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False,
                 "checkpoint_format": "gptq"}, everything(gptq(4, 64, True, 1)),
          [L + "self_attn.k_proj", L + "mlp.experts.1.up_proj"], moe=True, dtype=torch.float16,
          extra={L + "self_attn.q_proj.bias": torch.zeros(128, dtype=torch.float16)})


@fixture
def gptq8(name):  # asymmetric, second version, groups of whole rows of 256
    def packer(path):
        return gptq(8, 256 if path.endswith("down_proj") else 128, False, 2)
    write(name, {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False, "desc_act": False,
                 "checkpoint_format": "gptq_v2"}, packer, [L + "self_attn.v_proj", L + "mlp.down_proj"],
          dtype=torch.float16, intermediate_size=256, num_hidden_layers=1)


@fixture
def gptq4_asym(name):  # first version; rows of one sign have zero points of 0, whose subtraction borrows
    pack = gptq(4, 32, False, 1)

    def one_sign(path, w):
        w = w.clone()
        w[::3] = w[::3].abs()
        return pack(path, w)
    write(name, {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": True,
                 "checkpoint_format": "gptq"}, everything(one_sign), [L + "mlp.down_proj"],
          dtype=torch.float16, num_hidden_layers=1)


for wanted in sys.argv[1:] or ALL:
    ALL[wanted](wanted)
