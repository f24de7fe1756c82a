"""The prompt: an instruction, and the input that belongs to it. Knows nothing about the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Static, TextArea

from assistant.chat.inputs import InputHistory
from assistant.tui.raw_text import RawTextArea

# Keys of TextArea that do something else in the chat. TextArea redoes with ctrl+y, and selects with f6 and f7.
OVERRIDDEN = {"up", "down", "pageup", "pagedown", "ctrl+y,super+y", "f6", "f7"}
_WITH_INPUT = re.compile(r"(\d+)\x1e")


class Field(RawTextArea, inherit_bindings=False):
    """One of the two texts. It gives the keys that are the prompt's to the prompt, in the order in which they came."""

    ALLOW_MAXIMIZE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+shift+z,super+y", "redo", "Redo", show=False),
        *(binding for binding in TextArea.BINDINGS if isinstance(binding, Binding) and binding.key not in OVERRIDDEN),
    ]

    def __init__(self, prompt: Prompt, *, id: str, placeholder: str = "") -> None:
        super().__init__(id=id, placeholder=placeholder)
        self._prompt = prompt

    @property
    def is_at_top(self) -> bool:
        """Whether the cursor is in the first row of the screen. A long line takes several rows."""
        return self._cursor_row == 0

    @property
    def is_at_bottom(self) -> bool:
        """Whether the cursor is in the last row of the screen."""
        return self._cursor_row >= self.wrapped_document.height - 1

    @property
    def _cursor_row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def show(self, text: str) -> None:
        """Replace the text, with the cursor at its end."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    async def _on_key(self, event: events.Key) -> None:
        if self._prompt.take_key(self, event.key):
            # Otherwise Textual would call TextArea's own handler next.
            event.stop()
            event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        """Insert the text.

        TextArea would take the focus, too, but later: after an Enter that follows the text, it would give the focus to
        an input that is closed, and the next keys would be lost.
        """
        event.prevent_default()
        event.stop()
        if (result := self._replace_via_keyboard(event.text, *self.selection)) is not None:
            self.move_cursor(result.end_location)


class Prompt(Vertical):
    """Two fields that send with Enter: the instruction, and below it the input, which Tab opens.

    ctrl+j starts a new line. Up in the first row and down in the last row recall sent messages. A field handles these
    keys in its own queue. A priority binding would run in the app's queue, where Enter can overtake the characters
    typed just before it, and the chat would send a truncated message. Only Tab is a priority binding: it decides which
    field gets the next key. The other bindings below name the keys for the footer and the help.
    """

    SCOPED_CSS = False  # `-short` is a class of the screen
    DEFAULT_CSS = """
    Prompt {
        height: auto;
        border-top: solid $primary 45%;
        border-bottom: solid $primary 45%;

        TextArea {
            height: auto;
            min-height: 1;
            max-height: 8; /* ten rows with the rules */
            padding: 0 1;
            background: $background;
            scrollbar-size-vertical: 1;
        }
        #input-row {
            display: none;
            height: auto;
        }
        #input-label {
            width: auto;
            padding: 0 0 0 1;
            color: $text-muted;
        }
        &.-with-input #instruction {
            max-height: 5;
        }
        &.-with-input #input {
            max-height: 3;
        }
    }
    .-short Prompt {
        TextArea {
            max-height: 3;
        }
        &.-with-input #instruction {
            max-height: 2;
        }
        &.-with-input #input {
            max-height: 1;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", tooltip="Send the message", key_display="enter"),
        Binding("ctrl+j", "newline", "New line", tooltip="Start a new line"),
        Binding(
            "tab",
            "switch_field",
            "Input",
            tooltip="Open or leave the input, which the instruction is about",
            key_display="tab",
            priority=True,
        ),
        Binding("shift+tab", "switch_field", "Input", show=False, priority=True),
        Binding("up", "earlier", "Earlier", tooltip="In the first row: recall the previous message", show=False),
        Binding("down", "later", "Later", tooltip="In the last row: recall the next message or your draft", show=False),
        Binding("pageup", "screen.scroll_conversation(-1)", "Up", tooltip="Scroll the conversation up", show=False),
        Binding(
            "pagedown", "screen.scroll_conversation(1)", "Down", tooltip="Scroll the conversation down", show=False
        ),
    ]

    @dataclass
    class Submitted(Message):
        """The user sent a message. The prompt is now empty."""

        instruction: str
        """As it was typed and pasted, not stripped. Never blank."""
        input: str = ""

    @dataclass
    class Flipped(Message):
        """The user pressed left or right in an empty prompt."""

        step: int
        """-1 for left, 1 for right."""

    @dataclass
    class TurnSelected(Message):
        """The user pressed ctrl+up or ctrl+down."""

        step: int
        """-1 for up, 1 for down."""

    class EnteredEmpty(Message):
        """The user pressed Enter in an empty prompt."""

    def __init__(self, *, id: str | None = None, history: InputHistory | None = None) -> None:
        super().__init__(id=id)
        self.instruction_field = Field(self, id="instruction", placeholder="Type an instruction")
        self.input_field = Field(self, id="input")
        self._input_row = Horizontal(Static("input", id="input-label"), self.input_field, id="input-row")
        self._history = InputHistory() if history is None else history

    def compose(self) -> ComposeResult:
        yield self.instruction_field
        yield self._input_row

    @property
    def instruction(self) -> str:
        """The text of the first field, as it was typed."""
        return self.instruction_field.text

    @property
    def input(self) -> str:
        """The text of the second field, as it was typed."""
        return self.input_field.text

    @property
    def has_text(self) -> bool:
        """Whether a field has a character."""
        return bool(self.instruction or self.input)

    @property
    def active_field(self) -> Field:
        """The field that has the focus, or had it last."""
        return self.input_field if self.screen.focused is self.input_field else self.instruction_field

    def set(self, instruction: str, input: str = "") -> None:
        """Replace what stands in the prompt, and go to its end."""
        self._history.reset()
        self._show(instruction, input)
        self._go_to(self.instruction_field)

    def restore(self, instruction: str, input: str = "") -> bool:
        """Put an unanswered message back, unless the user has typed another one. Return whether it is back."""
        if self.instruction.strip() or self.input.strip():
            return False
        self.set(instruction, input)
        return True

    def take_key(self, field: Field, key: str) -> bool:
        """Handle a key of a field if it is the prompt's. Return whether it is."""
        match key:
            case "enter":
                self._submit(field)
            case "ctrl+j" | "shift+enter":
                field.add_line()
            case "up":
                return field.is_at_top and self._go_up(field)
            case "down":
                return field.is_at_bottom and self._go_down(field)
            case "left" | "right" if not self.has_text:
                self.post_message(self.Flipped(-1 if key == "left" else 1))
            case "ctrl+up" | "ctrl+down":
                self.post_message(self.TurnSelected(-1 if key == "ctrl+up" else 1))
            case _:
                return False
        return True

    def on_unmount(self) -> None:
        """Keep a draft among the sent messages when the person quits: the next chat recalls it."""
        if self.instruction.strip():
            self._history.add(self._entry)

    def on_text_area_changed(self) -> None:
        """Show the input as soon as it has text, and give the rows to the fields."""
        if self.input:
            self._open_input()

    # --- actions, which run in the app's queue -----------------------------------------------------------------------

    def action_submit(self) -> None:
        """Send the message."""
        self.active_field.call_later(self._submit, self.active_field)

    def action_newline(self) -> None:
        """Start a new line."""
        self.active_field.add_line()

    def action_switch_field(self) -> None:
        """Go to the other field. An input without text is open only while it has the focus."""
        if self.active_field is self.instruction_field:
            self._open_input()
            self._go_to(self.input_field)
        else:
            self._go_to(self.instruction_field)
            # Text may still be on its way to the input. Its change would open it again.
            self._close_empty_input()

    def action_earlier(self) -> None:
        """Recall the previous message, or move the cursor up."""
        if not self.take_key(self.active_field, "up"):
            self.active_field.action_cursor_up()

    def action_later(self) -> None:
        """Recall the next message or the draft, or move the cursor down."""
        if not self.take_key(self.active_field, "down"):
            self.active_field.action_cursor_down()

    # --- sending -----------------------------------------------------------------------------------------------------

    def _submit(self, field: Field) -> None:
        """Take this field's text now, and the other one's after the keys that are still on their way to it."""
        text = field.text
        if field is self.instruction_field and not text.strip():
            if not self.has_text:
                self.post_message(self.EnteredEmpty())
            return
        field.load_text("")
        self._go_to(self.instruction_field)
        other = self.input_field if field is self.instruction_field else self.instruction_field
        other.call_later(self._send, field, text)

    def _send(self, field: Field, text: str) -> None:
        is_instruction = field is self.instruction_field
        instruction, input = (text, self.input) if is_instruction else (self.instruction, text)
        if not instruction.strip():  # an input alone is no message
            self.input_field.show(text + self.input)
            return
        self._history.add(_to_entry(instruction, input))
        (self.input_field if is_instruction else self.instruction_field).load_text("")
        self._close_empty_input()
        self.post_message(self.Submitted(instruction, input))

    # --- history and fields ------------------------------------------------------------------------------------------

    def _go_up(self, field: Field) -> bool:
        if field is self.input_field:
            self._go_to(self.instruction_field)
            return True
        return self._recall(self._history.earlier(self._entry))

    def _go_down(self, field: Field) -> bool:
        if field is self.instruction_field and self._input_row.display:
            self._go_to(self.input_field)
            return True
        return self._recall(self._history.later(self._entry))

    @property
    def _entry(self) -> str:
        return _to_entry(self.instruction, self.input)

    def _recall(self, entry: str | None) -> bool:
        if entry is None:
            return False
        self._show(*_from_entry(entry))
        return True

    def _show(self, instruction: str, input: str) -> None:
        self.instruction_field.show(instruction)
        self.input_field.show(input)
        if input:
            self._open_input()
        else:
            self._go_to(self.instruction_field)
            self._close_empty_input()

    def _go_to(self, field: Field) -> None:
        if self.screen.focused in (self.instruction_field, self.input_field):
            self.screen.set_focus(field)  # at once; `focus` would let the next key overtake it

    def _open_input(self) -> None:
        self._input_row.display = True
        self.add_class("-with-input")

    def _close_empty_input(self) -> None:
        if not self.input:
            self._input_row.display = False
            self.remove_class("-with-input")


def _to_entry(instruction: str, input: str) -> str:
    """Return both texts as one entry of the history. An entry without an input is the instruction."""
    has_both = input or "\x1e" in instruction
    return f"{len(instruction)}\x1e{instruction}{input}" if has_both else instruction


def _from_entry(entry: str) -> tuple[str, str]:
    """Return the two texts of an entry."""
    if (match := _WITH_INPUT.match(entry)) is None:
        return entry, ""
    text, size = entry[match.end() :], int(match[1])
    return text[:size], text[size:]
