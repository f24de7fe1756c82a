"""The conversation on the screen: a window on its turns, of which at most `MOUNTED` are widgets.

A conversation may have thousands of turns. Those near the place that the person reads are widgets; the others are made
when the person scrolls to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widget import Widget

MOUNTED = 50
"""Most widgets at a time."""
AT_FIRST = 20
"""Widgets when a conversation opens, and how many more are made at its edge."""
EDGE_ROWS = 3
"""Rows from the top or bottom at which more widgets are made."""
LAYOUTS = 5
"""Refreshes to wait for the layout of a new widget, at most."""


class Item(NamedTuple):
    """Something in the conversation: a turn, a run of held-out rows, or a card, each with its number."""

    kind: str
    number: int


class ConversationView(VerticalScroll, can_focus=False):
    """Shows items from top to bottom. Cannot take the focus, so typing always reaches the prompt.

    Args:
        make: Makes the widget of an item, as it is now.
        first: A widget that stands before the first item.
    """

    def __init__(self, make: Callable[[Item], Widget], first: Widget, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._make, self._first = make, first
        self.items: list[Item] = []
        """All items, oldest first."""
        self._widgets: dict[Item, Widget] = {}
        self._start, self._end = 0, 0
        self._is_moving = False
        self._wanted: Item | None = None
        """What will be brought onto the screen after the next refresh."""
        self._placed: Item | None = None
        """What the screen was moved to since the window last began to grow."""
        self._changing = asyncio.Lock()
        """The screen changes the window in its queue, and scrolling in this widget's queue, both with pauses."""

    def compose(self) -> ComposeResult:
        yield self._first

    def widget(self, item: Item) -> Widget | None:
        """Return the widget of an item, if it has one now."""
        return self._widgets.get(item)

    async def open(self, items: Sequence[Item]) -> None:
        """Show other items, from the newest on."""
        async with self._changing:
            self.items = list(items)
            await self._show_window(max(0, len(items) - AT_FIRST), len(items))
        self.anchor(bool(items))  # the welcome is read from its first line, also where it does not fit
        if not items:
            self.scroll_home(animate=False, immediate=True)  # later, it would undo the anchor of the first item

    async def add(self, item: Item) -> None:
        """Add an item at the end, and go there."""
        async with self._changing:
            is_at_end = self._end == len(self.items)
            self.items.append(item)
            if is_at_end:
                await self._mount_items([item])
                self._end += 1
                await self._drop_first(self._end - self._start - MOUNTED)
            else:
                await self._show_window(max(0, len(self.items) - AT_FIRST), len(self.items))
        self.anchor()

    async def show(self, item: Item) -> None:
        """Make sure that an item is on the screen."""
        async with self._changing:
            if item not in self._widgets and item in self.items:
                place = self.items.index(item)
                start = max(0, min(place - AT_FIRST // 2, len(self.items) - AT_FIRST))
                await self._show_window(start, min(len(self.items), start + AT_FIRST))
        self._wanted = item
        self.call_after_refresh(self._show_wanted)

    def _show_wanted(self, tries: int = LAYOUTS) -> None:
        item = self._wanted
        if item is None:  # the screen went to the end meanwhile, or has shown it
            return
        widget = self._widgets.get(item)
        if widget is not None and not widget.virtual_region and tries:
            self.call_after_refresh(self._show_wanted, tries - 1)  # the refresh came before the layout
        else:
            self._wanted = None
            self._place(item)

    def _place(self, item: Item) -> None:
        """Move the screen to an item, if it has a widget. At the last item, follow new text."""
        if self.items and item == self.items[-1]:
            self.anchor()
        elif (widget := self._widgets.get(item)) is not None:
            self._placed = item
            # Not immediate, it could come after a later move, and undo it.
            self.scroll_to_widget(widget, animate=False, immediate=True)

    def anchor(self, anchor: bool = True) -> None:
        """Go to the end and follow new text there, or with `anchor=False` stop following."""
        self._wanted = None  # what was wanted before would take the screen away from the end
        self._placed = self.items[-1] if anchor and self.items else None
        super().anchor(anchor)

    def show_beginning(self, item: Item) -> None:
        """Show the beginning of the last item after the next refresh, if the screen is at the end of it."""
        self.call_after_refresh(self._show_beginning, item)

    def _show_beginning(self, item: Item) -> None:
        widget = self._widgets.get(item)
        is_at_end = self.items[-1:] == [item] and self.is_anchored and self.scroll_y >= self.max_scroll_y
        if widget is not None and is_at_end and widget.virtual_region.height > self.scrollable_content_region.height:
            self.anchor(False)
            self.scroll_to_widget(widget, top=True, animate=False, immediate=True)

    def scroll_pages(self, pages: int) -> None:
        """Scroll down by `pages`, or up if negative. At the bottom, follow new text again."""
        target = self.scroll_y + pages * self.scrollable_content_region.height
        if target >= self.max_scroll_y and self._end == len(self.items):
            self.anchor()  # scroll_to would stop following new text, even at the bottom
        elif self.max_scroll_y > 0:
            self.scroll_to(y=target, animate=False, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Make more widgets when the person comes near an edge of the window."""
        super().watch_scroll_y(old_value, new_value)
        is_near_top = new_value <= EDGE_ROWS and self._start > 0
        is_near_end = new_value >= self.max_scroll_y - EDGE_ROWS and self._end < len(self.items)
        if not self._is_moving and self.is_mounted and (is_near_top or is_near_end):
            self._is_moving = True
            self.call_later(self._grow, is_up=is_near_top)

    # --- the window -------------------------------------------------------------------------------------------------

    async def _show_window(self, start: int, end: int) -> None:
        with self.app.batch_update():
            for widget in self._widgets.values():
                widget.remove()
            self._widgets.clear()
            self._start, self._end = start, end
            await self._mount_items(self.items[start:end])
        self._first.display = start == 0

    async def _mount_items(self, items: Sequence[Item], *, before: Widget | None = None) -> None:
        made = {item: self._make(item) for item in items}
        self._widgets |= made
        if before is None:
            await self.mount_all(made.values())
        else:
            await self.mount_all(made.values(), before=before)

    async def _grow(self, *, is_up: bool) -> None:
        """Make widgets before the first one or after the last one, and keep what the person reads where it is."""
        async with self._changing:
            start = max(0, self._start - AT_FIRST) if is_up else self._start
            end = self._end if is_up else min(len(self.items), self._end + AT_FIRST)
            if (start, end) == (self._start, self._end) or self._start == self._end:  # the window changed meanwhile
                self._is_moving = False
                return
            self._placed = None
            edge = self._widgets[self.items[self._start if is_up else self._end - 1]]
            y_before = edge.virtual_region.y
            with self.app.batch_update():
                if is_up:
                    await self._mount_items(self.items[start : self._start], before=edge)
                else:
                    await self._mount_items(self.items[self._end : end])
                self._start, self._end = start, end
                await (self._drop_last if is_up else self._drop_first)(end - start - MOUNTED)
            self._first.display = self._start == 0
        self.call_after_refresh(self._restore, edge, y_before)

    def _restore(self, widget: Widget, y_before: int) -> None:
        self._is_moving = False
        if self._placed is not None:  # the screen was moved meanwhile, perhaps before the layout
            self._place(self._placed)
        elif widget.is_attached:  # else the window changed meanwhile
            moved = widget.virtual_region.y - y_before
            self.scroll_to(y=self.scroll_y + moved, animate=False, immediate=True)

    async def _drop_first(self, count: int) -> None:
        for item in self.items[self._start : self._start + max(0, count)]:
            await self._widgets.pop(item).remove()
            self._start += 1
            self._first.display = False

    async def _drop_last(self, count: int) -> None:
        for item in self.items[self._end - max(0, count) : self._end]:
            await self._widgets.pop(item).remove()
            self._end -= 1
