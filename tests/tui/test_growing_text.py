"""A text that grows looks like the whole text drawn at once, and its cost does not grow with it."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from rich._wrap import divide_line
from textual.content import Content
from textual.style import Style
from textual.visual import RenderOptions

from assistant.escape import displayable
from assistant.tui import growing_text
from assistant.tui.growing_text import GrowingText

PIECES = st.lists(st.text(st.sampled_from("ab  \n\r\t日é\u0301\x1b[]"), max_size=9), max_size=9)
STYLE = Style()
OPTIONS = RenderOptions(lambda style: Style() if isinstance(style, str) else style, {}, None, None)


def drawn(visual: Content | GrowingText, width: int) -> list[str]:
    """Return the rows without the spaces at their ends, which nobody sees."""
    return [strip.text.rstrip() for strip in visual.render_strips(width, None, STYLE, OPTIONS)]


@given(PIECES, st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_it_looks_like_the_whole_text(pieces: list[str], width: int, other: int, measures: bool) -> None:
    growing = GrowingText("", head=Content("a head"), foot=Content("a foot"))
    text = ""
    for piece in pieces:
        text += piece
        growing.append(piece)
        if measures:
            growing.height(width)
        shown = displayable(text.removesuffix("\r"))
        for each in (width, other):
            whole = Content("\n".join(["a head", *([shown] if shown else []), "a foot"]))
            assert drawn(growing, each) == drawn(whole, each)
            assert growing.height(each) == whole.get_height({}, each)
    assert str(growing).startswith("a head\n")


def test_text_that_was_wrapped_is_not_wrapped_again() -> None:
    growing = GrowingText("", head=Content(""), foot=Content("writing …"))
    wrapped: list[int] = []

    def count(text: str, width: int) -> list[int]:
        wrapped.append(len(text))
        return divide_line(text, width)

    with patch.object(growing_text, "divide_line", count):
        for word in ["word "] * 500 + ["letters"] * 500:  # one line without an end, then without a space
            growing.append(word)
            growing.height(40)
    assert len(growing.render_strips(40, None, STYLE, OPTIONS)) > 100
    assert max(wrapped) < 4 * 40  # two rows of them tell Rich that a long word goes on
