"""When the chat has no full screen."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from assistant.tui.terminal import terminal_problem
from tests.conftest import REPOSITORY

GOOD = {"TERM": "xterm-256color", "LANG": "en_GB.UTF-8"}


@dataclass
class Stream:
    """A standard stream."""

    encoding: str = "utf-8"
    is_terminal: bool = True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.is_terminal


@pytest.mark.parametrize(
    ("stdin", "stderr", "environment", "locale_encoding", "expected"),
    [
        (Stream(), Stream(), {}, "UTF-8", None),
        (Stream(), Stream("UTF8"), {"LANG": "", "LC_ALL": "C.UTF-8"}, "utf-8", None),
        (Stream(is_terminal=False), Stream(), {}, "UTF-8", "standard input is not a terminal"),
        (Stream(), Stream(is_terminal=False), {}, "UTF-8", "standard error is not a terminal"),
        (Stream(), Stream(), {"TERM": "dumb"}, "UTF-8", "the terminal cannot draw a screen (TERM=dumb)"),
        (Stream(), Stream(), {"TERM": ""}, "UTF-8", "the terminal cannot draw a screen (TERM=)"),
        (Stream(), Stream("ascii"), {}, "UTF-8", "the terminal's encoding is ascii, not UTF-8"),
        (Stream(), Stream(), {}, "ISO-8859-1", "the terminal's encoding is ISO-8859-1, not UTF-8"),
        (Stream(), Stream(), {}, "no such encoding", "the terminal's encoding is no such encoding, not UTF-8"),
        (Stream(), Stream(), {"LC_ALL": "POSIX"}, "UTF-8", "the locale is POSIX, which is not UTF-8"),
    ],
)
def test_a_screen_needs_a_terminal_that_can_draw_and_utf8(
    stdin: Stream,
    stderr: Stream,
    environment: dict[str, str],
    locale_encoding: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr("os.environ", GOOD | environment)
    monkeypatch.setattr("locale.getencoding", lambda: locale_encoding)
    found = terminal_problem()
    monkeypatch.undo()
    assert found == expected


@pytest.mark.parametrize(
    ("environment", "has_screen"),
    [({"LANG": "C"}, False), ({"LANG": "C.UTF-8"}, True), ({}, True), ({"PYTHONIOENCODING": "ascii"}, False)],
)
def test_what_python_makes_of_the_environment(environment: dict[str, str], has_screen: bool) -> None:
    """Python replaces the locale C by C.UTF-8 for itself, and tells nobody."""
    code = (
        "import sys; sys.stdin.isatty = sys.stderr.isatty = lambda: True;"
        "from assistant.tui.terminal import terminal_problem; print(terminal_problem())"
    )
    unset = {"LANG", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE"}
    clean = {name: value for name, value in os.environ.items() if name not in unset} | {"TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout == "None\n") == has_screen, done.stdout


def test_a_closed_input_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no stdin then."""
    monkeypatch.setattr("sys.stdin", None)
    assert terminal_problem() == "standard input is not a terminal"
