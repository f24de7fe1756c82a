"""Lines that a person types: which are commands, and which are messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.chat.commands import COMMANDS, Command, Text, Unclear, Unknown, help_lines, parse_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/help", Command("help")),
        ("/?", Command("help")),
        (" /QUIT \n", Command("quit")),
        ("/exit", Command("quit")),
        ("/bye", Command("quit")),
        ("/save", Command("save")),
        ("/save  my talk.md ", Command("save", "my talk.md")),
        ("/save-rows rows.json", Command("save-rows", "rows.json")),
        ("/run", Command("run")),
        ("/run 50", Command("run", "50")),
        ("/correct one\ntwo", Command("correct", "one\ntwo")),
        ("/settings temperature 0.7", Command("settings", "temperature 0.7")),
    ],
)
def test_commands(line: str, expected: Command) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Hello", "Hello"),
        ("  two\nlines ", "  two\nlines "),
        ("//help", "/help"),
        ("///", "//"),
        (" //save it\n//twice", " /save it\n//twice"),
        ("/usr/bin/env is a path", "/usr/bin/env is a path"),
        ("/* a comment */", "/* a comment */"),
        ("/1", "/1"),
        ("and/or", "and/or"),
        ("quit smoking", "quit smoking"),
        ("help me", "help me"),
        ("", ""),
    ],
)
def test_messages(line: str, text: str) -> None:
    assert parse_line(line) == Text(text)


@given(st.text())
def test_two_slashes_send_any_text_with_a_slash(text: str) -> None:
    assert parse_line("//" + text) == Text("/" + text)


@given(st.text())
def test_any_line_has_a_meaning(text: str) -> None:
    assert isinstance(parse_line(text), Text | Command | Unclear | Unknown)
    assert isinstance(parse_line("/" + text), Text | Command | Unknown)


@pytest.mark.parametrize("word", ["quit", "exit", ":q", "help", "QUIT", " quit()\n"])
def test_a_bare_word_is_asked_about_once(word: str) -> None:
    first = parse_line(word)
    assert isinstance(first, Unclear)
    assert first.problem.startswith(f"{word.strip()}: type it again to send it to the model. /")
    assert parse_line(word, first.word) == Text(word)
    assert isinstance(parse_line("exit" if "exit" not in word else "help", first.word), Unclear)
    assert parse_line("/quit", first.word) == Command("quit")


def test_a_goodbye_is_a_message() -> None:
    assert parse_line("bye") == Text("bye")
    assert parse_line("/bye") == Command("quit")


def test_an_unknown_command_is_a_sentence_with_the_list() -> None:
    found = parse_line("/hepl")
    assert isinstance(found, Unknown)
    assert found.problem.startswith("/hepl: expected one of /help, /quit, ")
    assert "Did you mean /help?" in found.problem
    assert all(f"/{command.name}" in found.problem for command in COMMANDS)
    assert isinstance(parse_line("/"), Unknown)
    assert isinstance(parse_line("/zzzz now"), Unknown)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/help me", "/help: expected nothing after it, got me. Two slashes send it as a message."),
        ("/run -1", "/run: expected a number from 1, got -1. Type /run [NUMBER]."),
        ("/run 0", "/run: expected a number from 1, got 0. Type /run [NUMBER]."),
        ("/run ²", "/run: expected a number from 1, got ². Type /run [NUMBER]."),
        ("/run 99999999999", "/run: expected a number from 1, got 99999999999. Type /run [NUMBER]."),
        ("/keep", "/keep: expected NUMBER after it, got nothing. Type /keep NUMBER."),
        ("/correct", "/correct: expected TEXT after it, got nothing. Type /correct TEXT."),
        ("/row \x1b[31m", "/row: expected nothing after it, got ␛[31m. Two slashes send it as a message."),
    ],
)
def test_a_wrong_argument_is_a_sentence(line: str, problem: str) -> None:
    assert parse_line(line) == Unknown(problem)


def test_a_count_is_a_number() -> None:
    line = parse_line("/run 007")
    assert isinstance(line, Command)
    assert line.count == 7
    assert Command("run").count is None


def test_the_help_names_every_command_once() -> None:
    lines = help_lines()
    assert [line.split()[0] for line in lines] == [*(f"/{command.name}" for command in COMMANDS), "//text"]
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    assert all(parse_line(f"/{name} 1") for name in names)
    assert max(map(len, lines)) < 100
