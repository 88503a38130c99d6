"""What the official processors and models make of videos.

Usage: python video.py FIXTURES        (the folder tests/fixtures)
Writes
  media/clip/          frames 1 to 11 of a tiny clip as pictures, with their rate in `fps`
  media/clip.webp      the same, animated, lossless, with frames of several lengths
  media/clip.json      indices, sizes, grids, hashes of the tensors and texts of the processors
  zoo/qwen3_5/golden_video.safetensors, zoo/gemma4_dense/golden_video.safetensors
                       processor outputs, input ids, features and logits in float32; for qwen3_5 the
                       positions of get_rope_index too
Needs torch 2.9.0, torchvision 0.24.0, transformers 5.17.0, safetensors 0.8.0, numpy 2.4.6, pillow 12.3.0.
"""
import hashlib
import json
import os
import sys
import types

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor, convert_video_to_patches
from transformers.models.gemma4_unified.video_processing_gemma4_unified import Gemma4UnifiedVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.video_utils import VideoMetadata

fixtures = sys.argv[1]
media = os.path.join(fixtures, "media")
torch.set_grad_enabled(False)
torch.set_num_threads(2)

FRAMES, WIDTH, HEIGHT, RATE = 11, 52, 40, 5
PROCESSORS = {"qwen3_5": Qwen3VLVideoProcessor, "gemma4": Gemma4VideoProcessor,
              "gemma4_unified": Gemma4UnifiedVideoProcessor}


