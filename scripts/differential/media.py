#!/usr/bin/env python3
"""Holds src/media against Pillow 12.3.0, soundfile 0.14.0 and soxr 1.1.0 on random pictures, resizes and sounds.

usage: media.py MEDIA_TEST WORK [--count N] [--seed S] [--freeze OUT]
MEDIA_TEST is the built test (build/release/src/media_test), WORK a folder for the files made on the way. Pictures of every
kind (JPEG: subsampling, progressive, restarts, CMYK, YCCK, orientations; PNG: every colour type, depth, filter, interlace
and metadata; WebP: lossy, lossless, alpha, animation) must decode to Pillow's bytes, and resizes equal Pillow's; sounds agree
within the resamplers' rounding. Differences are printed, the exit code is 1.
--freeze writes one small file per kind with Pillow's hashes, the data of src/media/image_test.cpp and audio_test.cpp.
"""
import argparse
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image, ImageOps

warnings.simplefilter("ignore")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
TIFF_ORIENTATION = 0x0112


def picture(rng, width, height, channels=3):
    """Smooth waves, edges and noise."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 120 * np.sin(x / rng.uniform(2, 30) + y / rng.uniform(2, 30) + rng.uniform(0, 6)) for _ in range(channels)]
    noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, rng.choice([0, 3, 40]), (height, width, channels))
    out = np.stack(planes, -1) + noise
    if rng.random() < 0.3:
        out[:, width // 2:] = 255 - out[:, width // 2:]
    return np.clip(out, 0, 255).astype(np.uint8)


def size(rng, most=90):
    return rng.choice([1, 2, 3, 7, 8, 9, 15, 16, 17, rng.randint(18, most)]), rng.choice([1, 2, 5, 8, 16, 17, rng.randint(18, most)])


def exif(rng, orientation, big=False):
    order = ">" if big else "<"
    entries = [(0x010F, 2, 4, b"cam\0"), (TIFF_ORIENTATION, 3, 1, struct.pack(order + "HH", orientation, 0)),
               (0x0131, 2, 4, b"pic\0")]
    body = b"".join(struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return (b"MM\0*" if big else b"II*\0") + struct.pack(order + "IH", 8, len(entries)) + body + struct.pack(order + "I", 0)


def xmp(orientation, element):
    tag = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else f'<rdf:Description tiff:Orientation="{orientation}"/>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{tag}</x:xmpmeta>'.encode()


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpegs(rng, w=None, h=None):
    w, h = (w, h) if w else size(rng)
    rgb = Image.fromarray(picture(rng, w, h))
    quality = rng.choice([10, 50, 75, 92, 100])
    for sampling, name in enumerate(["444", "422", "420"]):
        yield f"{name}.jpg", saved(rgb, "JPEG", quality=quality, subsampling=sampling)
    yield "progressive.jpg", saved(rgb, "JPEG", quality=quality, progressive=True, subsampling=rng.choice([0, 1, 2]))
    yield "restarts.jpg", saved(rgb, "JPEG", quality=quality, restart_marker_blocks=rng.randint(1, 4))
    yield "rgb.jpg", saved(rgb, "JPEG", quality=quality, keep_rgb=True)
    yield "optimised.jpg", saved(rgb, "JPEG", quality=quality, optimize=True)
    yield "grey.jpg", saved(rgb.convert("L"), "JPEG", quality=quality, progressive=rng.random() < 0.5)
    cmyk = saved(Image.fromarray(picture(rng, w, h, 4), "CMYK"), "JPEG", quality=quality)
    yield "cmyk.jpg", cmyk
    at = cmyk.find(b"\xff\xee")  # Adobe's marker: its last byte is the colour transform, 2 is YCCK
    yield "ycck.jpg", cmyk[:at + 15] + b"\x02" + cmyk[at + 16:]
    turn = rng.randint(0, 9)
    yield "exif.jpg", saved(rgb, "JPEG", quality=quality, exif=b"Exif\0\0" + exif(rng, turn, rng.random() < 0.5))
    yield "xmp.jpg", saved(rgb, "JPEG", quality=quality, xmp=xmp(rng.randint(1, 8), rng.random() < 0.5))
    both = dict(exif=b"Exif\0\0" + exif(rng, rng.randint(1, 8)), xmp=xmp(rng.randint(1, 8), True))
    yield "both.jpg", saved(rgb, "JPEG", quality=quality, **both)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(rng, w, h, bits, colour, interlace=False, before=b"", after=b""):
    """A PNG of random samples (smooth where they are bytes), random filters."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if bits < 8:
        samples = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 1 << bits, (h, w, channels))
    else:
        samples = picture(rng, w, h, channels).astype(np.int64)
        if bits == 16:
            samples = samples * 257 // (1 if rng.random() < 0.5 else 300) + 3
    data = b""
    for x0, y0, dx, dy in ADAM7 if interlace else [(0, 0, 1, 1)]:
        part = samples[y0::dy, x0::dx]
        if part.size == 0:
            continue
        step = max(1, bits * channels // 8)
        previous = None
        for row in part:
            flat = row.reshape(-1)
            if bits == 8:
                raw = bytes(flat.astype(np.uint8))
            elif bits == 16:
                raw = flat.astype(">u2").tobytes()
            else:
                text = "".join(format(int(v), f"0{bits}b") for v in flat)
                raw = int(text.ljust((len(text) + 7) // 8 * 8, "0"), 2).to_bytes((len(text) + 7) // 8, "big")
            previous = previous or bytes(len(raw))
            kind, out = rng.randint(0, 4), bytearray()
            for i, value in enumerate(raw):
                a, b = raw[i - step] if i >= step else 0, previous[i]
                c = previous[i - step] if i >= step else 0
                p = a + b - c
                paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                out.append((value - [0, a, b, (a + b) // 2, paeth][kind]) & 255)
            data += bytes([kind]) + bytes(out)
            previous = raw
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, int(interlace)))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(data)) + after + chunk(b"IEND", b"")


def pngs(rng):
    for colour, depths in {0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}.items():
        for bits in depths:
            w, h = size(rng, 40)
            before = b""
            if colour == 3:
                entries = rng.choice([1 << bits, rng.randint(1, 1 << bits)])  # a short palette: the rest is black
                before = chunk(b"PLTE", bytes(rng.randrange(256) for _ in range(3 * entries)))
                if rng.random() < 0.5:
                    before += chunk(b"tRNS", bytes(rng.randrange(256) for _ in range(rng.randint(1, entries))))
            elif colour == 0 and rng.random() < 0.5:
                before = chunk(b"tRNS", struct.pack(">H", rng.randrange(1 << bits)))
            elif colour == 2 and rng.random() < 0.5:
                before = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
            if rng.random() < 0.3:
                before = chunk(b"gAMA", struct.pack(">I", rng.choice([45455, 100000]))) + before
            for interlace in (False, True):
                yield f"type{colour}-{bits}{'-interlaced' if interlace else ''}.png", png(rng, w, h, bits, colour, interlace, before)
    w, h = rng.randint(2, 20), rng.randint(2, 20)
    turn = rng.randint(0, 9)
    yield "exif.png", png(rng, w, h, 8, 2, before=chunk(b"eXIf", exif(rng, turn)))
    yield "late-exif.png", png(rng, w, h, 8, 2, after=chunk(b"eXIf", exif(rng, turn, True)))
    yield "xmp.png", png(rng, w, h, 8, 2, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(rng.randint(1, 8), rng.random() < 0.5)))
    block = b"Exif\0\0" + exif(rng, rng.randint(1, 8))
    lines = "\n".join(block.hex()[i:i + 72] for i in range(0, 2 * len(block), 72))
    profile = f"\nexif\n{len(block):8}\n{lines}\n".encode()
    yield "raw-profile.png", png(rng, w, h, 8, 6, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)))


