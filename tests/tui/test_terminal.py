"""The chat in a real terminal. Tests what Pilot cannot: the order of keys, drawing, and the end of the process."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.scripted_chat import LOADED, NUMBERS, TOKEN_SECONDS

TMUX = shutil.which("tmux")
TIMEOUT_SECONDS = 15.0

pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed")


class Terminal:
    """A program in a tmux server that nothing else uses."""

    def __init__(self, command: str, width: int = 80, height: int = 24) -> None:
        self._folder = tempfile.mkdtemp(prefix="chat")
        size = ["-x", str(width), "-y", str(height)]
        # The shell stays open after the program, so that the test can read its exit code and last output. COLUMNS and
        # LINES from the test run's environment would hide the terminal's size.
        shell = f"unset COLUMNS LINES; cd '{REPOSITORY}' && TERM=xterm-256color {command}; echo exit code $?; sleep 60"
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, shell)
        self._tmux("set-option", "-s", "set-clipboard", "on")

    def _tmux(self, *arguments: str) -> str:
        assert TMUX is not None
        command = [TMUX, "-u", "-S", f"{self._folder}/socket", *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout

    def type(self, text: str) -> None:
        """Send the text in one write, with each line feed as Enter."""
        self._tmux("send-keys", "-l", text.replace("\n", "\r"))

    def press(self, *keys: str) -> None:
        """Send keys by their tmux names."""
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        """Return the text that the terminal shows."""
        return self._tmux("capture-pane", "-p")

    def clipboard(self) -> str:
        """Return the text in the terminal's clipboard."""
        return self._tmux("show-buffer")

    def until(self, condition: Callable[[str], object]) -> str:
        """Wait until the condition holds for the screen, and return the screen. Fails after `TIMEOUT_SECONDS`."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline, f"failed for {TIMEOUT_SECONDS} s; the terminal shows:\n{screen}"
            time.sleep(0.02)
        return screen

    def until_shows(self, *texts: str) -> str:
        """Wait until the screen shows all texts at the same time, and return the screen."""
        return self.until(lambda screen: all(text in screen for text in texts))

    def quit(self) -> list[str]:
        """Press ctrl+q, wait until the program ends, and return the rows that are not empty."""
        start = time.monotonic()
        self.press("C-q")
        screen = self.until_shows("exit code")
        assert time.monotonic() - start < NUMBERS * TOKEN_SECONDS  # shorter than a whole reply
        return [row for row in screen.splitlines() if row]

    def close(self) -> None:
        """End the tmux server and its programs."""
        self._tmux("kill-server")
        shutil.rmtree(self._folder)


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    """A function that opens the chat on a counting session. The fixture closes the terminals."""
    terminals: list[Terminal] = []

    def open_terminal(loading: str = "", **size: int) -> Terminal:
        terminals.append(Terminal(f"'{sys.executable}' -m tests.support.scripted_chat {loading}", **size))
        return terminals[-1]

    yield open_terminal
    for terminal in terminals:
        terminal.close()


def test_a_conversation(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal()
    terminal.until_shows(LOADED)
    for number in range(5):
        # Enter comes directly after the text. With a priority binding, it would overtake the last characters.
        line = f"line {number} [with brackets and no word lost on the way to the end"
        terminal.type(f"{line}\n")
        said = f"You said: {line}."
        terminal.until_shows(said, "esc stop")
        terminal.press("Escape")
        terminal.until(partial(is_stopped, said))
    terminal.type("a")
    terminal.press("C-j")
    terminal.type("b\n")
    terminal.until(lambda screen: "You said: a\n   b." in screen and is_drawn_completely(screen))

    terminal.press("Escape")
    terminal.until(lambda screen: "esc stop" not in screen)
    terminal.press("C-y")
    terminal.until_shows("clipboard")
    assert terminal.clipboard().startswith("You said: a\nb.")

    terminal.type("more\n")
    terminal.until_shows("You said: more")
    assert terminal.quit() == ["Go on with: scripted_chat", "exit code 0"]


def is_stopped(text: str, screen: str) -> bool:
    """Whether the screen shows the text, and after it that the answer was stopped."""
    return "stopped by you" in screen.partition(text)[2]


def is_drawn_completely(screen: str) -> bool:
    """Whether the screen shows the whole prompt and the foot during a reply.

    Tests wait for this, since they may read the screen while the chat draws it.
    """
    rows = screen.splitlines()
    is_framed = [row[:1] for row in rows[-4:-1]] == ["─", " ", "─"]
    return is_framed and rows[-1].strip().startswith("esc stop") and rows[-1].endswith("/s")


def test_the_first_screen_is_painted_before_loading_starts(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal("block", width=40, height=12)
    screen = terminal.until_shows("counting", "Type an instruction, then", "loading counting")
    assert max(len(row) for row in screen.splitlines()) == 40
    terminal.until_shows(LOADED)


def test_quitting_while_torch_loads_ends_without_an_abort(
    open_terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """If the interpreter shuts down while a thread is inside torch, it aborts: exit code 134 and a core dump."""
    computing = tmp_path / "computing"
    terminal = open_terminal(f"torch '{computing}'")
    terminal.until(lambda screen: "loading counting" in screen and computing.exists())
    assert terminal.quit() == ["Go on with: scripted_chat", "exit code 0"]
