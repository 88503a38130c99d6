"""decant's conversation at a pseudo-terminal: keys, commands, signals, history, reasoning."""
import json
import os
import re
import shutil
import signal
import stat
import unittest

from cli_fixtures import DECANT, FIXTURES, ROOT, CliTest, decant, environment, make_chat_model
from terminal import Terminal

MODEL = ROOT / "demo/model"
PROMPT = ">>> "
CTRL_C, CTRL_D, UP, LEFT, ENTER, BACKSPACE, TAB = "\x03", "\x04", "\x1b[A", "\x1b[D", "\r", "\x7f", "\t"


def endless_model(folder, **options):
    """A model that says random things until it is stopped: its tokenizer names no end token."""
    folder = make_chat_model(folder, **options)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("eos_token")
    path.write_text(json.dumps(config))
    return folder


class Repl(CliTest):
    def setUp(self):
        super().setUp()
        (self.folder / "home").mkdir()
        self.state = self.folder / "state"

    def env(self, **extra):
        return environment(**{"TERM": "xterm", "LC_ALL": "C.UTF-8", "HOME": str(self.folder / "home"),
                              "XDG_STATE_HOME": str(self.state), **extra})

    def start(self, *flags, model=MODEL, columns=80, **env):
        terminal = Terminal([DECANT, "run", model, *flags], self.env(**env), columns)
        self.addCleanup(terminal.__exit__)
        terminal.expect(PROMPT)
        return terminal

    def say(self, terminal, text):
        """Enters a line and waits for the next prompt; returns what came in between."""
        terminal.send(text + ENTER)
        terminal.expect("\n")
        return terminal.expect(PROMPT)

    def conversation(self, terminal, name="check.json"):
        path = self.folder / name
        self.say(terminal, f"/save {path}")
        return json.loads(path.read_text())["messages"]

    def leave(self, terminal, code=0, by="/bye" + ENTER):
        terminal.send(by)
        self.assertEqual(terminal.wait(), code, terminal.seen[-2000:])


