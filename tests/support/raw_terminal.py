"""A program in a bare pseudo-terminal: what the test writes arrives as it is, and nothing is drawn anywhere.

tmux cannot test pastes, because it rewrites them.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable

from tests.conftest import REPOSITORY

TIMEOUT_SECONDS = 20.0
GIVEN_BACK = ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1000l", "\x1b[?2004l")
"""Alternate screen off, cursor on, mouse off, bracketed paste off."""


def read_until(terminal: int, text: str, process: subprocess.Popen[bytes]) -> str:
    """What the program writes, until it has written `text` or has ended."""
    shown, deadline = b"", time.monotonic() + TIMEOUT_SECONDS
    while text.encode() not in shown and time.monotonic() < deadline:
        has_ended = process.poll() is not None
        if select.select([terminal], [], [], 0.05)[0]:
            shown += os.read(terminal, 65536)
        elif has_ended:
            break
    return shown.decode(errors="replace")


class RawTerminal:
    """Runs a Python module in its own terminal of 80 columns and 24 rows.

    A thread reads what the program writes, so that the program never waits for the terminal.
    """

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        self.file, self._theirs = pty.openpty()
        self.attributes_before = termios.tcgetattr(self._theirs)
        self._written = bytearray()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            cwd=REPOSITORY,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"} | environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                if select.select([self.file], [], [], 0.1)[0]:
                    self._written += os.read(self.file, 65536)

    @property
    def written(self) -> str:
        """All that the program has written so far."""
        return self._written.decode(errors="replace")

    @property
    def attributes(self) -> list[object]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._theirs)

    def write(self, text: str, *, pieces: int = 1) -> None:
        """Send the text, in several writes of about the same size."""
        data = text.encode(errors="surrogatepass")
        size = max(1, -(-len(data) // pieces))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            while piece:
                piece = piece[os.write(self.file, piece) :]

    def press(self, key: str) -> bool:
        """Send a key. Return False, so that a condition to wait for may press it again and again."""
        self.write(key)
        return False

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds. Fails after `TIMEOUT_SECONDS`, or if the program ends first."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            code = self.process.poll()
            assert code is None or condition(), f"ended with {code}:\n{self.written[-2000:]!r}"
            assert time.monotonic() < deadline, f"waited {TIMEOUT_SECONDS} s:\n{self.written[-2000:]!r}"
            time.sleep(0.005)

    def until_written(self, text: str) -> None:
        """Wait until the program has written the text."""
        self.until(lambda: text in self.written)

    def wait(self) -> int:
        """Wait for the program's end, read the rest of what it wrote, and return its exit code."""
        code = self.process.wait(TIMEOUT_SECONDS)
        time.sleep(0.05)
        return code

    def hang_up(self) -> None:
        """Close the terminal, as a closed window does."""
        os.close(self.file)
        os.close(self._theirs)
        self.file = self._theirs = -1

    def close(self) -> None:
        """Kill the program and close the terminal."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.file >= 0:
            self.hang_up()
