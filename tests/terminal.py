"""A program at a pseudo-terminal, for tests that type at it and read its screen."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

PATIENCE = 180


class Terminal:
    """Starts `arguments` with the terminal as its stdin, stdout and stderr. What it writes is kept in `seen`;
    expect() looks behind what earlier calls have found."""

    def __init__(self, arguments, env, columns=80):
        self.seen = b""
        self.at = 0
        self.status = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execve(arguments[0], [str(argument) for argument in arguments], env)
            finally:
                os._exit(127)
        self.resize(columns)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def resize(self, columns, rows=40):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text):
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self.fd, data):]

    def read(self, timeout):
        """What comes next; empty at the end of output. Fails when nothing comes."""
        if not select.select([self.fd], [], [], timeout)[0]:
            raise AssertionError(f"nothing came in {timeout} s; the screen so far: {self.seen[-2000:]!r}")
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux: the other side is closed
            data = b""
        self.seen += data
        return data

    def expect(self, pattern, timeout=PATIENCE):
        """Reads until the regular expression (or text) is on the screen; returns what came before it."""
        found = re.compile(pattern if isinstance(pattern, bytes) else re.escape(pattern.encode()), re.S)
        deadline = time.monotonic() + timeout
        while True:
            match = found.search(self.seen, self.at)
            if match:
                before = self.seen[self.at:match.start()]
                self.at = match.end()
                return before.decode("utf-8", "replace")
            left = deadline - time.monotonic()
            if left <= 0 or not self.read(left):
                raise AssertionError(f"expected {pattern!r}, got {self.seen[self.at:][-2000:]!r}")

    def more(self, count, timeout=PATIENCE):
        """Reads at least `count` bytes past what was expected so far."""
        deadline = time.monotonic() + timeout
        while len(self.seen) < self.at + count:
            if not self.read(max(0.0, deadline - time.monotonic())):
                raise AssertionError(f"the program ended: {self.seen[-2000:]!r}")
        self.at = len(self.seen)

    def lines_are_cooked(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ICANON)

    def wait(self, timeout=PATIENCE):
        """Reads to the end and returns the exit code (negative: the signal that ended it)."""
        deadline = time.monotonic() + timeout
        while self.read(max(0.0, deadline - time.monotonic())):
            pass
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status
