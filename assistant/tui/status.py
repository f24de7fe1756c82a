"""A status line: shows what can be done now, and short notices."""

from __future__ import annotations

from textual.timer import Timer
from textual.widgets import Static

NOTICE_SECONDS = 5.0


class StatusLine(Static):
    """The state. A notice replaces it for `NOTICE_SECONDS`."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._state = ""
        self._timer: Timer | None = None

    def show_state(self, state: str) -> None:
        """Show the state now. This ends a notice."""
        self._state = state
        self._end_notice()

    def show_notice(self, text: str) -> None:
        """Show a notice for `NOTICE_SECONDS`, then the state again."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(NOTICE_SECONDS, self._end_notice)
        self.add_class("-notice")
        self.update(text)

    def _end_notice(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self.remove_class("-notice")
        self.update(self._state)
