"""Process tests of decant with pictures and videos: run --image and --video, logits --inputs and what is refused."""
import json
import shutil
import struct
import subprocess
import unittest

from cli_fixtures import FIXTURES, QWEN3, CliTest, environment, floats, ints, read_safetensors, write_safetensors

VLM = FIXTURES / "demo/gemma4_vlm"
GEMMA4 = FIXTURES / "zoo/gemma4_dense"
QWEN35 = FIXTURES / "zoo/qwen3_5"


class RunWithPictures(CliTest):
    def test_answers_are_the_reference_ones(self):
        texts = [text for text in json.loads((VLM / "golden_texts.json").read_text()) if "picture" in text]
        self.assertGreaterEqual(len(texts), 4)
        golden = read_safetensors(VLM / "golden.safetensors")
        for index, text in enumerate(texts):
            got = json.loads(self.good("run", VLM, text["prompt"], "--image", VLM / text["picture"], "--temperature", "0",
                                       "--exact", "--json").stdout)
            self.assertEqual(got["text"], text["answer"])
            self.assertEqual(got["figures"]["prompt_tokens"], len(ints(golden[f"picture{index}_ids"])))

    def test_several_pictures_and_their_order(self):
        def prompt_tokens(*flags):
            got = json.loads(self.good("run", VLM, "Which shape?", "--temperature", "0", "--max-tokens", "2", "--json",
                                       *flags).stdout)
            return got["figures"]["prompt_tokens"]
        one = prompt_tokens("--image", VLM / "picture0.png")
        self.assertGreater(prompt_tokens("--image", VLM / "picture0.png", "--image", VLM / "picture1.png"), one + 40)
        self.assertLess(prompt_tokens(), 30)

    def test_refused(self):
        picture = VLM / "picture0.png"
        self.bad(2, "run", QWEN3, "Hi", "--raw", "--image", picture, says="--raw")
        self.bad(2, "run", FIXTURES / "demo/gemma3n", "Hi", "--image", picture,
                 says="expected a model that takes image input, got gemma3n_text")
        self.bad(2, "run", VLM, "Hi", "--audio", picture, says="expected a model that takes audio input")
        self.bad(2, "run", VLM, "Hi", "--image", self.folder / "none.png", says="none.png")
        self.bad(2, "run", VLM, "Hi", "--image", self.write("text.png", "no picture"), says="expected a JPEG, PNG or WebP picture")
        cut = self.folder / "cut.png"
        cut.write_bytes(picture.read_bytes()[:200])
        self.bad(2, "run", VLM, "Hi", "--image", cut, says="cut.png")
        # A template that writes no placeholder.
        template = self.folder / "t.jinja"
        template.write_text("{% for m in messages %}{{ m.role }}{% endfor %}")
        self.bad(2, "run", VLM, "Hi", "--image", picture, "--chat-template", template,
                 says="expected the chat template to write 1 placeholders (<image_soft_token>), got 0")

    def test_placeholders_a_user_types_are_text(self):
        got = json.loads(self.good("run", VLM, "<image_soft_token> Which shape do you see?", "--image", VLM / "picture0.png",
                                   "--temperature", "0", "--max-tokens", "3", "--json").stdout)
        self.assertGreater(got["figures"]["prompt_tokens"], 86)

    def test_processor_settings_are_needed_and_checked(self):
        model = self.folder / "model"
        shutil.copytree(VLM, model)
        (model / "preprocessor_config.json").unlink()
        self.bad(3, "run", model, "Hi", "--image", VLM / "picture0.png",
                 says="expected preprocessor_config.json or processor_config.json")
        (model / "preprocessor_config.json").write_text('{"max_soft_tokens": 71}')
        self.bad(3, "run", model, "Hi", "--image", VLM / "picture0.png", says="max_soft_tokens")
        self.good("run", model, "Hi", "--max-tokens", "2")


