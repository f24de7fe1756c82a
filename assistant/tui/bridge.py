"""The one module that knows both worlds: what `Chat` reports becomes calls of the screen, events become messages.

`Chat` calls its front in the screen's own queue. Drawing is asynchronous, so the bridge only notes what has to be drawn
again; the screen draws it after the event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from textual.message import Message

from assistant.chat.conversation import Turn
from assistant.chat.events import Event, TokenDetail
from assistant.chat.records import AnswerKey, RowRun

if TYPE_CHECKING:
    from assistant.tui.conversation_screen import ConversationScreen


@dataclass
class FromWorker(Message):
    """An event of the worker, on its way to the screen's queue."""

    event: Event


@dataclass
class News:
    """What the screen has to draw."""

    added: list[int] = field(default_factory=list)
    """Turns that are new."""
    changed: set[int] = field(default_factory=set)
    """Turns that look different."""
    texts: list[tuple[AnswerKey, str]] = field(default_factory=list)
    """Text that arrived."""
    rows: list[RowRun] = field(default_factory=list)
    """Rows that were answered."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Problems and advice."""
    has_state: bool = False
    """Whether title, foot or tally may be different."""


class Bridge:
    """The chat's front. What the screen has to draw collects until the screen takes it."""

    def __init__(self, screen: ConversationScreen) -> None:
        self._screen = screen
        self._news = News()

    def take(self) -> News:
        """Return what has to be drawn since the last time."""
        news, self._news = self._news, News()
        return news

    def turn_added(self, turn: Turn) -> None:
        """Note a new turn."""
        self._news.added.append(turn.number)

    def turn_changed(self, number: int) -> None:
        """Note that a turn looks different."""
        self._news.changed.add(number)

    def text_arrived(self, key: AnswerKey, text: str) -> None:
        """Note text that arrived."""
        self._news.texts.append((key, text))

    def row_answered(self, row: RowRun) -> None:
        """Note a row of a run."""
        self._news.rows.append(row)

    def tokens_ready(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:
        """Open the token view."""
        self._screen.show_tokens(key, tokens)

    def state_changed(self) -> None:
        """Note that title, foot or tally may be different."""
        self._news.has_state = True

    def notice(self, text: str) -> None:
        """Show a notice."""
        self._screen.show_notice(text)

    def problem(self, text: str, advice: str) -> None:
        """Note a problem."""
        self._news.problems.append((text, advice))

    def give_back(self, instruction: str, input: str) -> bool:
        """Put a question back into the prompt."""
        return self._screen.give_back(instruction, input)
