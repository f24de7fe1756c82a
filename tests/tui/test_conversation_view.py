"""The window on a conversation: few widgets, whatever its length, and the reader's place is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static

from assistant.chat.conversation import from_records
from assistant.tui.conversation_view import MOUNTED, ConversationView, Item
from assistant.tui.turn_view import TurnView
from tests.support.chat_driver import async_test, open_chat
from tests.support.chat_rows import answered, asked
from tests.support.scripted_session import ScriptedSession


class Host(App[None]):
    """A window on items of two rows each."""

    CSS = "ConversationView { height: 20; } ConversationView > Static { height: 2; }"

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def compose(self) -> ComposeResult:
        yield ConversationView(self.make, Static("first"), id="view")

    def make(self, item: Item) -> Widget:
        """Make an item's widget."""
        self.made.append(item.number)
        return Static(f"item {item.number}", classes="item")

    @property
    def view(self) -> ConversationView:
        """The window."""
        return self.query_one(ConversationView)

    def mounted(self) -> list[int]:
        """The numbers of the items that are widgets, from top to bottom."""
        return [int(str(widget.visual).split()[1]) for widget in self.view.query(".item").results(Static)]

    def top(self) -> tuple[int, int]:
        """The item at the top of the window, and the rows of it that are scrolled away."""
        view = self.view
        for number in self.mounted():
            widget = view.widget(Item("turn", number))
            assert widget is not None
            if widget.region.bottom > view.region.y:
                return number, view.region.y - widget.region.y
        raise AssertionError("nothing is shown")


@asynccontextmanager
async def open_view(count: int) -> AsyncIterator[tuple[Host, Pilot[None]]]:
    """Open a window on so many items."""
    app = Host()
    async with app.run_test(size=(40, 24)) as pilot:
        await app.view.open([Item("turn", number) for number in range(count)])
        await settle(pilot)
        yield app, pilot


async def settle(pilot: Pilot[None]) -> None:
    """Wait until the window has made its widgets and is drawn."""
    for _ in range(3):
        await pilot.pause(0)
        handled = asyncio.Event()
        pilot.app.query_one(ConversationView).call_after_refresh(handled.set)
        await handled.wait()


@async_test
async def test_two_thousand_items_have_few_widgets_and_end_at_the_newest() -> None:
    async with open_view(2000) as (app, _):
        assert app.mounted()[-1] == 1999
        assert len(app.made) <= MOUNTED
        assert app.view.is_vertical_scroll_end
        assert not app.view.query("Static")[0].display  # what stands before the first item


@async_test
async def test_scrolling_up_makes_earlier_items_and_keeps_the_place() -> None:
    async with open_view(2000) as (app, pilot):
        for _ in range(16):
            number, before = app.top()[0], app.mounted()
            app.view.scroll_to(y=app.view.scroll_y - 6, animate=False, immediate=True)
            await settle(pilot)
            assert app.top()[0] == max(number - 3, before[0]), (before, app.mounted())
            assert len(app.mounted()) <= MOUNTED
            assert app.mounted() == list(range(app.mounted()[0], app.mounted()[-1] + 1))
        assert app.top()[0] < 1960


@async_test
async def test_the_first_item_is_reached_and_then_the_last_one_again() -> None:
    async with open_view(75) as (app, pilot):
        for _ in range(10):
            app.view.scroll_pages(-1)
            await settle(pilot)
        assert app.top() == (0, -2)  # below what stands before the first item
        assert app.view.query("Static")[0].display
        for _ in range(10):
            app.view.scroll_pages(1)
            await settle(pilot)
        assert app.mounted()[-1] == 74
        assert app.view.is_vertical_scroll_end
        await app.view.add(Item("turn", 75))
        await settle(pilot)
        assert app.view.is_vertical_scroll_end


@async_test
async def test_adding_keeps_the_window_small_and_goes_to_the_end() -> None:
    async with open_view(0) as (app, pilot):
        for number in range(MOUNTED + 30):
            await app.view.add(Item("turn", number))
        await settle(pilot)
        assert app.mounted() == list(range(30, MOUNTED + 30))
        app.view.scroll_to(y=0, animate=False, immediate=True)
        await settle(pilot)
        await app.view.show(Item("turn", 3))
        await settle(pilot)
        assert MOUNTED + 29 not in app.mounted()
        await app.view.add(Item("turn", MOUNTED + 30))
        await settle(pilot)
        assert app.mounted()[-1] == MOUNTED + 30
        assert app.view.is_vertical_scroll_end


