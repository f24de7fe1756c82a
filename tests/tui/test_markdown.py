"""How a reply is drawn: Markdown that hides nothing."""

from __future__ import annotations

import pytest

from assistant.tui.markdown import ReplyFence, make_parser


@pytest.mark.parametrize(
    "text",
    [
        "<b>tag</b>",
        "<!-- comment -->",
        "[name](http://example.org)",
        "![image](http://example.org/x.png)",
        "<http://example.org>",
        "http://example.org",
        "[name]: http://example.org",
        "&#x202e; &amp;",
    ],
)
def test_html_links_references_and_entities_stay_as_plain_text(text: str) -> None:
    opening, inline, closing = make_parser().parse(text)
    assert [opening.type, inline.type, closing.type] == ["paragraph_open", "inline", "paragraph_close"]
    assert inline.children is not None
    assert {child.type for child in inline.children} == {"text"}
    assert "".join(child.content for child in inline.children) == text


def test_a_line_feed_in_a_paragraph_stays_a_line_break() -> None:
    _, inline, _ = make_parser().parse("one\ntwo")
    assert inline.children is not None
    assert [child.type for child in inline.children] == ["text", "hardbreak", "text"]


@pytest.mark.parametrize(("language", "has_colours"), [("python", True), ("python title=x", True), ("", False)])
def test_only_code_that_names_its_language_gets_colours(language: str, has_colours: bool) -> None:
    content = ReplyFence.highlight("for x in range(3): pass", language)
    assert content.plain == "for x in range(3): pass"
    assert (len({str(span.style) for span in content.spans}) > 1) == has_colours
