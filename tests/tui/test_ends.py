"""However the chat ends, the terminal works afterwards."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from tests.conftest import REPOSITORY

GIVEN_BACK = ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1000l", "\x1b[?2004l")
"""Alternate screen off, cursor on, mouse off, bracketed paste off."""
TIMEOUT_SECONDS = 20.0


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


@pytest.mark.parametrize(
    ("number", "loading"),
    [
        (signal.SIGTERM, ""),
        pytest.param(signal.SIGHUP, "", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "forever", marks=pytest.mark.long),
    ],
)
def test_a_signal_gives_the_terminal_back(number: signal.Signals, loading: str) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.scripted_chat", *filter(None, [loading])],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=REPOSITORY,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        start_new_session=True,
    )
    try:
        assert "\x1b[?1049h" in read_until(ours, "loading counting" if loading else "ready", process)
        process.send_signal(number)
        rest = read_until(ours, "never written", process)
        assert process.wait(TIMEOUT_SECONDS) == 128 + number
        assert all(sequence in rest for sequence in GIVEN_BACK), rest
        assert "Traceback" not in rest
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
