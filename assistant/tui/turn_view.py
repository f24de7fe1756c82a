"""A turn on the screen: the question, one or two answers, and a line about each. Draws `TurnState` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from assistant.escape import displayable, one_line
from assistant.tui.markdown import ReplyMarkdown
from assistant.tui.turn_state import AnswerState, TurnState

INLINE_INPUT = 40
"""A longer input, or one with a line end, stands on lines of its own."""
MARK = "❯"
MATCH, NO_MATCH = "✓", "✗"


class AnswerBody(Vertical):
    """The text of an answer as it arrives: every character as it is, or Markdown."""

    def __init__(self, *, is_markdown: bool) -> None:
        super().__init__()
        self._is_markdown = is_markdown
        self._text = ""
        self._marked: tuple[int, int] | None = None
        self._mark_style = ""
        self._raw = Static(classes="raw", markup=False)
        self._markdown: ReplyMarkdown | None = ReplyMarkdown() if is_markdown else None
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._raw
        if self._markdown is not None:
            yield self._markdown

    async def on_mount(self) -> None:
        """Draw what was given before."""
        await self._draw()

    async def append(self, text: str) -> None:
        """Add text at the end."""
        self._text += text
        if self._is_markdown and self._markdown is not None:
            if self._stream is None:
                # The widget must be empty. A stream that starts after update() shows a fence in the first line as
                # paragraphs.
                self._stream = Markdown.get_stream(self._markdown)
                text = self._text
            await self._stream.write(displayable(text))
        else:
            self._raw.update(displayable(self._text))

    async def show(self, text: str, marked: tuple[int, int] | None, mark_style: str) -> None:
        """Show the whole text, with some characters marked."""
        if (text, marked, mark_style) == (self._text, self._marked, self._mark_style) and self._stream is None:
            return
        self._text, self._marked, self._mark_style = text, marked, mark_style
        if self.is_mounted:
            await self._draw()

    async def set_markdown(self, is_markdown: bool) -> None:
        """Show the text as Markdown, or every character as it is."""
        self._is_markdown = is_markdown
        if is_markdown and self._markdown is None:
            self._markdown = ReplyMarkdown()
            await self.mount(self._markdown)
        await self._draw()

    async def _draw(self) -> None:
        await self._end_stream()
        self._raw.display = not self._is_markdown
        if not self._is_markdown:
            self._raw.update(answer_content(self._text, self._marked, self._mark_style))
        if self._markdown is not None:
            self._markdown.display = self._is_markdown
            if self._is_markdown:
                await self._markdown.update(displayable(self._text))

    async def on_unmount(self) -> None:
        """End the stream's task when the person quits during an answer."""
        await self._end_stream()

    async def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()


class AnswerView(Vertical):
    """One answer: its model's name where there are two, its text, and a note."""

    class Clicked(Message):
        """The person clicked the name of an answer's model: it wants more or less room."""

        def __init__(self, view: AnswerView) -> None:
            super().__init__()
            self.view = view

    def __init__(self, state: AnswerState, *, is_markdown: bool) -> None:
        super().__init__(classes=f"-{state.key.side}" if state.is_named and state.label not in ("A", "B") else "")
        self.state = state
        self._label = Static(classes="label", markup=False)
        self._body = AnswerBody(is_markdown=is_markdown)
        self._note = Static(classes="note", markup=False)

    def compose(self) -> ComposeResult:
        yield self._label
        yield self._body
        yield self._note

    async def on_mount(self) -> None:
        """Draw the state that was given."""
        await self.show(self.state)

    async def show(self, state: AnswerState) -> None:
        """Draw a new state."""
        self.state = state
        self.set_class(state.is_named, "-named")
        self.set_class(state.is_named and state.label not in ("A", "B") and state.key.side == "tuned", "-tuned")
        self._label.update(one_line(state.label))
        is_good = state.is_match if state.is_match is not None else state.key.side == "tuned"
        style = "underline bold $text-success" if is_good else "underline bold $text-error"
        await self._body.show(state.text, state.marked, style)
        self._note.update(note_content(state))

    async def append(self, text: str) -> None:
        """Add text that arrived."""
        await self._body.append(text)

    async def set_markdown(self, is_markdown: bool) -> None:
        """Show Markdown, or every character."""
        await self._body.set_markdown(is_markdown)

    def on_click(self, event: events.Click) -> None:
        """Give the column more room, if its name was clicked."""
        if event.widget is self._label:
            self.post_message(self.Clicked(self))


@dataclass
class TurnClicked(Message):
    """The person clicked a turn."""

    number: int


class TurnView(Vertical):
    """A turn. Two answers stand side by side on a wide screen, and one above the other on a narrow one."""

    def __init__(self, state: TurnState, *, is_markdown: bool) -> None:
        super().__init__()
        self.state = state
        self._is_markdown = is_markdown
        self._question = Static(classes="question", markup=False)
        self._answers = Horizontal(classes="answers")
        self._foot = Static(classes="foot", markup=False)

    def compose(self) -> ComposeResult:
        yield Static(MARK, classes="mark", markup=False)
        yield self._question
        with self._answers:
            for answer in self.state.answers:
                yield AnswerView(answer, is_markdown=self._is_markdown)
        yield self._foot

    def on_mount(self) -> None:
        """Draw the state that was given."""
        self._draw()

    async def show(self, state: TurnState) -> None:
        """Draw a new state."""
        views = list(self._answers.query(AnswerView))
        keys = [(answer.key.side, answer.label in ("A", "B")) for answer in state.answers]
        if keys != [(view.state.key.side, view.state.label in ("A", "B")) for view in views]:
            await self._answers.remove_children()
            await self._answers.mount(*(AnswerView(answer, is_markdown=self._is_markdown) for answer in state.answers))
        else:
            for view, answer in zip(views, state.answers, strict=True):
                await view.show(answer)
        self.state = state
        self._draw()

    async def append(self, side: str, text: str) -> None:
        """Add text that arrived to the answer of a side."""
        for view in self._answers.query(AnswerView):
            if view.state.key.side == side:
                await view.append(text)

    async def set_markdown(self, is_markdown: bool) -> None:
        """Show answers as Markdown, or every character as it is."""
        self._is_markdown = is_markdown
        for view in self._answers.query(AnswerView):
            await view.set_markdown(is_markdown)

    def set_wide(self, side: str | None) -> None:
        """Give all the room to one side, and one line to the other. None: equal room."""
        for view in self._answers.query(AnswerView):
            view.set_class(side is not None and view.state.key.side != side, "-folded")

    def _draw(self) -> None:
        self.set_class(len(self.state.answers) > 1, "-beside")
        self._question.update(question_content(self.state))
        foot = foot_content(self.state)
        self._foot.update(foot)
        self._foot.display = bool(foot.plain)

    def on_click(self) -> None:
        """Select the turn."""
        self.post_message(TurnClicked(self.state.number))


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
        return Content(displayable(state.note))
    mark, style = (MATCH, "$text-success") if state.is_match else (NO_MATCH, "$text-error")
    words = " = reference · " if state.is_match else " "
    return Content.assemble((mark, style), words, displayable(state.note))


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
