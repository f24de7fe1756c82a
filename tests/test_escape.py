"""Escaping: no text can control the terminal, or add markup, links or bytes that are not UTF-8 to a page."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from assistant.escape import displayable, encodable, markdown, one_line, shorten, visible

markup_texts = st.text(
    alphabet=st.sampled_from("ab \\`*_[]()<>|~#!&;$@:/.-+=1\n\t\r\x1b\u202e\"'wW") | st.characters(codec="utf-8")
)
links = st.sampled_from(["www.example.com", "HTTP://a.b", "a@b.c", "https://x.y/z", "&amp;", "&#60;b&#62;"])


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


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_encodable_does_not_change_ordinary_text(text: str) -> None:
    assert encodable(text) == text


@given(st.text(st.characters(codec=None)))
def test_encodable_text_has_a_utf8_form(text: str) -> None:
    assert encodable(text).encode("utf-8").decode("utf-8") == encodable(text)


@given(markup_texts | links)
def test_markdown_cell_shows_every_character_and_no_markup(text: str) -> None:
    page = f"| a | b |\n| --- | --- |\n| x{markdown(text)}x | end |\n"
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    rendered = parser.render(page)
    cells = re.findall(r"<td>(.*?)</td>", rendered, flags=re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == [f"x{visible(text)}x".strip(), "end"]
    assert "<" not in cells[0]
    assert not re.search(r"://|www\.|@", markdown(text), flags=re.IGNORECASE)


@given(st.text(), st.integers(0, 30))
def test_shortened_text_has_at_most_the_given_length(text: str, length: int) -> None:
    shortened = shorten(text, length)
    assert len(shortened) <= max(length, 1)
    assert shortened == text or shortened.endswith("…")
