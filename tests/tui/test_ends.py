"""However the chat ends, the terminal works afterwards, and the process is gone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support.raw_terminal import GIVEN_BACK, RawTerminal
from tests.support.scripted_chat import LOADED

FAREWELL = "Go on with: scripted_chat"
long = pytest.mark.long


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., RawTerminal]]:
    """A function that opens the scripted chat. The fixture closes the terminals."""
    terminals: list[RawTerminal] = []

    def open_terminal(*loading: str) -> RawTerminal:
        terminals.append(RawTerminal("tests.support.scripted_chat", *loading))
        return terminals[-1]

    yield open_terminal
    for terminal in terminals:
        terminal.close()


def assert_given_back(terminal: RawTerminal) -> None:
    """What was changed in the terminal is as it was, and the last line says how to go on."""
    assert all(sequence in terminal.written for sequence in GIVEN_BACK), terminal.written
    assert terminal.attributes == terminal.attributes_before
    assert terminal.written.endswith(f"{FAREWELL}\r\n")


@pytest.mark.parametrize(
    ("number", "loading"),
    [
        (signal.SIGTERM, ""),
        pytest.param(signal.SIGHUP, "", marks=long),
        pytest.param(signal.SIGINT, "", marks=long),
        pytest.param(signal.SIGQUIT, "", marks=long),
        pytest.param(signal.SIGTERM, "forever", marks=long),
        pytest.param(signal.SIGTERM, "stuck", marks=long),
    ],
)
def test_a_signal_gives_the_terminal_back(
    open_terminal: Callable[..., RawTerminal], number: signal.Signals, loading: str
) -> None:
    terminal = open_terminal(*filter(None, [loading]))
    terminal.until_written("loading counting" if loading == "forever" else LOADED)
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert_given_back(terminal)
    assert "Traceback" not in terminal.written


def test_quitting_does_not_wait_for_a_reply_that_never_ends(open_terminal: Callable[..., RawTerminal]) -> None:
    terminal = open_terminal("stuck")
    terminal.until_written(LOADED)
    terminal.write("hello\r")
    terminal.until_written("never ends")
    terminal.write("\x11")
    assert terminal.wait() == 0
    assert_given_back(terminal)


@long
def test_a_crash_gives_the_terminal_back(open_terminal: Callable[..., RawTerminal]) -> None:
    terminal = open_terminal("crash")
    assert terminal.wait() == 1
    assert_given_back(terminal)
    assert "an error of the chat itself" in terminal.written


@long
def test_a_closed_window_ends_the_chat(open_terminal: Callable[..., RawTerminal]) -> None:
    terminal = open_terminal()
    terminal.until_written(LOADED)
    terminal.hang_up()
    assert terminal.wait() == 128 + signal.SIGHUP
