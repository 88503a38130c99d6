"""Process tests of decant: doctor, completion (by bash itself), manual pages, and the search of the help."""
import json
import os
import re
import resource
import shutil
import subprocess
import unittest
from pathlib import Path

from cli_fixtures import DECANT, CliTest, environment

VERBS = ["run", "inspect", "tokenize", "template", "logits", "quantize", "bench", "graph", "eval", "list", "doctor",
         "completion", "man"]
BASH = shutil.which("bash")
ZSH = shutil.which("zsh")
FISH = shutil.which("fish")
GROFF = shutil.which("groff")


class Doctor(CliTest):
    def findings(self, code=0, preexec=None, **env):
        result = subprocess.run([DECANT, "doctor", "--json"], env=environment(**env), text=True, capture_output=True,
                                preexec_fn=preexec)
        self.assertEqual(result.returncode, code, result.stderr)
        report = json.loads(result.stdout)
        self.assertEqual(report["runs"], code == 0)
        for finding in report["findings"]:
            self.assertEqual(set(finding), {"area", "name", "value", "state", "remedy"})
            self.assertIn(finding["state"], ("fine", "note", "problem"))
            self.assertEqual(finding["state"] == "fine", finding["remedy"] is None, finding)
            self.assertTrue(finding["value"], finding)
        self.stderr = result.stderr
        return {(f["area"], f["name"]): f for f in report["findings"]}

    def test_machine(self):
        found = self.findings()
        self.assertEqual({area for area, _ in found},
                         {"build", "devices", "processor", "memory", "media", "models", "folders"} |
                         ({"environment"} if ("environment",) in [(a,) for a, _ in found] else set()))
        version = subprocess.run([DECANT, "--version"], text=True, capture_output=True).stdout.split()[1]
        self.assertEqual(found["build", "version"]["value"], version)
        self.assertRegex(found["build", "compiler"]["value"], r"\A\w+ \d+")
        self.assertEqual(found["devices", "cpu"]["state"], "fine")
        selected = [name for (area, name), f in found.items() if area == "processor" and f["value"] == "selected"]
        self.assertEqual(len(selected), 1)
        if os.path.exists("/proc/meminfo"):
            kib = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text()).group(1))
            number, unit = found["memory", "total"]["value"].split()
            self.assertAlmostEqual(float(number) * 1024 ** {"MiB": 2, "GiB": 3, "TiB": 4}[unit] / (kib * 1024), 1, delta=0.01)
        text = self.good("doctor").stdout
        self.assertIn("decant can run here", text)
        for finding in found.values():
            if finding["remedy"]:
                self.assertIn("remedy: ", text)

    def test_a_commit_is_named(self):
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, text=True, capture_output=True)
        commit = self.findings()["build", "commit"]["value"]
        if git.returncode == 0 and commit != "unknown":
            self.assertTrue(re.match(r"[0-9a-f]{12}(-dirty)?\Z", commit) or "-g" in commit or commit[0] == "v", commit)

    def test_what_prevents_running(self):
        found = self.findings(1, DECANT_CPU_ISA="mmx")
        self.assertEqual(found["processor", "kernels"]["state"], "problem")
        self.assertIn("mmx", found["processor", "kernels"]["value"])
        self.assertIn("DECANT_CPU_ISA", found["processor", "kernels"]["remedy"])
        self.assertEqual(found["devices", "usable"]["state"], "problem")
        self.assertRegex(self.stderr, r"\Adecant: error: \[doctor\] decant cannot run here: ")
        if os.uname().sysname == "Linux":
            found = self.findings(1, preexec=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)))
            self.assertIn("ulimit -v unlimited", found["memory", "addresses (ulimit -v)"]["remedy"])
            self.assertEqual(found["devices", "usable"]["state"], "problem")

    def test_models_and_environment(self):
        models = self.folder / "models"
        self.copy_model(name="models/good")
        broken = self.copy_model(name="models/broken")
        (broken / "model.safetensors").write_text("x")
        found = self.findings(DECANT_MODELS_DIR=str(models), HF_HUB_CACHE=str(self.folder / "hub"), DECANT_MAX_TOKNES="5",
                              HF_TOKEN="hf_secret", XDG_STATE_HOME=str(self.write("file", "x")))
        self.assertEqual(found["models", "good"]["value"], "qwen3 bf16, complete")
        self.assertEqual(found["models", "broken"]["state"], "note")
        self.assertIn(str(broken), found["models", "broken"]["remedy"])
        self.assertIn("not there", found["models", "Hugging Face cache"]["value"])
        self.assertIn("DECANT_MAX_TOKENS?", found["environment", "DECANT_MAX_TOKNES"]["remedy"])
        self.assertEqual(found["environment", "DECANT_MODELS_DIR"]["state"], "fine")
        self.assertEqual(found["environment", "HF_TOKEN"]["value"], "set (not shown)")
        self.assertEqual(found["folders", "state"]["state"], "note")
        empty = self.findings(HF_HUB_CACHE=str(self.folder / "hub"))
        self.assertIn("--models-dir", empty["models", "found"]["remedy"])


