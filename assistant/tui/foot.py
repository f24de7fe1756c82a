"""The last line: the keys that matter now, and what happens now. A notice takes its place for some seconds.

A notice may be long: it names the next command, or why something was refused. So it gets as many lines as it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from textual import events
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from assistant.escape import one_line

NOTICE_SECONDS = 5.0
READ_PER_SECOND = 15
"""Characters that a person reads."""


class Key(NamedTuple):
    """A key, what it does in one word, and the screen's action for a click."""

    key: str
    word: str
    action: str


class Foot(Static):
    """One line: keys at the left, the live state at the right."""

    @dataclass
    class Clicked(Message):
        """The person clicked a key."""

        action: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._keys: tuple[Key, ...] = ()
        self._state = Content("")
        self.notice = ""
        """The notice that is shown, or an empty text."""
        self._timer: Timer | None = None
        self._ends: list[tuple[int, str]] = []

    def show(self, keys: Sequence[Key], state: Content) -> None:
        """Show keys, the most important one first, and the state."""
        if (tuple(keys), state) != (self._keys, self._state):
            self._keys, self._state = tuple(keys), state
            self.refresh()

    def show_notice(self, text: str) -> None:
        """Show a notice for `NOTICE_SECONDS`, or longer if it is long. It may have several lines."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(max(NOTICE_SECONDS, len(text) / READ_PER_SECOND), self.end_notice)
        self._set_notice(text)

    def end_notice(self) -> None:
        """Show keys and state again."""
        self._set_notice("")

    def _set_notice(self, text: str) -> None:
        self.notice = text
        self.set_class(bool(text), "-notice")
        self.refresh(layout=True)

    def render(self) -> Content:
        """Return the line at the width that there is."""
        if self.notice:
            return Content.assemble((one_line(self.notice), "bold $text-warning"))
        content, self._ends = foot_content(self._keys, self._state, self.content_size.width)
        return content

    def on_click(self, event: events.Click) -> None:
        """Do what the key that was clicked does."""
        if not self.notice:
            offset = event.get_content_offset(self)
            action = next((action for end, action in self._ends if offset is not None and offset.x < end), None)
            if action is not None:
                self.post_message(self.Clicked(action))


def foot_content(keys: Sequence[Key], state: Content, width: int) -> tuple[Content, list[tuple[int, str]]]:
    """Return the line, and where each key ends with its action. Keys that do not fit are left out from the end."""
    room = width - state.cell_length
    parts: list[tuple[str, str]] = []
    ends: list[tuple[int, str]] = []
    used = 0
    for key in keys:
        text = f" {key.word}"
        length = len(key.key) + len(text) + 2
        if used + length > room:
            break
        parts += [(key.key, "bold"), (f"{text}  ", "$foreground-muted")]
        used += length
        ends.append((used, key.action))
    return Content.assemble(*parts, " " * max(0, width - used - state.cell_length), state), ends
