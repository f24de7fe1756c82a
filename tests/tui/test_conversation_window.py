"""The window on a long conversation while things happen at the same time: nothing is lost, twice there or crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot
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


async def scroll(app: Host, pilot: Pilot[None], pages: int) -> None:
    app.view.scroll_pages(pages)
    await pilot.pause()
    while app.view._is_moving:  # the new widgets are made, and the place is not restored yet
        await pilot.pause()


@async_test
async def test_every_item_of_a_long_conversation_can_be_reached_with_few_widgets() -> None:
    app = Host()
    async with app.run_test(size=(30, HEIGHT)) as pilot:
        await app.run_in_app(lambda: app.view.open(items(70)))
        await pilot.pause()
        assert app.shown()[-1] == "<69>"
        for pages, end in ((-1, "<0>"), (1, "<69>")):
            seen: list[str] = []
            for _ in range(70):
                seen += app.shown()
                assert len(app.view.children) <= MOUNTED + 1
                if end in seen:
                    break
                await scroll(app, pilot, pages)
            assert set(seen) >= {f"<{number}>" for number in range(70)}
        assert app.view.is_vertical_scroll_end


@async_test
async def test_what_the_person_reads_stays_where_it_is_when_more_is_made() -> None:
    app = Host()
    async with app.run_test(size=(30, HEIGHT)) as pilot:
        await app.run_in_app(lambda: app.view.open(items(200)))
        await pilot.pause()
        numbers = []
        for _ in range(25):
            app.view.scroll_relative(y=-3, animate=False, immediate=True)
            await pilot.pause()
            numbers.append(int(app.shown()[0].strip("<>")))
        assert numbers == list(range(numbers[0], numbers[0] - 25, -1))  # one item a step, without a jump


@async_test
@pytest.mark.parametrize("other", ["open", "add", "show", "remove"])
async def test_the_window_may_change_while_it_grows(other: str) -> None:
    app = Host()
    async with app.run_test(size=(30, HEIGHT)) as pilot:
        view = app.view
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "open": lambda: view.open([]),
            "add": lambda: view.add(Item("turn", len(view.items))),
            "show": lambda: view.show(Item("turn", 20)),
            "remove": lambda: view.remove_item(view.items[view._start]),
        }
        await app.run_in_app(lambda: view.open(items(200)))
        await pilot.pause()
        for yields in range(6):  # the growth has come a different way each time
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


@async_test
async def test_it_follows_new_items_until_the_person_scrolls_up_and_again_at_the_end() -> None:
    app = Host()
    async with app.run_test(size=(30, HEIGHT)) as pilot:
        await app.run_in_app(lambda: app.view.open(items(40)))
        await pilot.pause()
        last = app.view.widget(Item("turn", 39))
        assert last is not None
        last.styles.height = 6
        await pilot.pause()
        assert app.view.is_vertical_scroll_end
        await scroll(app, pilot, -1)
        place = app.view.scroll_y
        last.styles.height = 9
        await pilot.pause()
        assert app.view.scroll_y == place
        await app.run_in_app(lambda: app.view.show(Item("turn", 39)))
        await pilot.pause()
        assert app.view.is_vertical_scroll_end


@async_test
async def test_an_item_without_a_widget_is_shown_and_a_new_one_goes_to_the_end() -> None:
    app = Host()
    async with app.run_test(size=(30, HEIGHT)) as pilot:
        await app.run_in_app(lambda: app.view.open(items(300)))
        await app.run_in_app(lambda: app.view.show(Item("turn", 7)))
        await pilot.pause()
        assert "<7>" in app.shown()
        await app.run_in_app(lambda: app.view.add(Item("turn", 300)))
        await pilot.pause()
        assert app.shown()[-1] == "<300>"