def picture(t, width=WIDTH, height=HEIGHT):
    y, x = np.mgrid[0:height, 0:width]
    disc = ((x - 6 - 4 * t) ** 2 + (y - height / 2) ** 2 < 40) * 90
    return np.clip(np.stack([3 * x + 5 * t, 255 - 4 * y - 2 * x + disc, (x * y // 4 + 20 * t) % 256], -1), 0, 255).astype(np.uint8)


def write_clip():
    folder = os.path.join(media, "clip")
    os.makedirs(folder, exist_ok=True)
    images = [Image.fromarray(picture(t)) for t in range(FRAMES)]
    for t, image in enumerate(images):
        image.save(os.path.join(folder, f"frame{t + 1}.png"), optimize=True)
    with open(os.path.join(folder, "fps"), "w") as file:
        file.write(f"{RATE}\n")
    images[0].save(os.path.join(media, "clip.webp"), save_all=True, append_images=images[1:], lossless=True,
                   duration=[100 + 40 * t for t in range(FRAMES)])


def build(family, config):
    return PROCESSORS[family](**config)


def indices_of(processor, frames, fps):
    got = processor.sample_frames(metadata=VideoMetadata(total_num_frames=frames, fps=fps),
                                  num_frames=processor.num_frames, fps=processor.fps)
    return [int(i) for i in got]


def text_of(family, processor, outputs):
    """What the prompt's processor writes for the one video, by the methods themselves."""
    if family == "qwen3_5":
        me = types.SimpleNamespace(video_processor=processor, video_token="<|video_pad|>", vision_start_token="<|vision_start|>",
                                   vision_end_token="<|vision_end|>")
        me._calculate_timestamps = types.MethodType(Qwen3VLProcessor._calculate_timestamps, me)
        return Qwen3VLProcessor.replace_video_token(me, outputs, 0)
    me = types.SimpleNamespace(video_token="<|video|>", boi_token="<|image>", eoi_token="<image|>")
    return Gemma4Processor.replace_video_token(me, outputs, 0)


def process(family, config, fps):
    processor = build(family, config)
    video = np.stack([picture(t) for t in range(FRAMES)])
    metadata = VideoMetadata(total_num_frames=FRAMES, fps=fps)
    out = processor([video], video_metadata=[metadata], return_metadata=True, return_tensors="pt")
    pixels = out["pixel_values_videos"].float().contiguous()
    case = {"family": family, "config": config, "fps": fps, "shape": list(pixels.shape),
            "indices": [int(i) for i in out["video_metadata"][0].frames_indices],
            "pixels": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), "text": text_of(family, processor, out)}
    if family == "qwen3_5":
        case["grid"] = out["video_grid_thw"][0].tolist()
        case["indices"] = case["indices"][:len(indices_of(processor, FRAMES, fps))]  # timestamps pad the list in place
    else:
        positions = out["video_position_ids"].int().contiguous()
        case["positions"] = hashlib.sha256(positions.numpy().tobytes()).hexdigest()
        case["soft_tokens"] = int(out["num_soft_tokens_per_video"][0])
    print("  ", family, fps, case["shape"], case["indices"], case["text"][:60])
    return case


def processors():
    small = {"size": {"shortest_edge": 4096, "longest_edge": 36864}}
    official = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}  # of the published files
    out = {"frames": FRAMES, "width": WIDTH, "height": HEIGHT, "rate": RATE}
    out["cases"] = [process("qwen3_5", small, 5), process("qwen3_5", small, 4), process("qwen3_5", official, 2.75),
                    process("qwen3_5", {}, 5), process("qwen3_5", {**official, "cap_pixels_per_frame": True, "max_video_tokens": 4}, 5),
                    process("gemma4", {"num_frames": 4}, 5), process("gemma4", {"num_frames": 3, "do_normalize": False}, 0.05),
                    process("gemma4_unified", {"num_frames": 2}, 5)]
    out["samples"] = []
    for family, config, frames, fps in [
            ("qwen3_5", {}, 2, 25.0), ("qwen3_5", {}, 7, 30.0), ("qwen3_5", {}, 300, 29.97), ("qwen3_5", {}, 301, 30000 / 1001),
            ("qwen3_5", {}, 20000, 24.0), ("qwen3_5", {}, 999, 1.0), ("qwen3_5", {"fps": 0.5, "min_frames": 2}, 250, 25.0),
            ("qwen3_5", {"max_frames": 9}, 1000, 10.0), ("gemma4", {}, 32, 25.0), ("gemma4", {}, 33, 25.0), ("gemma4", {}, 1000, 25.0),
            ("gemma4", {}, 431999, 30.0), ("gemma4", {"num_frames": 8}, 30, 5.0), ("gemma4", {"num_frames": 12}, 100, 5.0)]:
        out["samples"].append({"family": family, "config": config, "frames": frames, "fps": fps,
                               "indices": indices_of(build(family, config), frames, fps)})
    out["sizes"] = []
    for sampled, width, height in [(4, 640, 480), (5, 640, 480), (3, 656, 720), (768, 1920, 1080), (120, 1280, 720), (2, 20, 30),
                                   (4, 10, 300), (6, 31, 4000), (5, 448, 416), (7, 33, 33), (240, 3840, 2160)]:
        for config in [official, {}]:
            processor = build("qwen3_5", config)
            h, w = smart_resize(sampled, height, width, temporal_factor=2, factor=32, min_pixels=processor.size["shortest_edge"],
                                max_pixels=processor.size["longest_edge"])
            out["sizes"].append({"config": config, "sampled": sampled, "from": [width, height], "to": [w, h]})
    with open(os.path.join(media, "clip.json"), "w") as file:
        json.dump(out, file, indent=1)
        file.write("\n")


def noise(frames, width, height):
    smooth = np.stack([picture(t, width, height) for t in range(frames)]).astype(np.int64)
    grain = np.random.default_rng(3).integers(-40, 40, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def ids(seed, count):
    return torch.randint(10, 384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def load(cls, folder):
    return cls.from_pretrained(os.path.join(fixtures, folder), dtype=torch.float32, attn_implementation="eager").eval()


def qwen3_5():
    """Four frames, two patches of time of 4 x 6 patches; the times before them are ids like others."""
    folder = "zoo/qwen3_5"
    m = load(transformers.Qwen3_5ForConditionalGeneration, folder)
    processor = Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 36864})
    out = processor([noise(4, 96, 64)], video_metadata=[VideoMetadata(total_num_frames=4, fps=2.0)], return_tensors="pt")
    pixels, grid = out["pixel_values_videos"].float(), out["video_grid_thw"]
    assert grid.tolist() == [[2, 4, 6]], grid
    rows = 6
    tokens = ids(1, 7) + ids(2, 4) + [6] + [5] * rows + [7] + ids(3, 5) + [6] + [5] * rows + [7] + ids(4, 11)
    kinds = torch.tensor([[2 if t == 5 else 0 for t in tokens]])
    inputs = torch.tensor([tokens])
    features = torch.cat(list(m.model.get_video_features(pixels, grid).pooler_output))
    positions, delta = m.model.get_rope_index(inputs, kinds, video_grid_thw=grid)
    logits = m(input_ids=inputs, mm_token_type_ids=kinds, pixel_values_videos=pixels, video_grid_thw=grid, use_cache=False).logits[0]
    save_file({"input_ids": inputs[0].int(), "pixel_values_videos": pixels.contiguous(), "video_grid_thw": grid.int(),
               "video_features": features.contiguous(), "position_ids": positions[:, 0].int().contiguous(),
               "position_delta": delta.int().reshape(1), "logits": logits.contiguous()},
              os.path.join(fixtures, folder, "golden_video.safetensors"))
    print("   qwen3_5", tuple(features.shape), logits.abs().mean().item(), "delta", delta.item())


def gemma4():
    """Three frames of 6 x 9 patches (the processor has no budget that small), each 6 tokens."""
    folder = "zoo/gemma4_dense"
    m = load(transformers.Gemma4ForConditionalGeneration, folder)
    frames = torch.from_numpy(noise(3, 144, 96)).permute(0, 3, 1, 2)
    pixels = convert_video_to_patches(frames.float() / 255, 16)[None]
    positions = torch.tensor([[[[x, y] for y in range(6) for x in range(9)]] * 3])
    features = m.model.get_video_features(pixels, positions).pooler_output
    features = torch.cat(list(features)) if isinstance(features, (tuple, list)) else features
    features = features.reshape(-1, features.shape[-1])
    tokens = [2] + ids(5, 6)
    for frame in range(3):
        tokens += ids(6 + frame, 3) + [6] + [5] * 6 + [7]
    tokens += ids(9, 9)
    kinds = torch.tensor([[2 if t == 5 else 0 for t in tokens]])
    inputs = torch.tensor([tokens])
    logits = m(input_ids=inputs, mm_token_type_ids=kinds, pixel_values_videos=pixels, video_position_ids=positions, use_cache=False).logits[0]
    save_file({"input_ids": inputs[0].int(), "pixel_values_videos": pixels.contiguous(), "video_position_ids": positions.int(),
               "video_features": features.contiguous(), "logits": logits.contiguous()},
              os.path.join(fixtures, folder, "golden_video.safetensors"))
    print("   gemma4", tuple(features.shape), logits.abs().mean().item())


write_clip()
processors()
qwen3_5()
gemma4()
