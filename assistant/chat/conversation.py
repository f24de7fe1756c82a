"""`Conversation`: the turns, made from records. Knows no files, no threads and no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from assistant.chat.records import (
    Answered,
    AnswerKey,
    Asked,
    Chosen,
    Corrected,
    Kept,
    Opened,
    Record,
    RowRun,
    Side,
    Titled,
)
from assistant.dataset.examples import Exchange


@dataclass(kw_only=True)
class Turn:
    """A question and what became of it."""

    question: Asked
    answers: dict[Side, list[Answered]] = field(default_factory=lambda: {"tuned": [], "base": []})
    """The ended answers of each side, in the order in which they ended."""
    kept_variant: int | None = None
    """The variant that counts. None: the newest one."""
    choice: Chosen | None = None
    correction: str | None = None

    @property
    def number(self) -> int:
        """Place of the turn in its conversation, from 0."""
        return self.question.turn

    @property
    def is_held_out(self) -> bool:
        """Whether the question is a test row. What is chosen or written here must never train a model."""
        return self.question.row is not None

    @property
    def is_blind(self) -> bool:
        """Whether the names of the models are hidden, because a blind choice is still open."""
        return self.question.left is not None and self.choice is None

    def answer(self, side: Side, variant: int | None = None) -> Answered | None:
        """Return an answer of a side: that variant, or the one that counts. None if it has not ended.

        The kept variant counts. A side that has no answer of that number counts with its newest one.
        """
        answers = self.answers[side]
        wanted = self.kept_variant if variant is None else variant
        newest = answers[-1] if answers and variant is None else None
        return next((answer for answer in answers if answer.variant == wanted), newest)

    @property
    def variants(self) -> list[int]:
        """The numbers of all variants that have ended, in order."""
        return sorted({answer.variant for answers in self.answers.values() for answer in answers})

    @property
    def next_variant(self) -> int:
        """The number of the next variant."""
        return 1 + max(self.variants, default=-1)

    @property
    def final_text(self) -> str | None:
        """The text that counts as the answer: the correction, or else the answer of the tuned model."""
        if self.correction is not None:
            return self.correction
        answer = self.answer("tuned")
        return None if answer is None else answer.response


@dataclass(kw_only=True)
class Conversation:
    """All turns of one conversation, oldest first."""

    opened: Opened | None = None
    title: str = ""
    """The name that the person gave, or an empty text."""
    turns: list[Turn] = field(default_factory=list)
    rows: list[RowRun] = field(default_factory=list)
    """Held-out rows that were answered in the background, in the order of their answers."""
    n_comparisons: int = field(default=0, compare=False)
    """Counts records that may change the tally: answers to held-out rows and of two models, and choices."""

    def apply(self, record: Record) -> None:
        """Change the conversation by one record. A record of a turn that does not exist is ignored."""
        match record:
            case Opened():
                self.opened = self.opened or record
            case Asked():
                if record.turn == len(self.turns):
                    self.turns.append(Turn(question=record))
            case RowRun():
                self.rows.append(record)
                self.n_comparisons += 1
            case Titled():
                self.title = record.title
            case _ if 0 <= record.turn < len(self.turns):
                turn = self.turns[record.turn]
                self._apply_to_turn(turn, record)
                self.n_comparisons += turn.is_held_out or bool(turn.answers["base"])

    @staticmethod
    def _apply_to_turn(turn: Turn, record: Answered | Kept | Chosen | Corrected) -> None:
        match record:
            case Answered():
                if turn.answer(record.side, record.variant) is None:
                    turn.answers[record.side].append(record)
            case Kept():
                turn.kept_variant = record.variant
            case Chosen():
                turn.choice = record
                if record.chosen is not None and record.chosen.side == "tuned":
                    turn.kept_variant = record.chosen.variant
            case Corrected():
                turn.correction = record.text

    def find(self, key: AnswerKey) -> Answered | None:
        """Return an answer by its name. None if it has not ended."""
        return self.turns[key.turn].answer(key.side, key.variant) if 0 <= key.turn < len(self.turns) else None

    def history(self, before: int) -> tuple[Exchange, ...]:
        """Return the exchanges before turn `before`, as a model that learnt conversations reads them.

        Turns without an answer are left out, and so are held-out rows. An input follows its instruction after a blank
        line, because an exchange has no field for it.
        """
        turns = [turn for turn in self.turns[:before] if turn.final_text is not None]
        return tuple(_exchange(turn) for turn in turns if not turn.is_held_out)


def from_records(records: Sequence[Record]) -> Conversation:
    """Return the conversation that the records tell."""
    conversation = Conversation()
    for record in records:
        conversation.apply(record)
    return conversation


def _exchange(turn: Turn) -> Exchange:
    question = turn.question
    user = f"{question.instruction}\n\n{question.input}" if question.input else question.instruction
    return Exchange(user, turn.final_text or "")