class RunWithVideos(CliTest):
    CLIP = FIXTURES / "media/clip"

    def setUp(self):
        super().setUp()
        # The demo model never saw a video; one is tokens and rows to it like any other.
        self.model = self.folder / "model"
        shutil.copytree(VLM, self.model)
        config = json.loads((self.model / "config.json").read_text())
        config["video_token_id"] = 3
        (self.model / "config.json").write_text(json.dumps(config))
        template = (self.model / "chat_template.jinja").read_text()
        (self.model / "chat_template.jinja").write_text(template.replace(
            "{%- else %}{{- part.text", "{%- elif part.type == 'video' %}{{- '<unk>' }}{%- else %}{{- part.text"))

    def answer(self, *flags):
        return json.loads(self.good("run", self.model, "What moves?", "--temperature", "0", "--max-tokens", "4", "--json",
                                    *flags).stdout)

    def test_every_source_is_one_prompt(self):
        plain = self.answer()["figures"]["prompt_tokens"]
        folder = self.answer("--video", self.CLIP)
        # Eleven frames of 7 x 9 tokens, what is around them and their times.
        self.assertGreater(folder["figures"]["prompt_tokens"], plain + 11 * 63)
        self.assertEqual(self.answer("--video", self.CLIP.parent / "clip.webp")["figures"]["prompt_tokens"],
                         folder["figures"]["prompt_tokens"])
        if shutil.which("ffmpeg") is None:
            return
        video = self.folder / "-clip.mkv"
        subprocess.run(["ffmpeg", "-v", "error", "-framerate", "5", "-i", self.CLIP / "frame%d.png", "-c:v", "ffv1",
                        "-pix_fmt", "bgr0", f"file:{video}"], check=True)
        self.assertEqual(self.answer("--video", video)["text"], folder["text"])

    def test_refused(self):
        self.bad(2, "run", self.model, "Hi", "--video", self.folder / "none.mp4", says="none.mp4")
        self.bad(2, "run", self.model, "Hi", "--video", VLM / "picture0.png", says="expected a video, got a picture")
        self.bad(2, "run", VLM, "Hi", "--video", self.CLIP, says="to write 1 placeholders")
        self.bad(2, "run", QWEN3, "Hi", "--raw", "--video", self.CLIP, says="--raw")
        self.bad(2, "run", self.model, "Hi", "--video", self.write("a.mp4", "no video"), env=environment(PATH="/nowhere"),
                 says="apt install ffmpeg")


class LogitsWithInputs(CliTest):
    def golden(self, model):
        golden = read_safetensors(model / "golden_image.safetensors")
        inputs = {name: golden[name] for name in ("pixel_values", "image_position_ids", "grid_thw") if name in golden}
        return ints(golden["input_ids"]), floats(golden["logits"]), inputs

    def logits(self, model, ids, inputs, *flags):
        path, out = self.folder / "in.safetensors", self.folder / "out.safetensors"
        write_safetensors(path, inputs)
        self.good("logits", model, "--tokens", self.write("ids.json", ids), "--inputs", path, "--output", out, "--exact",
                  *flags)
        return floats(read_safetensors(out)["logits"])

    def test_equal_the_reference(self):
        for model, bound in ((GEMMA4, 1e-4), (QWEN35, 2e-4)):
            ids, want, inputs = self.golden(model)
            bound *= max(want) - min(want)
            for flags in ((), ("--chunk", "7"), ("--chunk", "1")):
                got = self.logits(model, ids, inputs, *flags)
                self.assertLessEqual(max(abs(a - b) for a, b in zip(got, want, strict=True)), bound)

    def test_integers_of_any_type(self):
        ids, want, inputs = self.golden(QWEN35)
        grid = ints(inputs["grid_thw"])
        for dtype, code in (("I64", "q"), ("U8", "B"), ("I16", "h"), ("U32", "I")):
            typed = {"pixel_values": inputs["pixel_values"],
                     "image_grid_thw": (dtype, [1, 3], struct.pack(f"<3{code}", *grid))}
            got = self.logits(QWEN35, ids, typed)
            self.assertLessEqual(max(abs(a - b) for a, b in zip(got, want, strict=True)), 2e-4 * (max(want) - min(want)))

    def test_refused(self):
        ids, _, inputs = self.golden(GEMMA4)
        good = dict(inputs)
        path = self.folder / "in.safetensors"

        def refused(says, tensors, model=GEMMA4, tokens=ids):
            write_safetensors(path, tensors)
            self.bad(2, "logits", model, "--tokens", self.write("ids.json", tokens), "--inputs", path, "--output",
                     self.folder / "o.safetensors", says=says)
        refused("expected image_grid_thw or image_position_ids beside pixel_values", {"pixel_values": good["pixel_values"]})
        refused("pixels: expected pixel_values", {**good, "pixels": good["pixel_values"]})
        dtype, shape, data = good["image_position_ids"]
        refused("integers of rank 3 with 2 columns", {**good, "image_position_ids": (dtype, [1, 108], data)})
        refused("expected integers", {**good, "image_position_ids": ("F32", shape, data)})
        broken = bytearray(data)
        broken[:4] = struct.pack("<i", 10_000)
        refused("expected 0 to", {**good, "image_position_ids": (dtype, shape, bytes(broken))})
        broken[:8] = data[8:16]
        refused("each place once", {**good, "image_position_ids": (dtype, shape, bytes(broken))})
        refused("got none left", good, tokens=[1, 2, 3])
        refused("expected a model that takes it", good, model=QWEN3)
        refused("expected features for every placeholder", good, tokens=ids + [4])
        path.write_bytes(b"nothing")
        self.bad(3, "logits", GEMMA4, "--tokens", self.write("ids.json", ids), "--inputs", path, "--output",
                 self.folder / "o.safetensors", says="in.safetensors")


if __name__ == "__main__":
    unittest.main()