def webps(rng, w=None, h=None):
    w, h = (w, h) if w else size(rng, 60)
    rgb = Image.fromarray(picture(rng, w, h))
    rgba = Image.fromarray(picture(rng, w, h, 4))
    quality = rng.choice([20, 75, 95])
    yield "lossy.webp", saved(rgb, "WEBP", quality=quality)
    yield "lossless.webp", saved(rgb, "WEBP", lossless=True)
    yield "lossy-alpha.webp", saved(rgba, "WEBP", quality=quality)
    yield "lossless-alpha.webp", saved(rgba, "WEBP", lossless=True, exact=rng.random() < 0.5)
    yield "exif.webp", saved(rgb, "WEBP", quality=quality, exif=exif(rng, rng.randint(0, 9)))
    yield "xmp.webp", saved(rgb, "WEBP", quality=quality, xmp=xmp(rng.randint(1, 8), False))
    frames = [Image.fromarray(picture(rng, w, h, 4)) for _ in range(3)]
    frames[0].putalpha(0 if rng.random() < 0.3 else 255)
    yield "animation.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=40, lossless=True)


def pillow(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def sounds(rng):
    for name, kind, subtype, rate, channels in [
            ("pcm16.wav", "WAV", "PCM_16", 44100, 2), ("pcm8.wav", "WAV", "PCM_U8", 8000, 1),
            ("pcm24.wav", "WAV", "PCM_24", 96000, 3), ("float.wav", "WAV", "FLOAT", 16000, 2),
            ("ulaw.wav", "WAV", "ULAW", 8000, 1), ("pcm16.aiff", "AIFF", "PCM_16", 22050, 1),
            ("pcm24.flac", "FLAC", "PCM_24", 48000, 2), ("vorbis.ogg", "OGG", "VORBIS", 44100, 2),
            ("opus.ogg", "OGG", "OPUS", 48000, 1), ("layer3.mp3", "MP3", "MPEG_LAYER_III", 32000, 2)]:
        count = rng.randint(rate // 8, rate // 4)
        t = np.arange(count) / rate
        noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 0.02, (count, channels))
        wave = np.stack([0.4 * np.sin(2 * np.pi * (rng.uniform(100, 900) + 2000 * t) * t) for _ in range(channels)], -1)
        out = io.BytesIO()
        soundfile.write(out, (wave + noise).astype(np.float32), rate, format=kind, subtype=subtype)
        yield name, out.getvalue()


def librosa(data, rate):
    """librosa.load(f, sr=rate), by the libraries it calls."""
    samples, own = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    mono = np.mean(samples.T, axis=0) if samples.shape[1] > 1 else samples[:, 0]
    if own == rate:
        return mono
    want = int(np.ceil(len(mono) * (rate / own)))
    out = soxr.resample(mono, own, rate, quality="soxr_hq")[:want]
    return np.pad(out, (0, want - len(out))).astype(np.float32)


def tolerance(name):
    """Lossy decoders of two releases differ in rounding; resamplers by float32 rounding."""
    return 2e-4 if name.endswith((".ogg", ".mp3")) else 2e-6


def run(program, cases, work):
    (work / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run([program, "--gtest_filter=MediaDifferential.*"], capture_output=True,
                          env=os.environ | {"DECANT_MEDIA_CASES": str(work / "cases.json")})
    if done.returncode != 0:
        sys.exit(done.stdout.decode() + done.stderr.decode())


def compare(program, work, count, seed):
    rng = random.Random(seed)
    cases, wants = [], []

    def add(name, data, want, **more):
        path = work / f"{len(cases):05d}-{name}"
        path.write_bytes(data)
        cases.append({"file": str(path), "out": f"{path}.out"} | more)
        wants.append(want)

    for _ in range(count):
        for make in (jpegs, pngs, webps):
            for name, data in make(rng):
                add(name, data, pillow(data))
        for _ in range(6):
            source = Image.fromarray(picture(rng, *size(rng, 400)))
            to = (rng.choice([source.width, rng.randint(1, 300)]), rng.choice([source.height, rng.randint(1, 300)]))
            name = rng.choice(list(FILTERS))
            add("resize.png", saved(source, "PNG"), source.resize(to, FILTERS[name]), width=to[0], height=to[1], filter=name)
        for name, data in sounds(rng):
            rate = rng.choice([16000, 16000, 24000])
            add(name, data, librosa(data, rate), rate=rate)
    run(program, cases, work)
    wrong, largest = 0, {}
    for case, want in zip(cases, wants):
        got = Path(case["out"]).read_bytes()
        w, h = struct.unpack("<qq", got[:16])
        if isinstance(want, Image.Image):
            good = (w, h) == want.size and got[16:] == want.tobytes()
            note = f"{(w, h)} for {want.size}, {got[16:16 + 120] if w == 0 else ''}"
        else:
            samples = np.frombuffer(got[16:], np.float32) if w else np.zeros(0)
            error = float(np.abs(samples - want).max()) if samples.shape == want.shape else float("inf")
            kind = Path(case["file"]).name.split("-", 1)[1]
            largest[kind] = max(largest.get(kind, 0), error)
            good = error <= tolerance(kind)
            note = f"{samples.shape} for {want.shape}, {error}"
        if not good:
            wrong += 1
            print(f"{case['file']}: {note}")
    print("largest differences of sounds:", {k: float(f"{v:.2g}") for k, v in largest.items()})
    print(f"{len(cases)} cases, {wrong} differences")
    return wrong == 0


def freeze(out, seed):
    rng = random.Random(seed)
    pictures, resizes, heard = [], [], []
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    (out / "sounds").mkdir(parents=True, exist_ok=True)
    for make in (lambda r: jpegs(r, 53, 39), pngs, lambda r: webps(r, 41, 30)):
        for name, data in make(rng):
            (out / "pictures" / name).write_bytes(data)
            want = pillow(data)
            pictures.append({"file": name, "width": want.width, "height": want.height,
                             "sha256": hashlib.sha256(want.tobytes()).hexdigest()})
    for turn in range(1, 9):
        data = saved(Image.fromarray(picture(rng, 13, 7)), "JPEG", exif=b"Exif\0\0" + exif(rng, turn, turn % 2 == 0))
        (out / "pictures" / f"turn{turn}.jpg").write_bytes(data)
        want = pillow(data)
        pictures.append({"file": f"turn{turn}.jpg", "width": want.width, "height": want.height,
                         "sha256": hashlib.sha256(want.tobytes()).hexdigest()})
    source = Image.open(out / "picture.png").convert("RGB")
    for to in [(1, 1), (7, 300), (331, 100), (150, 213), (64, 64), (500, 400), (1000, 3)]:
        for name in FILTERS:
            resizes.append({"width": to[0], "height": to[1], "filter": name,
                            "sha256": hashlib.sha256(source.resize(to, FILTERS[name]).tobytes()).hexdigest()})
    for name, data in sounds(rng):
        (out / "sounds" / name).write_bytes(data)
        want = librosa(data, 16000)
        (out / "sounds" / f"{name}.f32").write_bytes(want.astype("<f4").tobytes())
        heard.append({"file": name, "samples": len(want), "tolerance": tolerance(name)})
    with open(out / "manifest.json", "w") as file:
        json.dump({"pictures": pictures, "resizes": resizes, "sounds": heard}, file, indent=1)
        file.write("\n")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--freeze", type=Path)
    arguments = parser.parse_args()
    if arguments.freeze:
        return freeze(arguments.freeze, arguments.seed)
    arguments.work.mkdir(parents=True, exist_ok=True)
    return compare(arguments.program, arguments.work, arguments.count, arguments.seed)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