class Input(Repl):
    def test_several_lines(self):
        terminal = self.start("--max-tokens", "3", "--temperature", "0")
        terminal.send('"""first' + ENTER)
        terminal.expect("... ")
        terminal.send("/not a command" + ENTER)
        terminal.expect("... ")
        self.say(terminal, 'last"""')
        terminal.send("one\x1b\rtwo")  # Alt-Enter
        self.say(terminal, "")
        messages = self.conversation(terminal)
        self.assertEqual([m["role"] for m in messages], ["user", "assistant"] * 2)
        self.assertEqual(messages[0]["content"], "first\n/not a command\nlast")
        self.assertEqual(messages[2]["content"], "one\ntwo")
        self.leave(terminal)

    def test_a_paste_is_one_message(self):
        terminal = self.start("--max-tokens", "3", "--temperature", "0")
        self.assertIn(b"\x1b[?2004h", terminal.seen)
        terminal.send("Read: \x1b[200~one\rtwo\r\n\tthree\n\x1b[201~")
        terminal.expect("three")
        self.say(terminal, " ok")
        long = "\n".join(f"line {i}" for i in range(200))
        terminal.send(f"\x1b[200~{long}\x1b[201~")
        terminal.expect("[text 1: 200 lines")
        terminal.send(ENTER)
        terminal.expect("expected at most")  # the context is small in comparison
        terminal.expect(PROMPT)
        self.say(terminal, "/set max-tokens 2")
        messages = self.conversation(terminal)
        self.assertEqual(len(messages), 2)
        self.assertEqual(messages[0]["content"], "Read: one\ntwo\n\tthree ok")
        self.leave(terminal)
        lines = [json.loads(line) for line in (self.state / "decant/history").read_text().splitlines()]
        self.assertIn(long, lines)

    def start(self, *flags, **options):
        return super().start("--ctx-size", "512", *flags, **options)

    def test_logprobs_follow_the_answer(self):
        terminal = self.start("--max-tokens", "3", "--temperature", "0", "--logprobs", "1")
        self.assertEqual(len(re.findall(r"token \d+ \".*?\" logprob -?\d+\.\d{4}; likeliest: ", self.say(terminal, "Hi"))), 3)
        self.leave(terminal)

    def test_editing_knows_characters(self):
        terminal = self.start("--max-tokens", "2")
        terminal.send("añ漢" + BACKSPACE + "x👩‍👩‍👧" + BACKSPACE + "ye\u0301" + LEFT + LEFT + "z")
        self.say(terminal, "")
        self.assertEqual(self.conversation(terminal)[0]["content"], "añxzye\u0301")
        self.leave(terminal)

    def test_invalid_utf8_is_refused(self):
        terminal = self.start("--max-tokens", "2")
        terminal.send(b"caf\xe9 au lait" + ENTER.encode())
        terminal.expect("expected UTF-8 text, got the byte 0xe9")
        terminal.expect(PROMPT)
        self.assertEqual(self.conversation(terminal), [])
        terminal.send(b"\x1b[200~pasted \xff\x1b[201~\r")
        terminal.expect("got the byte 0xff at offset 7")
        terminal.expect(PROMPT)
        terminal.send(UP)
        terminal.expect("pasted")
        self.say(terminal, "")
        self.assertEqual(self.conversation(terminal)[0]["content"], "pasted \ufffd")
        self.leave(terminal)

    def test_completion(self):
        (self.folder / "talk one.json").write_text('[{"role": "user", "content": "hi"}]')
        terminal = self.start()
        terminal.send("/sho" + TAB + "mod" + TAB + ENTER)
        terminal.expect("gemma3n_text")
        terminal.expect(PROMPT)
        terminal.send("/s" + TAB)
        for name in ("/save", "/set", "/show", "/stats", "/system"):
            terminal.expect(name)
        terminal.send(CTRL_C)
        terminal.expect(PROMPT)
        terminal.send(f"/load {self.folder}/tal" + TAB + ENTER)
        terminal.expect("1 messages from")
        self.leave(terminal)

    def test_end_of_input(self):
        terminal = self.start()
        terminal.send("abc" + CTRL_D)  # not on an empty line: nothing to delete there
        terminal.send("\x15" + CTRL_D)
        self.assertEqual(terminal.wait(), 0)
        terminal = self.start(TERM="dumb")
        self.leave(terminal, by=CTRL_D)

    def test_without_line_editing(self):
        terminal = self.start("--max-tokens", "2", TERM="dumb")
        self.assertNotIn(b"\x1b", terminal.seen)
        self.assertTrue(terminal.lines_are_cooked())
        terminal.send('"""a\n')
        terminal.expect("... ")
        self.say(terminal, 'b"""')
        terminal.send("half a line")
        terminal.expect("half a line")
        terminal.send(CTRL_C)
        terminal.expect(PROMPT)
        messages = self.conversation(terminal)
        self.assertEqual([m["content"] for m in messages][:1], ["a\nb"])
        self.assertEqual(len(messages), 2)
        terminal.send(CTRL_C)
        terminal.expect("again leaves")
        terminal.expect(PROMPT)
        terminal.send(CTRL_C)
        self.assertEqual(terminal.wait(), 130)
        self.assertNotIn(b"\x1b", terminal.seen)


