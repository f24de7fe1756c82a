"""The chat in a real terminal: what Pilot cannot see, which is key order, drawing and the end of the process."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.chat_with_fake_engine import NUMBERS, TOKEN_SECONDS

TMUX = shutil.which("tmux")
PATIENCE_SECONDS = 15.0

pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed")


class Terminal:
    """A program in a tmux server of its own."""

    def __init__(self, command: str, width: int = 80, height: int = 24) -> None:
        self._folder = tempfile.mkdtemp(prefix="chat")
        size = ["-x", str(width), "-y", str(height)]
        # The shell outlives the program, so that its exit code and last words can be read. COLUMNS and LINES, where
        # the test run has them, would hide the terminal's own size.
        shell = f"unset COLUMNS LINES; cd '{REPOSITORY}' && TERM=xterm-256color {command}; echo exit code $?; sleep 60"
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, shell)
        self._tmux("set-option", "-s", "set-clipboard", "on")

    def _tmux(self, *arguments: str) -> str:
        assert TMUX is not None
        command = [TMUX, "-u", "-S", f"{self._folder}/socket", *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout

    def type(self, text: str) -> None:
        """Send characters and, in the same write, a following Enter where the text ends in a line feed."""
        self._tmux("send-keys", "-l", text.replace("\n", "\r"))

    def press(self, *keys: str) -> None:
        """Send keys by tmux's names."""
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        """What the terminal shows."""
        return self._tmux("capture-pane", "-p")

    def clipboard(self) -> str:
        """What programs have put into the terminal's clipboard."""
        return self._tmux("show-buffer")

    def until(self, condition: Callable[[str], object]) -> str:
        """Wait until the screen fulfils the condition."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s in vain; the terminal shows:\n{screen}"
            time.sleep(0.02)
        return screen

    def close(self) -> None:
        """End the server and all in it."""
        self._tmux("kill-server")
        shutil.rmtree(self._folder)


@pytest.fixture
def open_chat() -> Iterator[Callable[..., Terminal]]:
    """Opens chats with a counting model, and closes them."""
    terminals: list[Terminal] = []

    def open_chat(loading: str = "", **size: int) -> Terminal:
        terminals.append(Terminal(f"'{sys.executable}' -m tests.support.chat_with_fake_engine {loading}", **size))
        return terminals[-1]

    yield open_chat
    for terminal in terminals:
        terminal.close()


def test_a_conversation(open_chat: Callable[..., Terminal]) -> None:
    terminal = open_chat()
    terminal.until(lambda screen: "ready · counting" in screen)
    for number in range(5):
        # Enter right behind the text: with a priority binding it overtakes the last characters.
        line = f"line {number} [with brackets and no word lost on the way to the end"
        terminal.type(f"{line}\n")
        terminal.until(lambda screen, line=line: f"You said: {line}." in screen)
        terminal.press("Escape")
        terminal.until(lambda screen: "ready · counting" in screen and "stopped by you" in screen)
    terminal.type("a")
    terminal.press("C-j")
    terminal.type("b\n")

    def is_whole(screen: str) -> bool:
        """Waited for, since a screen may be looked at while it is drawn."""
        rows = screen.splitlines()
        is_framed = [row[:1] for row in rows[-5:-2]] == ["╭", "│", "╰"]
        return is_framed and "writing" in rows[-2] and "Send" in rows[-1] and "ctrl" not in rows[-1]

    terminal.until(lambda screen: "You said: a\n   b." in screen and is_whole(screen))

    terminal.press("Escape")
    terminal.until(lambda screen: "ready" in screen)
    terminal.press("C-y")
    terminal.until(lambda screen: "clipboard" in screen)
    assert terminal.clipboard().startswith("You said: a\nb.")

    terminal.type("more\n")
    terminal.until(lambda screen: "You said: more" in screen)
    start = time.monotonic()
    terminal.press("C-q")
    screen = terminal.until(lambda screen: "exit code" in screen)
    assert time.monotonic() - start < NUMBERS * TOKEN_SECONDS  # it did not wait for the reply's end
    assert [row for row in screen.splitlines() if row] == ["exit code 0"]


def test_it_paints_before_loading_starts(open_chat: Callable[..., Terminal]) -> None:
    terminal = open_chat("block", width=40, height=12)
    parts = ("assistant · counting", "Type an instruction", "Type a message", "loading counting")
    screen = terminal.until(lambda screen: all(part in screen for part in parts))
    assert max(len(row) for row in screen.splitlines()) == 40
    terminal.until(lambda screen: "ready · counting" in screen)


def test_it_quits_while_loading(open_chat: Callable[..., Terminal], tmp_path: Path) -> None:
    """An interpreter that shuts down while a thread is inside torch aborts: exit code 134 and a core dump."""
    computing = tmp_path / "computing"
    terminal = open_chat(f"torch '{computing}'")
    terminal.until(lambda screen: "loading counting" in screen and computing.exists())
    start = time.monotonic()
    terminal.press("C-q")
    screen = terminal.until(lambda screen: "exit code" in screen)
    assert time.monotonic() - start < NUMBERS * TOKEN_SECONDS  # it did not wait for the reply's end
    assert [row for row in screen.splitlines() if row] == ["exit code 0"]
