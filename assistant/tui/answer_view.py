"""One answer on the screen: its model's name where there are two, its text, and a note."""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from assistant.escape import displayable, one_line
from assistant.tui.growing_text import GrowingText
from assistant.tui.turn_state import AnswerState

MATCH, NO_MATCH = "✓", "✗"


@dataclass
class AnswerClicked(Message):
    """The person clicked the name of an answer's model: it wants more or less room."""

    state: AnswerState


class RawAnswer(Static):
    """An answer with every character that the model wrote, in one widget: a screen with many turns stays fast."""

    def __init__(self, state: AnswerState) -> None:
        super().__init__(markup=False, classes="answer")
        self.state = state
        self._is_folded = False
        self._growing: GrowingText | None = None

    def on_mount(self) -> None:
        """Draw the state that was given."""
        self._draw()

    async def show(self, state: AnswerState) -> None:
        """Draw a new state."""
        self.state = state
        self._draw()

    async def append(self, text: str) -> None:
        """Add text that arrived."""
        self.state = replace(self.state, text=self.state.text + text)
        if self._growing is None:
            self._draw()
            return
        self._growing.append(text)
        width, height = self.content_size
        is_higher = self._growing.height(width) != height
        self.update(self._growing, layout=is_higher or not width)  # a layout places every turn again

    def fold(self, *, is_folded: bool) -> None:
        """Show one line, or everything."""
        if is_folded != self._is_folded:
            self._is_folded = is_folded
            self._draw()

    def _draw(self) -> None:
        set_side_classes(self, self.state)
        if self.state.status in ("writing", "stopping") and not self._is_folded:
            head = label_content(self.state) if self.state.is_named else Content("")
            self._growing = GrowingText(self.state.text, head=head, foot=note_content(self.state))
            self.update(self._growing)
        else:
            self._growing = None
            self.update(whole_content(self.state, is_folded=self._is_folded))

    def on_click(self, event: events.Click) -> None:
        """Give the column more room, if its name was clicked."""
        offset = event.get_content_offset(self)
        if self.state.is_named and offset is not None and offset.y == 0:
            self.post_message(AnswerClicked(self.state))


def set_side_classes(widget: Widget, state: AnswerState) -> None:
    """Mark a widget as one of two answers, and as the tuned model's unless the names are hidden."""
    widget.set_class(state.is_named, "-named")
    widget.set_class(state.is_named and not state.is_hidden and state.key.side == "tuned", "-tuned")


def whole_content(state: AnswerState, *, is_folded: bool) -> Content:
    """Return label, text and note of an answer. Folded, only the label and the first line."""
    is_good = state.is_match if state.is_match is not None else state.key.side == "tuned"
    style = "underline bold $text-success" if is_good else "underline bold $text-error"
    parts: list[Content] = [label_content(state), Content("\n")] if state.is_named else []
    if is_folded:
        return Content("").join([*parts, Content(displayable(state.text).partition("\n")[0])])
    note = note_content(state)
    parts.append(answer_content(state.text, state.marked, style))
    if note.plain:
        parts += [Content("\n") if state.text else Content(""), note]
    return Content("").join(parts)


def label_content(state: AnswerState) -> Content:
    """Return the name of an answer's model."""
    is_tuned = not state.is_hidden and state.key.side == "tuned"
    return Content.assemble((one_line(state.label), "$text-primary" if is_tuned else "$foreground-muted"))


def answer_content(text: str, marked: tuple[int, int] | None, mark_style: str) -> Content:
    """Return an answer with every character that the model wrote, and some of them marked."""
    if marked is None:
        return Content(displayable(text))
    start, end = marked
    before, middle, after = text[:start], text[start:end], text[end:]
    if middle.strip():  # the space before a word belongs to its token, but an underline of it says nothing
        word = middle.lstrip(" ")
        before, middle = before + " " * (len(middle) - len(word)), word
    else:
        middle = middle.replace(" ", "␣") or "▁"  # the answer ends here, or goes on with white space
    return Content.assemble(displayable(before), (displayable(middle), mark_style), displayable(after))


def note_content(state: AnswerState) -> Content:
    """Return the line under an answer."""
    if state.is_match is None:
        return Content.assemble((displayable(state.note), "$foreground-muted"))
    mark, style = (MATCH, "$text-success") if state.is_match else (NO_MATCH, "$text-error")
    words = " = reference · " if state.is_match else " "
    return Content.assemble((mark, style), (words + displayable(state.note), "$foreground-muted"))