class Signals(Repl):
    def setUp(self):
        super().setUp()
        self.long = endless_model(self.folder / "long", positions=100_000)
        self.flags = ("--ctx-size", "50000", "--temperature", "1", "--seed", "3")

    def test_interrupt_in_an_answer(self):
        terminal = self.start(*self.flags, model=self.long)
        terminal.send("Hello" + ENTER)
        terminal.expect("\n")
        terminal.more(200)  # the answer is under way
        terminal.send(CTRL_C)
        terminal.expect("(stopped)")
        terminal.expect(PROMPT)
        messages = self.conversation(terminal)
        self.assertEqual([m["role"] for m in messages], ["user", "assistant"])
        self.assertGreater(len(messages[1]["content"]), 20)
        self.say(terminal, "/set max-tokens 4")
        self.say(terminal, "And now?")
        after = self.conversation(terminal)
        self.assertEqual(after[:2], messages)
        self.assertEqual(len(after), 4)
        # It can be stopped again and again.
        self.say(terminal, "/set max-tokens default")
        for _ in range(2):
            terminal.send("/retry" + ENTER)
            terminal.expect("\n")
            terminal.more(100)
            terminal.send(CTRL_C)
            terminal.expect("(stopped)")
            terminal.expect(PROMPT)
        self.assertEqual(len(self.conversation(terminal)), 4)
        self.leave(terminal)

    def test_interrupt_at_the_prompt(self):
        terminal = self.start("--max-tokens", "2")
        terminal.send("never sent" + CTRL_C)
        terminal.expect(PROMPT)
        self.assertEqual(self.conversation(terminal), [])  # and the count starts anew
        terminal.send(CTRL_C)
        terminal.expect("again leaves")
        terminal.expect(PROMPT)
        terminal.send('"""block' + ENTER)
        terminal.expect("... ")
        terminal.send(CTRL_C)
        terminal.expect(PROMPT)
        self.assertFalse(terminal.lines_are_cooked())
        terminal.send(CTRL_C)
        self.assertEqual(terminal.wait(), 130)

    def test_terminate(self):
        terminal = self.start()
        os.kill(terminal.pid, signal.SIGTERM)
        self.assertEqual(terminal.wait(), 143)
        self.assertTrue(terminal.lines_are_cooked())
        self.assertTrue(terminal.seen.count(b"\x1b[?2004l") >= terminal.seen.count(b"\x1b[?2004h") == 1)
        terminal = self.start(*self.flags, model=self.long)
        terminal.send("Hello" + ENTER)
        terminal.expect("\n")
        terminal.more(100)
        os.kill(terminal.pid, signal.SIGTERM)
        self.assertEqual(terminal.wait(), 143)

    def test_resize(self):
        terminal = self.start(*self.flags, model=self.long, columns=120)
        terminal.send("Hello" + ENTER)
        terminal.expect("\n")
        terminal.more(400)
        terminal.resize(30)
        terminal.more(300)  # what was laid out before, at most
        terminal.expect("\n")
        start = terminal.at
        terminal.more(3000)
        text = terminal.seen[start:].decode("utf-8", "replace")
        lines = [line for line in text.split("\n")[:-1] if line.isascii()]
        self.assertGreater(len(lines), 10)
        for line in lines:
            self.assertTrue(len(line.strip()) <= 30 or max(map(len, line.split())) > 30, line)
        terminal.send(CTRL_C)
        terminal.expect("(stopped)")
        terminal.expect(PROMPT)
        terminal.resize(50)
        terminal.expect(PROMPT)  # drawn anew
        terminal.send("/set max-tokens 3")
        terminal.resize(70)
        terminal.expect("/set max-tokens 3")
        terminal.send(ENTER)
        terminal.expect("max-tokens 3")
        self.leave(terminal)


