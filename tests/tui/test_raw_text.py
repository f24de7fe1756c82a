"""The text area keeps every character, and shows none that a terminal obeys."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Region

from assistant.tui.raw_text import INVISIBLE, RawTextArea, StandIns
from tests.support.chat_driver import async_test

TEXTS = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\r\n\t\x0b\x0c\x1b\x85\u2028\u202e\U0010f000\U0010f001")
)
OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of characters that a terminal obeys, or that hide or reorder others."""
HOSTILE = "a\x1b[31m\x0bb\x0c\x00\x85\u2028c\u202e\x9b2J\U0010f000 日本\x7f"


def with_plain_line_ends(text: str) -> str:
    return re.sub("\r\n?", "\n", text)


@given(st.lists(TEXTS, max_size=4))
def test_every_text_comes_back_unchanged(texts: list[str]) -> None:
    stand_ins = StandIns()
    encoded = [stand_ins.encode(text) for text in texts]
    assert [stand_ins.decode(text) for text in encoded] == [with_plain_line_ends(text) for text in texts]
    for text in encoded:
        assert len(text.splitlines()) <= text.count("\n") + 1  # nothing else ends a line
        shown = stand_ins.show(text).replace("\n", "").replace("\t", "")
        assert all(unicodedata.category(character) not in OBEYED or character in "\u200c\u200d" for character in shown)
        assert len(shown) == len(text.replace("\n", "").replace("\t", ""))


class Host(App[None]):
    """A text area alone."""

    def compose(self) -> ComposeResult:
        yield RawTextArea()


@async_test
async def test_typing_pasting_undo_and_copy_keep_the_original() -> None:
    app = Host()
    async with app.run_test(size=(20, 10)) as pilot:
        area = app.query_one(RawTextArea)
        area.insert(HOSTILE)
        area.insert("\r\nx\ry")
        assert area.text == HOSTILE + "\nx\ny"
        area.undo()
        area.redo()
        area.select_all()
        assert area.selected_text == area.text == HOSTILE + "\nx\ny"
        area.action_copy()
        area.action_cut()
        assert app.clipboard == HOSTILE + "\nx\ny"
        assert area.text == ""
        area.action_paste()
        assert area.text == HOSTILE + "\nx\ny"
        await pilot.pause()
        rows = ["".join(segment.text for segment in strip) for strip in area.render_lines(Region(0, 0, 20, 10))]
        assert all(row.replace("\U0010f000", "").isprintable() for row in rows)  # a private character, as it is
        assert all(cell_len(row) == 20 for row in rows)
        assert f"a␛[31m␋b␌␀{INVISIBLE}{INVISIBLE}c{INVISIBLE}{INVISIBLE}2J" in "".join(row.rstrip() for row in rows)


@async_test
async def test_the_cursor_stands_on_the_sign_that_it_deletes() -> None:
    app = Host()
    async with app.run_test() as pilot:
        area = app.query_one(RawTextArea)
        area.insert("\x1b\x1b\u202eab")
        assert area.get_column_width(0, 3) == 3
        area.move_cursor((0, 2))
        await pilot.press("delete")
        assert area.text == "\x1b\x1bab"
        await pilot.press("backspace")
        assert area.text == "\x1bab"
