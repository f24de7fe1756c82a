"""The input box: typing, sending, and recalling sent messages. Knows nothing about the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import var
from textual.widgets import TextArea

from assistant.chat.inputs import InputHistory
from assistant.escape import displayable

# Keys of TextArea that do something else in the chat. TextArea redoes with ctrl+y; the chat copies the reply with it.
OVERRIDDEN = {"up", "down", "pageup", "pagedown", "ctrl+y,super+y"}


class Prompt(TextArea, inherit_bindings=False):
    """A text area that sends with Enter.

    ctrl+j starts a new line. Up in the first row and down in the last row recall sent messages. `_on_key` handles these
    keys in this widget's own queue. A priority binding would run in the app's queue, where Enter can overtake the
    characters typed just before it, and the chat would send a truncated message. The bindings below name the keys for
    the footer and the help, and handle the keys that `_on_key` does not.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", tooltip="Send the message", key_display="enter"),
        Binding("ctrl+j", "newline", "New line", tooltip="Start a new line"),
        Binding("up", "earlier", "Earlier", tooltip="In the first row: recall the previous message", show=False),
        Binding("down", "later", "Later", tooltip="In the last row: recall the next message or your draft", show=False),
        Binding("pageup", "screen.scroll_conversation(-1)", "Up", tooltip="Scroll the conversation up", show=False),
        Binding(
            "pagedown", "screen.scroll_conversation(1)", "Down", tooltip="Scroll the conversation down", show=False
        ),
        Binding("ctrl+shift+z,super+y", "redo", "Redo", show=False),
        *(binding for binding in TextArea.BINDINGS if isinstance(binding, Binding) and binding.key not in OVERRIDDEN),
    ]

    locked: var[bool] = var(False)
    """Whether Enter is refused. Sending a message sets it; the screen clears it after the reply."""

    @dataclass
    class Submitted(Message):
        """The user sent a message. The prompt is now empty and locked."""

        instruction: str
        input: str = ""

    @dataclass
    class Flipped(Message):
        step: int

    @dataclass
    class TurnSelected(Message):
        step: int

    @property
    def instruction(self) -> str:
        return self.text

    @property
    def input(self) -> str:
        return ""

    def set(self, instruction: str, input: str) -> None:
        self._show(instruction)

    def submit(self) -> None:
        self._submit()

    class Refused(Message):
        """The user pressed Enter while the prompt was locked. The prompt keeps its text."""

    def __init__(self, *, history=None, id: str | None = None) -> None:
        super().__init__(
            id=id,
            soft_wrap=True,
            highlight_cursor_line=False,
            placeholder=Content("Type a message"),
        )
        self._history = InputHistory()

    def restore(self, text: str, input: str = "") -> bool:
        """Put an unanswered message back, unless the user has typed another one. Return whether it is back."""
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
            # Otherwise Textual would call TextArea's own handler next.
            event.stop()
            event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        # TextArea's own handler runs next and inserts event.text. An escape sequence in it would reach the terminal.
        event.text = displayable(event.text)

    def action_submit(self) -> None:
        """Send the message."""
        self._submit()

    def action_newline(self) -> None:
        """Start a new line."""
        self._newline()

    def action_earlier(self) -> None:
        """Recall the previous message, or move the cursor up."""
        if not self._earlier():
            self.action_cursor_up()

    def action_later(self) -> None:
        """Recall the next message or the draft, or move the cursor down."""
        if not self._later():
            self.action_cursor_down()

    # These four return whether they handled the key.

    def _submit(self) -> bool:
        text = self.text.strip()
        if not text:
            return True
        if self.locked:
            self.post_message(self.Refused())
            return True
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
        """The cursor's row on the screen, where a long line takes several rows."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def _recall(self, text: str | None) -> bool:
        if text is None:
            return False
        self._show(text)
        return True

    def _show(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)