class Commands(Repl):
    def test_unknown_commands(self):
        terminal = self.start()
        self.assertIn('got "/hlep": did you mean /help?', self.say(terminal, "/hlep"))
        self.assertIn("/retry", self.say(terminal, "/help"))
        self.assertIn("expected a setting", self.say(terminal, "/set colour red"))
        self.assertIn("got \"7\"", self.say(terminal, "/set top-p 7"))
        self.assertIn("expected an answer to make anew", self.say(terminal, "/retry"))
        self.assertEqual(self.conversation(terminal), [])
        for command in ("/exit", "/quit"):
            self.leave(terminal, by=command + ENTER)
            terminal = self.start()
        self.leave(terminal)

    def test_show_and_stats(self):
        terminal = self.start("--ctx-size", "300", "--temperature", "0", "--max-tokens", "4", "--system", "Be kind")
        shown = self.say(terminal, "/show")
        for part in ("demo/model", "gemma3n_text", "chat_template.jinja", "Be kind", "of 300 tokens", "temperature",
                     "max-tokens          4"):
            self.assertIn(part, shown)
        self.assertNotIn("tok/s", self.say(terminal, "What is 3 plus 4?"))
        self.say(terminal, "/stats")
        self.assertRegex(self.say(terminal, "What is 3 plus 4?"), r"prompt \d+ tokens.*\(\d+ tokens, \w+\)")
        self.say(terminal, "/system Be brief")
        self.assertEqual(self.conversation(terminal)[0], {"role": "system", "content": "Be brief"})
        self.say(terminal, "/clear")
        self.assertEqual(self.conversation(terminal), [{"role": "system", "content": "Be brief"}])
        self.say(terminal, '/system ""')
        self.assertEqual(self.conversation(terminal), [])
        self.leave(terminal)

    def test_save_and_load(self):
        saved = self.folder / "talk.json"
        terminal = self.start("--temperature", "0", "--max-tokens", "20")
        self.say(terminal, "What is the opposite of hot?")
        self.say(terminal, f"/save {saved}")
        self.say(terminal, "And of big?")
        first = self.conversation(terminal, "first.json")
        self.leave(terminal)
        self.assertEqual(json.loads(saved.read_text())["parameters"], {"temperature": 0.0, "max_tokens": 20})

        terminal = self.start("--temperature", "1")
        self.say(terminal, "Something else")
        self.assertIn("2 messages from", self.say(terminal, f"/load {saved}"))
        shown = self.say(terminal, "/show parameters")
        self.assertRegex(shown, r"temperature +0 ")
        self.assertRegex(shown, r"max-tokens +20 ")
        self.say(terminal, "And of big?")
        self.assertEqual(self.conversation(terminal, "second.json"), first)

        broken = self.write("broken.json", {"messages": [{"role": "user", "content": 5}], "parameters": {"top_p": 9}})
        answer = self.say(terminal, f"/load {broken}")
        self.assertIn("messages[0].content: expected a text", answer)
        self.assertIn("broken.json", answer)
        self.assertIn("absent.json", self.say(terminal, f"/load {self.folder}/absent.json"))
        notes = self.write("notes.txt", "mine")
        self.assertIn("it stays", self.say(terminal, f"/save {notes}"))
        self.assertEqual(notes.read_text(), "mine")
        self.assertEqual(self.conversation(terminal, "second.json"), first)  # nothing has changed
        self.leave(terminal)

    def test_retry(self):
        model = make_chat_model(self.folder / "chat")
        terminal = self.start("--temperature", "1", "--max-tokens", "12", model=model)
        self.say(terminal, "Hello")
        answers = [self.conversation(terminal)]
        for _ in range(2):
            self.say(terminal, "/retry")
            answers.append(self.conversation(terminal))
        self.assertTrue(all(len(talk) == 2 and talk[0] == answers[0][0] for talk in answers))
        self.assertEqual(len({talk[1]["content"] for talk in answers}), 3)  # new random numbers each time
        self.say(terminal, "/set seed 5")
        self.say(terminal, "/retry")
        seeded = self.conversation(terminal)
        self.say(terminal, "/retry")
        self.assertEqual(self.conversation(terminal), seeded)
        self.leave(terminal)

    def test_full_context(self):
        terminal = self.start("--ctx-size", "64", "--temperature", "0", "--max-tokens", "4")
        self.say(terminal, "What is 3 plus 4?")
        before = self.conversation(terminal)
        said = self.say(terminal, "word " * 100)
        self.assertRegex(" ".join(said.split()), r"\[context\] .*expected at most 63 tokens .*got \d+.*/clear.*--ctx-size")
        self.assertEqual(self.conversation(terminal), before)
        self.say(terminal, "/set max-tokens default")
        self.say(terminal, "/clear")
        self.say(terminal, "/set stop zzz")
        self.leave(terminal)

    def test_answer_ends_with_the_context(self):
        model = make_chat_model(self.folder / "chat")
        terminal = self.start("--ctx-size", "64", "--temperature", "1", "--seed", "3", model=model)
        self.assertIn("context of 64 tokens", " ".join(self.say(terminal, "Hello").split()))
        self.leave(terminal)


