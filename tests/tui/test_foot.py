"""The last line: keys at the left, the state at the right, a notice in their place, and clicks."""

from __future__ import annotations

import pytest
from textual import on
from textual.app import App, ComposeResult
from textual.content import Content

from assistant.tui import foot
from assistant.tui.foot import Foot, Key, foot_content
from tests.support.chat_driver import async_test

KEYS = [Key("esc", "stop", "stop"), Key("ctrl+t", "test row", "deal"), Key("f1", "keys", "help")]


def test_keys_that_do_not_fit_are_left_out_from_the_end() -> None:
    state = Content("12/256 tokens")
    for width, words in [(60, ["stop", "test row", "keys"]), (42, ["stop", "test row"]), (30, ["stop"]), (13, [])]:
        content, ends = foot_content(KEYS, state, width)
        assert content.cell_length == width
        assert content.plain.endswith("12/256 tokens")
        assert [word for key, word, _ in KEYS if f"{key} {word}  " in content.plain] == words
        assert len(ends) == len(words)


class Host(App[None]):
    """A foot alone, and the actions of its clicked keys."""

    def __init__(self) -> None:
        super().__init__()
        self.clicked: list[str] = []

    def compose(self) -> ComposeResult:
        yield Foot(id="foot")

    @on(Foot.Clicked)
    def keep(self, message: Foot.Clicked) -> None:
        """Keep an action."""
        self.clicked.append(message.action)


@async_test
async def test_a_click_on_a_key_does_what_the_key_does() -> None:
    app = Host()
    async with app.run_test(size=(60, 3)) as pilot:
        line = app.query_one(Foot)
        line.show(KEYS, Content(""))
        await pilot.pause()
        for x in (1, 12, 30, 50):
            await pilot.click("#foot", offset=(x, 0))
        assert app.clicked == ["stop", "deal", "help"]


@async_test
async def test_a_notice_stands_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Host()
    async with app.run_test(size=(60, 3)) as pilot:
        line = app.query_one(Foot)
        line.show(KEYS, Content("state"))
        line.show_notice("[one\ntwo")
        assert str(line.render()) == "[one two"
        await pilot.click("#foot", offset=(1, 0))
        assert app.clicked == []
        monkeypatch.setattr(foot, "NOTICE_SECONDS", 0.01)
        line.show_notice("two")
        while line.notice:
            await pilot.pause(0.005)
        assert str(line.render()).startswith("esc stop")
