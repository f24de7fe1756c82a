"""The input box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import var
from textual.widgets import TextArea

from assistant.escape import displayable
from assistant.tui.inputs import InputHistory

# What is another key here. TextArea has its redo on ctrl+y, with which the screen copies the reply.
TAKEN = {"up", "down", "pageup", "pagedown", "ctrl+y,super+y"}


class Prompt(TextArea, inherit_bindings=False):
    """Enter sends, ctrl+j is a new line, up and down at the edges recall earlier inputs.

    These keys are handled in `_on_key`, in this widget's own queue. A priority binding would run in the app's queue,
    where an Enter overtakes the characters typed just before it and a truncated message is sent. The bindings below
    name the keys for the footer and the help, and catch what `_on_key` lets pass.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", tooltip="Send the message", key_display="enter"),
        Binding("ctrl+j", "newline", "New line", tooltip="Start a new line"),
        Binding("up", "earlier", "Earlier", tooltip="In the first line: the message before", show=False),
        Binding("down", "later", "Later", tooltip="In the last line: the message after, then your draft", show=False),
        Binding("pageup", "screen.scroll_conversation(-1)", "Up", tooltip="Scroll the conversation up", show=False),
        Binding(
            "pagedown", "screen.scroll_conversation(1)", "Down", tooltip="Scroll the conversation down", show=False
        ),
        Binding("ctrl+shift+z,super+y", "redo", "Redo", show=False),
        *(binding for binding in TextArea.BINDINGS if isinstance(binding, Binding) and binding.key not in TAKEN),
    ]

    locked: var[bool] = var(False)
    """Whether Enter is refused. Set on sending; the screen takes it back when the reply is over."""

    @dataclass
    class Submitted(Message):
        """A message was sent; the prompt is empty and locked now."""

        text: str

    class Refused(Message):
        """Enter was pressed while locked; the text is still there."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(
            id=id,
            soft_wrap=True,
            highlight_cursor_line=False,
            placeholder=Content("Type a message"),
        )
        self._history = InputHistory()

    def give_back(self, text: str) -> bool:
        """Put an unanswered message back, unless something else has been typed meanwhile. Returns whether it did."""
        if self.text.strip():
            return False
        self._history.reset()
        self._show(text)
        return True

    async def _on_key(self, event: events.Key) -> None:
        handled = {
            "enter": self._submit,
            "ctrl+j": self._newline,
            "shift+enter": self._newline,
            "up": self._earlier,
            "down": self._later,
        }.get(event.key)
        if handled is not None and handled():
            # Textual calls TextArea's own handler next unless it is told not to.
            event.stop()
            event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        # TextArea's own handler follows and inserts event.text; an escape sequence in it would reach the terminal.
        event.text = displayable(event.text)

    def action_submit(self) -> None:
        """Send the message."""
        self._submit()

    def action_newline(self) -> None:
        """Start a new line."""
        self._newline()

    def action_earlier(self) -> None:
        """Recall the input before this one, or move the cursor up."""
        if not self._earlier():
            self.action_cursor_up()

    def action_later(self) -> None:
        """Recall the input after this one, or move the cursor down."""
        if not self._later():
            self.action_cursor_down()

    def _submit(self) -> bool:
        text = self.text.strip()
        if not text:
            return True
        if self.locked:
            self.post_message(self.Refused())
            return True
        self.locked = True
        self._history.add(text)
        self.load_text("")
        self.post_message(self.Submitted(text))
        return True

    def _newline(self) -> bool:
        self.replace("\n", *self.selection, maintain_selection_offset=False)
        self.scroll_cursor_visible()
        return True

    def _earlier(self) -> bool:
        if self._cursor_row > 0:
            return False
        return self._recall(self._history.earlier(self.text))

    def _later(self) -> bool:
        if self._cursor_row < self.wrapped_document.height - 1:
            return False
        return self._recall(self._history.later(self.text))

    @property
    def _cursor_row(self) -> int:
        """The row of the cursor as it is drawn, a long line being several."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def _recall(self, text: str | None) -> bool:
        if text is None:
            return False
        self._show(text)
        return True

    def _show(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)