class Completion(CliTest):
    def complete(self, *words, cwd=None, env=None):
        """What bash itself offers for the last word."""
        script = ('source <("$1" completion bash); COMP_WORDS=("${@:2}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); '
                  '_decant "$1"; printf "%s\\n" "${COMPREPLY[@]}"')
        result = subprocess.run([BASH, "--norc", "-c", script, "bash", DECANT, "decant", *words], text=True,
                                capture_output=True, env=env or environment(), cwd=cwd or self.folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "", words)
        return sorted(line for line in result.stdout.split("\n") if line)

    @unittest.skipUnless(BASH, "bash is not installed")
    def test_bash(self):
        self.assertEqual(self.complete(""), sorted([*VERBS, "help", "--help", "--version", "-h"]))
        self.assertEqual(self.complete("in"), ["inspect"])
        self.assertEqual(self.complete("help", "qu"), ["quantize"])
        self.assertEqual(self.complete("run", "--dev"), ["--device"])
        self.assertIn("--max-tokens", self.complete("run", "model", "--"))
        devices = sorted(["auto", "cpu", "cuda", "mlx", "reference"])
        self.assertEqual(self.complete("run", "--device", ""), devices)
        self.assertEqual(self.complete("run", "--device", "c"), ["cpu", "cuda"])
        self.assertEqual(self.complete("run", "--device", "="), devices)  # bash splits --device=
        self.assertEqual(self.complete("run", "--device", "=", "c"), ["cpu", "cuda"])
        self.assertEqual(self.complete("completion", ""), ["bash", "fish", "zsh"])
        self.assertEqual(self.complete("run", "--max-tokens", ""), [])  # a number
        self.assertEqual(self.complete("list", ""), [])
        self.assertEqual(self.complete("nonsense", ""), [])
        self.assertEqual(self.complete("graph", "--phase", ""), ["decode", "prefill"])

    @unittest.skipUnless(BASH, "bash is not installed")
    def test_bash_offers_files_and_models(self):
        self.write("notes.txt", "x")
        self.write("two words.txt", "x")
        self.copy_model(name="models/tiny-qwen")
        self.copy_model(name="models/org/other")
        env = environment(DECANT_MODELS_DIR=str(self.folder / "models"), HF_HUB_CACHE=str(self.folder / "none"))
        self.assertEqual(self.complete("eval", "m", "--text", "n", env=env), ["notes.txt"])
        self.assertEqual(self.complete("eval", "m", "--text", "=", "t", env=env), ["two words.txt"])
        self.assertEqual(self.complete("inspect", "t", env=env), ["tiny-qwen"])
        self.assertEqual(self.complete("inspect", "", env=env), ["models", "org/other", "tiny-qwen"])
        self.assertEqual(self.complete("inspect", "--ctx-size", "5", "o", env=env), ["org/other"])
        self.assertEqual(self.complete("inspect", "--ctx-size", "=", "5", "o", env=env), ["org/other"])
        self.assertEqual(self.complete("eval", "m", "--reference", "o", env=env), ["org/other"])
        self.assertEqual(self.complete("quantize", "t", env=env), ["tiny-qwen"])
        self.assertEqual(self.complete("quantize", "tiny-qwen", "mod", env=env), ["models"])

    @unittest.skipUnless(BASH, "bash is not installed")
    def test_bash_syntax(self):
        script = self.good("completion", "bash").stdout
        result = subprocess.run([BASH, "-n"], input=script, text=True, capture_output=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        sourced = subprocess.run([BASH, "--norc", "-c", 'source <("$1" completion bash); complete -p decant', "bash", DECANT],
                                 text=True, capture_output=True)
        self.assertEqual(sourced.stdout, "complete -F _decant decant\n", sourced.stderr)

    @unittest.skipUnless(ZSH, "zsh is not installed")
    def test_zsh_syntax(self):
        script = self.write("_decant", self.good("completion", "zsh").stdout)
        result = subprocess.run([ZSH, "-n", script], text=True, capture_output=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    @unittest.skipUnless(FISH, "fish is not installed")
    def test_fish(self):
        script = self.write("decant.fish", self.good("completion", "fish").stdout)
        result = subprocess.run([FISH, "-n", script], text=True, capture_output=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        for line, words in (("decant run --dev", ["--device"]), ("decant run --device c", ["cpu", "cuda"]),
                            ("decant insp", ["inspect"]), ("decant completion ", ["bash", "fish", "zsh"])):
            result = subprocess.run([FISH, "--no-config", "-c", f"source {script}; complete -C '{line}'"], text=True,
                                    capture_output=True, env=environment())
            self.assertEqual(sorted(got.split("\t")[0] for got in result.stdout.splitlines()), words, result.stderr)

    def test_every_flag_is_in_every_script(self):
        for shell, spelled in (("bash", "--{}"), ("zsh", "--{}"), ("fish", "-l {}")):
            script = self.good("completion", shell).stdout
            for verb in VERBS:
                for flag in re.findall(r"^  (?:-\w,)?--([\w-]+)", self.good(verb, "--help").stdout, re.M):
                    self.assertIn(spelled.format(flag), script, f"{shell} {verb}")
        self.bad(2, "completion", "tcsh", says="tcsh")


class Man(CliTest):
    def lint(self, page):
        """What groff finds wrong, and the plain text it makes of the page."""
        result = subprocess.run([GROFF, "-ww", "-man", "-Tutf8", "-P-cbou"], input=page, text=True, capture_output=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return result.stdout

    def test_pages(self):
        pages = {"": self.good("man").stdout, **{verb: self.good("man", verb).stdout for verb in VERBS}}
        for verb, page in pages.items():
            name = "decant" if not verb else "decant-" + verb
            self.assertTrue(page.startswith(f'.TH {name.upper().replace("-", chr(92) + "-")} 1 '), page[:40])
            for section in (".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS", ".SH EXIT STATUS", ".SH SEE ALSO"):
                self.assertEqual(page.count(section + "\n"), 1, f"{name} {section}")
            for line in page.splitlines():
                self.assertRegex(line, r"\A(\.(TH|SH|TP|nf|fi)\b|[^.'])", name)
            self.assertEqual(page.count(".nf\n"), page.count("\n.fi\n"))
            plain = page.replace("\\-", "-")
            if verb:
                for flag in re.findall(r"^  (?:-\w,)?(--[\w-]+)", self.good(verb, "--help").stdout, re.M):
                    self.assertIn(f"\\fB{flag}\\fR", plain, name)
            if GROFF:
                text = re.sub(r"\s+", " ", self.lint(page))
                self.assertIn("DECANT(1)" if not verb else f"DECANT-{verb.upper()}(1)", text)
                if verb:
                    self.assertIn("--help", text)
        for verb in VERBS:
            self.assertIn(f"decant-{verb}", pages[""].replace("\\-", "-"))
        self.bad(2, "man", "rnu", says=["rnu", "run"])

    def test_all_pages_into_a_folder(self):
        self.good("man", "--output", self.folder / "man1")
        self.assertEqual({path.name for path in (self.folder / "man1").iterdir()},
                         {"decant.1"} | {f"decant-{verb}.1" for verb in VERBS})
        self.assertEqual((self.folder / "man1/decant-run.1").read_text(), self.good("man", "run").stdout)
        self.bad(2, "man", "run", "--output", self.folder / "x", says="--output")


class Search(CliTest):
    def test_finds_flags_of_all_verbs(self):
        found = self.good("--help=context").stdout
        for expected in ("decant run --ctx-size", "decant inspect --ctx-size", "decant eval --context", "decant bench --context"):
            self.assertIn(expected, found)
        self.assertNotIn("decant tokenize --text", found)
        self.assertEqual(self.good("help", "context").stdout, found)
        self.assertEqual(self.good("--help=CONTEXT").stdout, found)
        self.assertEqual(self.good("run", "--help=context").stdout, found)
        self.assertIn("decant run --max-tokens", self.good("--help=DECANT_MAX_TOKENS").stdout)
        self.assertIn("--phase {decode,prefill}", self.good("help", "prefill").stdout)
        self.assertIn("decant quantize", self.good("--help=quantised copy").stdout)
        self.assertEqual(self.good("help", "run").stdout, self.good("run", "--help").stdout)

    def test_misses_name_the_nearest(self):
        self.bad(2, "--help=max-tokns", says=["max-tokns", "--max-tokens"])
        self.bad(2, "help", "tokenise", says=["tokenise", "tokenize"])
        self.bad(2, "--help=zzzzzzzzzz", says="none")
        self.bad(2, "--help=", says='""')
        self.bad(2, "inspekt", says=["inspekt", "inspect"])

    def test_search_leaves_arguments_alone(self):
        result = self.bad(3, "run", self.folder / "absent", "--", "--help=context")
        self.assertIn("absent", result.stderr)


if __name__ == "__main__":
    unittest.main()
