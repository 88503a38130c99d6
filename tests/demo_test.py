"""The bundled model: its answers, and scripts/demo against `decant run`."""
import json
import os
import pathlib
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = os.environ["DECANT_PROGRAM"]


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, **options)


class Demo(unittest.TestCase):
    def test_answers_of_the_bundled_model(self):
        texts = json.loads((ROOT / "tests/fixtures/demo/gemma3n/golden_texts.json").read_text())
        same = 0
        for text in texts:
            # No MODEL: the bundled one. The prompt comes by pipe, as one shot.
            got = run(PROGRAM, "run", "--temperature", "0", input=text["prompt"])
            self.assertEqual(got.returncode, 0, got.stderr)
            self.assertIn("tok/s", got.stderr)
            same += got.stdout == text["answer"] + "\n"
        # The story may take another turn after quantisation; questions with one answer may not.
        self.assertGreaterEqual(same, len(texts) - 1)

    def test_bf16_exact_answers(self):
        model = ROOT / "tests/fixtures/demo/gemma3n"
        for text in json.loads((model / "golden_texts.json").read_text()):
            got = run(PROGRAM, "run", str(model), text["prompt"], "--temperature", "0", "--exact")
            self.assertEqual(got.stdout, text["answer"] + "\n", got.stderr)

    def test_script_gives_what_run_gives(self):
        if pathlib.Path(PROGRAM).resolve() != ROOT / "build/release/decant":
            self.skipTest("scripts/demo builds the release preset; this is another build")
        prompt = "What is 3 plus 4?"
        script = run(str(ROOT / "scripts/demo"), prompt, stdin=subprocess.DEVNULL)
        self.assertEqual(script.returncode, 0, script.stderr)
        direct = run(PROGRAM, "run", str(ROOT / "demo/model"), prompt, "--temperature", "0", stdin=subprocess.DEVNULL)
        self.assertEqual(script.stdout, direct.stdout)
        self.assertEqual(script.stdout, "3 plus 4 is 7.\n")


if __name__ == "__main__":
    unittest.main()
