"""The window on a long conversation while things happen at the same time: nothing is lost, twice there or crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Static

from assistant.tui.conversation_view import MOUNTED, ConversationView, Item
from tests.support.chat_driver import async_test

HEIGHT = 12


class Host(App[None]):
    """A conversation alone. Each item is three rows high: its number, and two blank ones."""

    CSS = "Static { height: 3; }"

    def compose(self) -> ComposeResult:
        yield ConversationView(lambda item: Static(f"<{item.number}>"), Static("welcome"))

    @property
    def view(self) -> ConversationView:
        return self.query_one(ConversationView)

    async def run_in_app(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run a call in the app's queue, as the screen does."""
        done = asyncio.Event()

        async def run() -> None:
            await call()
            done.set()

        self.call_later(run)
        await asyncio.wait_for(done.wait(), 10)

    def shown(self) -> list[str]:
        """Return the words on the screen, from top to bottom."""
        rows = ("".join(part.text for part in strip) for strip in self.screen._compositor.render_strips())
        return [word for row in rows for word in row.split() if word.startswith(("<", "w"))]


def items(count: int) -> list[Item]:
    return [Item("turn", number) for number in range(count)]


@async_test
@pytest.mark.parametrize("other", ["open", "add", "show"])
async def test_the_window_may_change_while_it_grows(other: str) -> None:
    app = Host()
    async with app.run_test(size=(30, HEIGHT)) as pilot:
        view = app.view
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "open": lambda: view.open([]),
            "add": lambda: view.add(Item("turn", len(view.items))),
            "show": lambda: view.show(Item("turn", 20)),
        }
        await app.run_in_app(lambda: view.open(items(200)))
        await pilot.pause()
        for yields in (0, 2, 4):  # the growth has come a different way each time
            view.scroll_home(animate=False, immediate=True)
            for _ in range(yields):
                await asyncio.sleep(0)
            await app.run_in_app(calls[other])
            await pilot.pause()
            here = [item for item in view.items if view.widget(item) is not None]
            assert [str(child.visual) for child in view.children if isinstance(child, Static)] == [
                "welcome",
                *(f"<{item.number}>" for item in here),
            ]
            assert len(here) <= MOUNTED
            assert here == list(view.items[view._start : view._end])
            if other == "open":
                assert app.shown() == ["welcome"]
                await app.run_in_app(lambda: view.open(items(200)))
                await pilot.pause()
        assert app.is_running
