"""What shows the chat: the protocol that `Chat` calls."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from assistant.chat.conversation import Turn
from assistant.chat.events import TokenDetail
from assistant.chat.records import AnswerKey, RowRun


class Advice(NamedTuple):
    """What a person can do about a problem, in the words of a front. By default, with the keys of the full screen."""

    set_temperature: str = "f2 sets a temperature."
    load_again: str = "Press ctrl+l to load the model again."
    run_others: str = "Press f5 to go on with other rows."
    find_message: str = "Press up in the prompt to get your message back."
    answer_again: str = "Press ctrl+r to answer again."


class Front(Protocol):
    """What shows the chat. Every method is called in the front's own thread."""

    def turn_added(self, turn: Turn) -> None:
        """A question was asked."""

    def turn_changed(self, number: int) -> None:
        """Something of a turn is different: an answer began or ended, a choice, a correction."""

    def text_arrived(self, key: AnswerKey, text: str) -> None:
        """An answer goes on with this text."""

    def row_answered(self, row: RowRun) -> None:
        """A row of a background run was answered."""

    def tokens_ready(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:
        """The tokens of an answer were looked at."""

    def state_changed(self) -> None:
        """Models, queue, runs, settings or the tally are different."""

    def notice(self, text: str) -> None:
        """Tell the person something that needs no answer."""

    def problem(self, text: str, advice: str) -> None:
        """Tell the person what went wrong, and what to do next."""

    def give_back(self, instruction: str, input: str) -> bool:
        """Put a question that was not answered back where the person types. Return whether there was room."""
