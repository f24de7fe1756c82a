"""Pasted text is text: the parser of the terminal's input, and 100 random pastes in a real terminal."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from textual import events
from textual.message import Message

from assistant.tui import driver
from assistant.tui.driver import PasteParser
from tests.support.pastes import END, START, random_paste
from tests.support.raw_terminal import RawTerminal
from tests.support.scripted_chat import LOADED

LATER = 10.0
"""Seconds after which every paste without an end is over."""


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def meaning(messages: Sequence[Message]) -> list[str]:
    """Keys by their names, a paste as its text after `paste:`, other messages by their types."""
    return [
        message.key
        if isinstance(message, events.Key)
        else f"paste:{message.text}"
        if isinstance(message, events.Paste)
        else type(message).__name__
        for message in messages
    ]


def parse(*reads: str, pauses: float = 0.0) -> list[str]:
    """What the reads mean, with a pause after each, and a long one at the end."""
    clock = Clock()
    parser = PasteParser(clock=clock)
    found: list[Message] = []
    for read in reads:
        found += parser.feed(read)
        clock.now += pauses
        found += parser.tick()
    clock.now += LATER
    found += parser.tick()
    return meaning([*found, *parser.feed("")])


@pytest.mark.parametrize("seed", range(20))
def test_a_bracketed_paste_is_one_text_however_its_bytes_arrive(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(10):
        text = random_paste(draw)
        whole = f"a{START}{text}{END}b"
        cuts = sorted(draw.sample(range(1, len(whole)), min(draw.randrange(6), len(whole) - 1)))
        reads = [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        assert parse(*reads) == ["a", f"paste:{text}", "b"], reads


def test_an_end_inside_a_paste_is_text_if_the_real_end_comes_with_it() -> None:
    assert parse(f"{START}a{END}\r\x11b{END}\r") == [f"paste:a{END}\r\x11b", "enter"]
    assert parse(f"{START}a{END}{START}b{END}") == ["paste:a", "paste:b"]
    assert parse(f"{START}a{END}", f"\x11b{END}c") == ["paste:a", "paste:\x11b", "c"]


def test_a_paste_without_its_end_is_over_after_a_silence() -> None:
    clock = Clock()
    parser = PasteParser(clock=clock)
    assert not [*parser.feed(f"{START}one\r\x11"), *parser.tick()]
    clock.now = driver.PASTE_SILENCE_S / 2
    assert not [*parser.feed("two\x1b[20"), *parser.tick()]
    clock.now += driver.PASTE_SILENCE_S
    assert meaning([*parser.tick()]) == ["paste:one\r\x11two\x1b[20"]
    assert meaning([*parser.feed("\x11")]) == ["ctrl+q"]
    # The rest of a paste that only paused is still text.
    assert meaning([*parser.feed(f"late\r\x11{END}x")]) == ["paste:late\r\x11", "x"]


def test_a_paste_without_its_end_is_over_although_keys_arrive() -> None:
    reads = ["k"] * int(2 * driver.PASTE_LIMIT_S)
    assert parse(START, *reads, pauses=1.0)[-50:] == ["k"] * 50


def test_a_paste_that_is_too_big_arrives_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PASTE_CHARACTERS", 10)
    found = parse(START, "0123456789\x1b[2", "00~\r\x1b[201", "~q")
    assert found == ["paste:0123456789", "paste:\x1b[200~\r", "q"]


def test_a_lone_escape_is_the_key_after_its_time() -> None:
    assert parse("\x1b", pauses=1.0) == ["escape"]
    assert parse("\x1b", "[A") == ["up"]
    assert parse("\x1b[2", "0~", "x") == ["f9", "x"]
    assert parse(f"\x1b{START}a{END}") == ["escape", "paste:a"]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("line\r", ["l", "i", "n", "e", "enter"]),
        ("one\rtwo\rthree\r", ["paste:one\rtwo\rthree", "enter"]),
        ("one\r\ntwo\r\n", ["paste:one\r\ntwo", "enter"]),
        ("one\rtwo", ["paste:one\rtwo"]),
        ("x\x1b[31m\x11 y", ["paste:x\x1b[31m\x11 y"]),
        ("\rx\x1b[A", ["paste:\rx", "up"]),
        ("hi\r\x1b[A", ["h", "i", "enter", "up"]),
        ("hi\x11", ["h", "i", "ctrl+q"]),
        ("a\x1b[I\r\x1b[<35;3;4Mb", ["AppFocus", "MouseMove", "paste:a\rb"]),
        ("a\r\x1b[<0;3;4M", ["a", "enter", "MouseDown"]),
        (f"a\r{START}b{END}", ["paste:a\r", "paste:b"]),
        ("ab\x7f\tc", ["a", "b", "backspace", "tab", "c"]),
    ],
)
def test_an_acting_key_with_more_text_after_it_is_part_of_the_text(read: str, expected: list[str]) -> None:
    assert parse(read) == expected


def test_a_hundred_hostile_pastes_send_nothing_and_quit_nothing(tmp_path: Path) -> None:
    sent = tmp_path / "sent.jsonl"
    sent.touch()
    draw = random.Random(18)
    pastes = [random_paste(draw) for _ in range(100)]
    terminal = RawTerminal("tests.support.scripted_chat", "record", str(sent))

    def lines() -> list[str]:
        return [json.loads(line) for line in sent.read_text(encoding="utf-8").splitlines()]

    try:
        terminal.until_written(LOADED)
        for text in pastes:
            terminal.write(f"{START}{text}{END}", pieces=draw.randint(1, 4))
        assert terminal.process.poll() is None
        assert lines() == []
        terminal.write("\r")  # sends what stands in the prompt: all of it
        terminal.until(lines)
        terminal.write("three\rlines\rin one read\r")  # from a terminal without bracketed paste
        terminal.until(lambda: len(lines()) == 2)
        assert lines() == ["".join(re.sub("\r\n?", "\n", text) for text in pastes), "three\nlines\nin one read"]
        terminal.write("\x11")
        assert terminal.wait() == 0
    finally:
        terminal.close()
