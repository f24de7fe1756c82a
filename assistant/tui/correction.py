"""The editor of an answer: what the person writes becomes a row to train on."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from assistant.escape import displayable
from assistant.tui.modal import Modal
from assistant.tui.raw_text import RawTextArea


class CorrectionArea(RawTextArea):
    """Enter ends the correction; ctrl+j starts a new line, as in the prompt."""

    async def _on_key(self, event: events.Key) -> None:
        if event.key not in ("enter", "ctrl+j", "shift+enter"):
            return
        event.stop()
        event.prevent_default()
        if event.key == "enter":
            assert isinstance(self.screen, CorrectionScreen)
            self.screen.take()
        else:
            self.add_line()


class CorrectionScreen(Modal[str | None]):
    """Shows the question and its answer for editing. Returns the new answer, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Close", key_display="esc", priority=True)]

    def __init__(self, question: str, answer: str, *, note: str) -> None:
        super().__init__()
        self._question, self._answer, self._note = question, answer, note

    def compose(self) -> ComposeResult:
        with Vertical(id="correction") as box:
            box.border_title = "The right answer"
            box.border_subtitle = "enter keeps it · ctrl+j new line · esc closes"
            yield Static(Content(displayable(self._question)), id="correction-question")
            yield CorrectionArea(id="correction-text")
            yield Static(self._note, id="correction-note", markup=False)

    def on_mount(self) -> None:
        """Show the answer, with the cursor at its end."""
        area = self.query_one(CorrectionArea)
        area.load_text(self._answer)
        area.move_cursor(area.document.end)
        area.focus()

    def take(self) -> None:
        """Return the text, unless it is empty."""
        text = self.query_one(CorrectionArea).text.strip()
        if text:
            self.dismiss(text)