class History(Repl):
    def test_goes_from_run_to_run(self):
        terminal = self.start("--max-tokens", "2")
        self.say(terminal, "an old question")
        terminal.send('"""two' + ENTER)
        terminal.expect("... ")
        self.say(terminal, 'lines"""')
        self.leave(terminal)
        path = self.state / "decant/history"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual([json.loads(line) for line in path.read_text().splitlines()],
                         ["an old question", '"""two\nlines"""', "/bye"])
        terminal = self.start("--max-tokens", "2")
        terminal.send(UP + UP + UP)
        terminal.expect("an old question")
        self.say(terminal, "")
        terminal.send(UP + UP + UP)  # /bye, then the block
        terminal.expect("lines")
        self.say(terminal, "")
        self.assertEqual([m["content"] for m in self.conversation(terminal) if m["role"] == "user"],
                         ["an old question", "two\nlines"])
        self.leave(terminal)

    def test_is_no_condition(self):
        (self.folder / "blocked").write_text("a file")
        terminal = Terminal([DECANT, "run", MODEL, "--max-tokens", "2"],
                            self.env(XDG_STATE_HOME=str(self.folder / "blocked")))
        self.addCleanup(terminal.__exit__)
        terminal.expect("note: history is not kept")
        terminal.expect(PROMPT)
        self.say(terminal, "Hello")
        terminal.send(UP)
        terminal.expect("Hello")
        terminal.send(CTRL_C)
        terminal.expect(PROMPT)
        self.leave(terminal)
        env = {name: value for name, value in self.env().items() if name not in ("XDG_STATE_HOME",)}
        with Terminal([DECANT, "run", MODEL], env) as terminal:
            terminal.expect(PROMPT)
            self.leave(terminal)
        self.assertTrue((self.folder / "home/.local/state/decant/history").exists())