@async_test
async def test_a_far_item_is_shown() -> None:
    async with open_view(2000) as (app, pilot):
        for number in (5, 1000, 1999, 0):
            await app.view.show(Item("turn", number))
            await settle(pilot)
            widget = app.view.widget(Item("turn", number))
            assert widget is not None
            assert app.view.region.contains_region(widget.region)
            assert len(app.mounted()) <= MOUNTED


@pytest.mark.parametrize("earlier", [15, 25, 1990])
@async_test
async def test_a_new_item_is_shown_at_whatever_moment_it_comes_after_a_move(earlier: int) -> None:
    async with open_view(2000) as (app, pilot):
        for number in range(2000, 2040):
            await app.view.show(Item("turn", number - earlier))
            for _ in range(number - 2000):  # the moves are made in some 30 ms, in several steps
                await asyncio.sleep(0.001)
            await app.view.add(Item("turn", number))
            await settle(pilot)
            assert app.mounted()[-1] == number
            assert app.view.is_vertical_scroll_end, f"after {number - 2000} ms"


@async_test
async def test_an_item_is_shown_when_it_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_view(2000) as (app, pilot):

        def before_the_layout(callback: Callable[..., object], *args: object) -> None:
            monkeypatch.undo()
            callback(*args)

        monkeypatch.setattr(app.view, "call_after_refresh", before_the_layout)
        with app.batch_update():  # so nothing has a layout yet
            await app.view.show(Item("turn", 3))
        await settle(pilot)
        widget = app.view.widget(Item("turn", 3))
        assert widget is not None
        assert app.view.region.contains_region(widget.region)


@async_test
async def test_an_item_that_is_shown_while_the_window_grows_stays_on_the_screen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_view(2000) as (app, pilot):
        late: list[Callable[[], object]] = []
        with monkeypatch.context() as patch:
            patch.setattr(app.view, "call_after_refresh", lambda callback, *args: late.append(partial(callback, *args)))
            app.view.scroll_to(y=0, animate=False, immediate=True)
            while not late:  # the window has grown, and its place is not restored yet
                await pilot.pause()
            await app.view.show(Item("turn", 1970))
        restore, show = late
        show()
        restore()
        await settle(pilot)
        widget = app.view.widget(Item("turn", 1970))
        assert widget is not None
        assert app.view.region.contains_region(widget.region)


@async_test
async def test_a_long_conversation_opens_with_few_turns() -> None:
    records = [record for turn in range(2000) for record in (asked(turn), answered(turn, "tuned", f"answer {turn}"))]
    async with open_chat(conversation=from_records(records)) as chat:

        def turns() -> list[int]:
            return [view.state.number for view in chat.screen.query(TurnView)]

        await chat.until(lambda: "answer 1999" in chat.visible())
        assert len(turns()) <= MOUNTED
        for _ in range(30):
            await chat.press("ctrl+up")
        await chat.until(lambda: "q1970" in chat.visible())
        assert len(turns()) <= MOUNTED
        await chat.send("hello")
        await chat.until(lambda: "Hello." in chat.visible() and chat.idle)
        assert turns()[-1] == 2000
        assert len(turns()) <= MOUNTED


LONG = [f"line {number}\n\n" for number in range(40)]


@async_test
@pytest.mark.parametrize("reads_the_end", [True, False])
async def test_two_answers_are_shown_from_their_beginning_when_both_have_ended(reads_the_end: bool) -> None:
    base = ScriptedSession(*LONG, hold_at=39)
    async with open_chat(ScriptedSession("short"), base, every_piece=True) as chat:
        view = chat.screen.query_one(ConversationView)
        await chat.press("ctrl+b")
        await chat.send("hi")
        await chat.until(lambda: view.max_scroll_y > 40 and view.scroll_y == view.max_scroll_y)
        if not reads_the_end:
            view.scroll_to(y=10, animate=False, immediate=True)
        base.gate.set()
        await chat.until_idle()
        turn = chat.screen.query_one(TurnView)
        expected = turn.virtual_region.y if reads_the_end else 10
        await chat.until(lambda: view.scroll_y == expected)
        await chat.send("again")  # follows the newest answer again
        await chat.until(lambda: len(chat.screen.query(TurnView)) == 2)
        await chat.until_idle()
        assert view.scroll_y > expected


@async_test
async def test_one_long_answer_is_followed_to_its_end() -> None:
    async with open_chat(ScriptedSession(*LONG)) as chat:
        view = chat.screen.query_one(ConversationView)
        await chat.send("hi")
        await chat.until_idle()
        await chat.until(lambda: view.max_scroll_y > 0)
        await settle(chat.pilot)
        assert view.scroll_y == view.max_scroll_y
