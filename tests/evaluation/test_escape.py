"""Escaping for Markdown and JSON: no text can add markup, links or bytes that are not UTF-8."""

from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from assistant.escape import visible
from evaluation.escape import encodable, markdown, shorten

markup_texts = st.text(
    alphabet=st.sampled_from("ab \\`*_[]()<>|~#!&;$@:/.-+=1\n\t\r\x1b\u202e\"'wW") | st.characters(codec="utf-8")
)
links = st.sampled_from(["www.example.com", "HTTP://a.b", "a@b.c", "https://x.y/z", "&amp;", "&#60;b&#62;"])


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
