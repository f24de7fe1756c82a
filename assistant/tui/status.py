"""The line that says what the chat is doing."""

from __future__ import annotations

from textual.timer import Timer
from textual.widgets import Static

from assistant.escape import one_line

NOTICE_SECONDS = 5.0


class StatusLine(Static):
    """The state and the model; a notice takes their place for some seconds."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._state = ""
        self._timer: Timer | None = None

    def show_state(self, state: str, model: str = "") -> None:
        """Say what is going on, at once."""
        self._state = " · ".join(part for part in (state, one_line(model)) if part)
        self._end_notice()

    def show_notice(self, text: str) -> None:
        """Say something in passing."""
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
