"""Text that tries to control the terminal, from a model, its name, a person and an error: shown, not obeyed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tests.support.pastes import END, START
from tests.support.raw_terminal import RawTerminal
from tests.support.scripted_chat import hostile_texts

OBEYED = re.compile("[\x00\x07\x0b\x0c\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys, or that turn text around. Textual itself ends no sequence with one of them."""


POINTER = "\x1b]22;default\x07"
"""Textual's own sequence for the mouse pointer."""


def check_written(written: str, texts: Sequence[str]) -> None:
    """Assert that no text reached the terminal as a sequence."""
    for text in texts:
        for start in ("\x1b]", "\x1bP", "\x9b", "\x1b[38;5;"):
            if start in text:
                assert text[:-1] not in written, repr(text)
    written = written.replace(POINTER, "")
    assert not OBEYED.search(written), repr(written[OBEYED.search(written).start() - 40 :][:80])  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(11, 15))
def test_hostile_answers_names_and_questions_are_shown(seed: int) -> None:
    texts = hostile_texts(seed)
    terminal = RawTerminal("tests.support.scripted_chat", "hostile", str(seed))
    try:
        terminal.until_written("a base model")
        pasted = "".join(texts)
        terminal.write(f"{START}{pasted}{END}\r")
        terminal.until_written("ended by itself")
        terminal.write("\x1bOR")  # f3: the tokens
        terminal.until_written("token 1 of")
        terminal.write("\x1b")
        terminal.until_written("f1")
        check_written(terminal.written, texts)
        assert "␛" in terminal.written  # shown, where a long line leaves room for it
        terminal.write("\x11")
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_a_hostile_error_is_shown() -> None:
    terminal = RawTerminal("tests.support.scripted_chat", "fail", "16")
    try:
        terminal.until_written("load the model again")
        check_written(terminal.written, hostile_texts(16))
        assert "TITLE16" in terminal.written
        terminal.write("\x11")
        assert terminal.wait() == 0
    finally:
        terminal.close()
