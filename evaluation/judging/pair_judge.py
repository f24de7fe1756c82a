"""Asks a judge which of two responses is better, in both orders, with the means that ask it for a score.

The score of an answer is what response A gets: 100, 50 for a tie, or 0. So the verdicts of pairs are kept, retried and
shared like those of rows. Does not choose the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from assistant.escape import encodable
from evaluation.answers.folder import ResponseRecord
from evaluation.judging.calls import CompleteAnswer, Question
from evaluation.judging.judge import BaseJudge
from evaluation.judging.ledger import Purpose
from evaluation.judging.pairwise import SCHEMA, Pairing, Winner, build_pair_prompt, pairwise_hash, parse_choice
from evaluation.judging.work import Row, Task

POINTS: dict[Winner, int] = {"A": 100, "tie": 50, "B": 0}
"""What response A gets."""
_WINNERS: dict[float | None, Winner] = {float(points): winner for winner, points in POINTS.items()}
_ORDERS: tuple[tuple[Purpose, bool], ...] = (("pair:forward", False), ("pair:backward", True))


class PairQuestion(NamedTuple):
    """Two responses in one order."""

    pairing: Pairing
    swapped: bool


class PairJudge(BaseJudge[PairQuestion]):
    """A judge that compares two responses to a row."""

    @property
    def prompt_hash(self) -> str:
        """16 hex digits of the texts of the prompt."""
        return pairwise_hash()

    def question(self, asked: PairQuestion, *, repair: bool = False) -> Question:
        """Return the question about two responses in one order."""
        prompt = build_pair_prompt(asked.pairing, swapped=asked.swapped, repair=repair)
        return Question(
            messages=(("system", prompt.system), ("user", prompt.user)),
            schema=SCHEMA,
            seed=self.settings.seed + repair,
            num_predict=self.settings.num_predict,
        )

    def read(self, answer: CompleteAnswer, asked: PairQuestion) -> dict[str, object]:
        """Return the score of response A."""
        del asked  # the form of the answer is the same for all
        choice = parse_choice(answer.content)
        points = float(POINTS[choice.winner])
        return {"score": points, "points": points, "analysis": encodable(choice.analysis) or None}


@dataclass(frozen=True, slots=True)
class PairTasks:
    """The questions about some pairs. Equal questions are one."""

    tasks: list[Task[PairQuestion]] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)
    """The hashes of each pair's questions in both orders, in the order of the pairs."""


def pairing_of(record: ResponseRecord, first: str, second: str) -> Pairing:
    """Return two responses to a row, with what the judge sees of the row."""
    return Pairing(
        instruction=record.instruction,
        input=record.input,
        reference=record.reference,
        history=record.history,
        first=first,
        second=second,
    )


def make_pair_tasks(judge: PairJudge, pairs: Iterable[tuple[ResponseRecord, Pairing]]) -> PairTasks:
    """Return the questions about pairs. Each pair comes with the row that it answers."""
    tasks: dict[str, Task[PairQuestion]] = {}
    questions = []
    for record, pairing in pairs:
        hashes = []
        for purpose, swapped in _ORDERS:
            asked = PairQuestion(pairing, swapped)
            question = judge.question(asked).hash
            tasks.setdefault(question, Task(question, asked)).rows.append(Row(purpose, record))
            hashes.append(question)
        questions.append((hashes[0], hashes[1]))
    return PairTasks(list(tasks.values()), questions)


def choices(
    questions: Sequence[tuple[str, str]], points: Mapping[str, float | None]
) -> list[tuple[Winner, Winner] | None]:
    """Return each pair's answers in both orders, as for `evaluation.judging.pairwise.combine`. None if one is missing.

    `points` holds what response A got, by the question's hash.
    """
    found = []
    for forward, backward in questions:
        first, second = _WINNERS.get(points.get(forward)), _WINNERS.get(points.get(backward))
        found.append(None if first is None or second is None else (first, second))
    return found