class Thinking(Repl):
    def setUp(self):
        super().setUp()
        self.model = endless_model(self.folder / "thinker")
        # The prompt opens the block; enable_thinking=false closes it at once.
        shutil.copy(FIXTURES / "templates/qwen3_5.jinja", self.model / "chat_template.jinja")

    FLAGS = ("--temperature", "1", "--seed", "3", "--max-tokens", "24")
    QUESTION = "What is the opposite of hot?"

    def run_once(self, *flags, model=None):
        return self.good("run", model or self.model, self.QUESTION, *self.FLAGS, *flags)

    def test_stdout_holds_the_answer_only(self):
        off = self.run_once("--thinking", "off")
        self.assertGreater(len(off.stdout), 30)
        self.assertNotIn("think", off.stderr)
        # Left alone the model never ends its block.
        hidden = self.run_once()
        self.assertEqual(hidden.stdout, "\n")
        self.assertIn("all of it is reasoning", hidden.stderr)
        shown = self.run_once("--show-thinking")
        self.assertEqual(shown.stdout, "\n")
        reasoning = shown.stderr.split("thinking:\n", 1)[1].split("\n\nnote:", 1)[0]
        self.assertGreater(len(reasoning), 30)
        limited = self.run_once("--thinking", "5", "--show-thinking")
        self.assertGreater(len(limited.stdout), 20)
        part = limited.stderr.split("thinking:\n", 1)[1].split("\n\nprompt ", 1)[0]
        self.assertTrue(reasoning.startswith(part) and len(part) < len(reasoning), (part, reasoning))
        self.assertIn("(24 tokens, length)", limited.stderr)
        self.assertNotIn("think>", limited.stdout)
        ended = self.run_once("--thinking", "0", "--show-thinking")
        self.assertNotIn("thinking:", ended.stderr)
        self.assertGreater(len(ended.stdout), 30)

    def test_models_that_do_not_think(self):
        plain = self.run_once(model=MODEL)
        for flags in (("--thinking", "off"), ("--quiet", "--thinking", "off")):
            got = self.run_once(*flags, model=MODEL)
            self.assertEqual(got.stdout, plain.stdout)
            self.assertNotIn("no effect", got.stderr)
        said = self.run_once("--thinking", "off", "--verbose", model=MODEL).stderr
        self.assertEqual(said.count("thinking off has no effect"), 1)
        self.assertIn("no effect", self.run_once("--thinking", "on", model=MODEL).stderr)
        self.bad(2, "run", MODEL, "Hi", "--thinking", "100", says=["[thinking]", "100 tokens", "chat template"])
        self.bad(2, "run", MODEL, "Hi", "--thinking", "much", says=["--thinking", "much"])
        self.bad(2, "run", MODEL, "Hi", "--thinking", "off", "--raw", says="--raw")

    def test_at_a_terminal(self):
        terminal = self.start(*self.FLAGS, "--thinking", "6", model=self.model)
        said = self.say(terminal, self.QUESTION)
        self.assertIn("thinking ... ", said)
        self.assertIn("thought: 6 tokens", said)
        talk = self.conversation(terminal)
        self.assertEqual([m["role"] for m in talk], ["user", "assistant"])
        self.assertGreater(len(talk[1]["reasoning_content"]), 2)
        self.assertNotIn("think>", talk[1]["content"] + talk[1]["reasoning_content"])
        first = talk[1]["reasoning_content"].split()[0]
        self.assertNotIn(first, said)  # folded
        self.assertIn(first, self.say(terminal, "/show thinking"))
        self.assertIn("enable_thinking", self.say(terminal, "/show template"))
        self.say(terminal, "/set show-thinking on")
        said = self.say(terminal, "/retry")
        self.assertIn(first, said)
        self.assertNotIn("thinking ...", said)
        self.assertEqual(self.conversation(terminal), talk)
        self.say(terminal, "/set thinking off")
        self.say(terminal, "/retry")
        self.assertNotIn("reasoning_content", self.conversation(terminal)[1])
        self.leave(terminal)

    def test_refused_in_a_conversation(self):
        terminal = self.start()
        self.assertIn("[thinking] a budget of 9 tokens", self.say(terminal, "/set thinking 9"))
        self.assertIn("thinking default", self.say(terminal, "/set thinking"))
        self.leave(terminal)


class OneShot(Repl):
    def test_wrapping_is_for_terminals(self):
        question = "Tell me a story about a fox."
        flags = ("--temperature", "0", "--max-tokens", "60", "--quiet")
        piped = decant("run", MODEL, question, *flags).stdout
        screens = {}
        for columns, more in ((30, ()), (30, ("--no-wrap",)), (200, ())):
            with Terminal([DECANT, "run", MODEL, question, *flags, *more], self.env(), columns) as terminal:
                terminal.wait()
                screens[columns, more] = terminal.seen.decode().split("\x1b[K")[-1].replace("\r\n", "\n")
        self.assertEqual(screens[30, ("--no-wrap",)], piped)
        wrapped = screens[30, ()]
        self.assertEqual(wrapped.split(), piped.split())
        self.assertLessEqual(max(map(len, wrapped.splitlines())), 30)
        self.assertGreater(len(wrapped.splitlines()), len(screens[200, ()].splitlines()))


if __name__ == "__main__":
    unittest.main()
