"""A turn on the screen: the question, one or two answers, and a line about each. Draws `TurnState` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from assistant.chat.records import AnswerKey
from assistant.escape import displayable, one_line
from assistant.tui.turn_state import AnswerState, TurnState

if TYPE_CHECKING:
    from assistant.tui.markdown_answer import MarkdownAnswer

INLINE_INPUT = 40
"""A longer input, or one with a line end, stands on lines of its own."""
MARK = "❯ "
MATCH, NO_MATCH = "✓", "✗"


class AnswerClicked(Message):
    """The person clicked the name of an answer's model: it wants more or less room."""

    def __init__(self, state: AnswerState) -> None:
        super().__init__()
        self.state = state


class RawAnswer(Static):
    """An answer with every character that the model wrote, in one widget: a screen with many turns stays fast."""

    def __init__(self, state: AnswerState) -> None:
        super().__init__(markup=False, classes="answer")
        self.state = state
        self._is_folded = False

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
        self._draw()

    def fold(self, *, is_folded: bool) -> None:
        """Show one line, or everything."""
        if is_folded != self._is_folded:
            self._is_folded = is_folded
            self._draw()

    def _draw(self) -> None:
        set_side_classes(self, self.state)
        self.update(whole_content(self.state, is_folded=self._is_folded))

    def on_click(self, event: events.Click) -> None:
        """Give the column more room, if its name was clicked."""
        offset = event.get_content_offset(self)
        if self.state.is_named and offset is not None and offset.y == 0:
            self.post_message(AnswerClicked(self.state))


@dataclass
class TurnClicked(Message):
    """The person clicked a turn."""

    number: int


class Question(Static):
    """A question after its mark. The mark stands in the padding, so that all lines of the text begin in one column."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """Draw the text, and the mark before its first line."""
        strips = super().render_lines(crop)
        if strips and crop.x == crop.y == 0:
            mark = Strip([Segment(MARK, self.rich_style)])
            strips[0] = Strip.join([mark, strips[0].crop(mark.cell_length)])
        return strips


class TurnView(Vertical):
    """A turn. Two answers stand side by side on a wide screen, and one above the other on a narrow one."""

    def __init__(self, state: TurnState, *, is_markdown: bool, wide: str | None = None) -> None:
        super().__init__()
        self.state = state
        self._is_markdown, self._wide = is_markdown, wide
        self._question = Question(classes="question", markup=False)
        self._answers: list[RawAnswer | MarkdownAnswer] = []
        self._foot = Static(classes="foot", markup=False)

    def compose(self) -> ComposeResult:
        yield self._question
        yield from self._make_answers()
        if foot_content(self.state).plain:
            yield self._foot

    def _make_answers(self) -> list[Widget]:
        if self._is_markdown:
            from assistant.tui.markdown_answer import MarkdownAnswer  # here, so that the chat paints sooner

            self._answers = [MarkdownAnswer(answer) for answer in self.state.answers]
        else:
            self._answers = [RawAnswer(answer) for answer in self.state.answers]
        self._fold()
        return [Horizontal(*self._answers, classes="answers")] if len(self._answers) > 1 else [*self._answers]

    def on_mount(self) -> None:
        """Draw the state that was given."""
        self._question.update(question_content(self.state))
        self._foot.update(foot_content(self.state))

    async def show(self, state: TurnState) -> None:
        """Draw a new state."""
        before, self.state = self.state, state
        if [answer.key.side for answer in state.answers] != [answer.key.side for answer in before.answers]:
            await self._make_again()
        else:
            for view, answer in zip(self._answers, state.answers, strict=True):
                await view.show(answer)
        self._question.update(question_content(state))
        foot = foot_content(state)
        if foot.plain and not self._foot.is_attached:
            await self.mount(self._foot)
        self._foot.update(foot)
        self._foot.display = bool(foot.plain)

    async def append(self, key: AnswerKey, text: str) -> None:
        """Add text that arrived to an answer, if that variant is the one that is shown."""
        for view in self._answers:
            if view.state.key == key:
                await view.append(text)

    async def set_markdown(self, is_markdown: bool) -> None:
        """Show answers as Markdown, or every character as it is."""
        self._is_markdown = is_markdown
        await self._make_again()

    def set_wide(self, side: str | None) -> None:
        """Give all the room to one side, and one line to the other. None: equal room."""
        self._wide = side
        self._fold()

    def _fold(self) -> None:
        for view in self._answers:
            is_folded = self._wide is not None and len(self._answers) > 1 and view.state.key.side != self._wide
            view.set_class(is_folded, "-folded")
            view.fold(is_folded=is_folded)

    async def _make_again(self) -> None:
        """Replace the widgets of the answers."""
        await self.query(".answers, TurnView > .answer").remove()
        await self.mount(*self._make_answers(), after=self._question)

    def on_click(self) -> None:
        """Select the turn."""
        self.post_message(TurnClicked(self.state.number))


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


def question_content(state: TurnState) -> Content:
    """Return the question. A short input stands on its line, a longer one below."""
    parts: list[tuple[str, str]] = [(displayable(state.instruction), "")]
    if state.input:
        is_short = len(state.input) <= INLINE_INPUT and "\n" not in state.input + state.instruction
        parts.append(("  " if is_short else "\n", ""))
        parts.append((displayable(state.input), "not bold $foreground"))
    return Content.assemble(*parts)


def answer_content(text: str, marked: tuple[int, int] | None, mark_style: str) -> Content:
    """Return an answer with every character that the model wrote, and some of them marked."""
    if marked is None:
        return Content(displayable(text))
    start, end = marked
    before, middle, after = text[:start], text[start:end], text[end:]
    if not middle.strip():
        middle = middle.replace(" ", "␣") or "▁"  # the answer ends here, or goes on with white space
    return Content.assemble(displayable(before), (displayable(middle), mark_style), displayable(after))


def note_content(state: AnswerState) -> Content:
    """Return the line under an answer."""
    if state.is_match is None:
        return Content.assemble((displayable(state.note), "$foreground-muted"))
    mark, style = (MATCH, "$text-success") if state.is_match else (NO_MATCH, "$text-error")
    words = " = reference · " if state.is_match else " "
    return Content.assemble((mark, style), (words + displayable(state.note), "$foreground-muted"))


def foot_content(state: TurnState) -> Content:
    """Return what stands under both answers: reference, correction, nearest training row, and a hint."""
    parts: list[tuple[str, str]] = []
    if state.reference is not None and not all(answer.is_match for answer in state.answers):
        parts.append((f"reference  {displayable(state.reference)}\n", "$text-success"))
    if state.correction is not None:
        parts.append((f"corrected  {displayable(state.correction)}\n", "bold $text-success"))
    if state.nearest:
        parts.append((f"{displayable(state.nearest)}\n", "$foreground-muted"))
    if state.hint:
        parts.append((f"{state.hint}\n", "bold $text-accent"))
    if parts:
        last, style = parts[-1]
        parts[-1] = (last.removesuffix("\n"), style)
    return Content.assemble(*parts)
