"""Escaping: no text can control the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.escape import displayable, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nhere", "plain\ttext\nhere"),
        ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\u009b31m"),
        ("👩\u200d🚀 é", "👩\u200d🚀 é"),
        ("\x7f", "␡"),
    ],
)
def test_displayable_escapes_control_and_invisible_characters(text: str, shown: str) -> None:
    assert displayable(text) == shown


@given(st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "P"])))
def test_escaped_text_has_no_control_characters(text: str) -> None:
    for character in displayable(text):
        assert character in "\t\n" or unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}
        assert character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    assert len(one_line(text).splitlines()) <= 1
    assert len(visible(text).splitlines()) <= 1


def test_visible_shows_line_ends_and_keeps_spaces() -> None:
    assert visible(" a\r\n\tb  ") == " a␍↵ b  "


@given(st.text())
def test_visible_text_is_one_line_without_invisible_characters(text: str) -> None:
    shown = visible(text)
    assert not [character for character in shown if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}]
    assert {character for character in shown if unicodedata.category(character) == "Cf"} <= {"\u200c", "\u200d"}
    assert visible(shown) == shown


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_visible_does_not_change_ordinary_text(text: str) -> None:
    assert visible(text) == text
