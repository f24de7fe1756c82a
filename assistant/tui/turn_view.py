"""A turn on the screen: the question, one or two answers, and a line about each. Draws `TurnState` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from assistant.chat.records import AnswerKey
from assistant.escape import displayable
from assistant.tui.answer_view import RawAnswer
from assistant.tui.turn_state import TurnState

if TYPE_CHECKING:
    from assistant.tui.markdown_answer import MarkdownAnswer

INLINE_INPUT = 40
"""A longer input, or one with a line end, stands on lines of its own."""
MARK = "❯ "


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
            # The style of the text, because colours are left out of strips already where the person wants none.
            style = next((segment.style for segment in strips[0] if segment.text.strip()), None)
            mark = Strip([Segment(MARK, style)])
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
            self._fold()
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
            is_other = self._wide is not None and view.state.key.side != self._wide
            is_folded = is_other and len(self._answers) > 1 and not view.state.is_hidden
            view.set_class(is_folded, "-folded")
            view.fold(is_folded=is_folded)

    async def _make_again(self) -> None:
        """Replace the widgets of the answers."""
        await self.query(".answers, TurnView > .answer").remove()
        await self.mount(*self._make_answers(), after=self._question)

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


def foot_content(state: TurnState) -> Content:
    """Return what stands under both answers: reference, correction, nearest training row, and a hint."""
    parts: list[tuple[str, str]] = []
    if state.reference is not None and not all(answer.is_match for answer in state.answers):
        parts.append((f"reference  {displayable(state.reference)}", "$text-success"))
    if state.correction is not None:
        parts.append((f"corrected  {displayable(state.correction)}", "bold $text-success"))
    if state.nearest:
        parts.append((displayable(state.nearest), "$foreground-muted"))
    if state.hint:
        parts.append((state.hint, "bold"))
    return Content("\n").join(Content.assemble(part) for part in parts)
