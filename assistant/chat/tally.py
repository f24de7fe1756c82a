"""The tally: how many held-out rows each model answered right, and whether the difference is more than chance.

A row counts once, with the first answers that both models ended. `assistant.sequential_statistics` decides, at 20, 50,
100, 200 and so on rows; between them, the verdict of the last look stands. A verdict is a matter of these rows only: a
person's choices are counted apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from assistant.chat.conversation import Conversation, Turn
from assistant.chat.heldout import is_match
from assistant.chat.records import SIDES, Answered, Side
from assistant.sequential_statistics import Count, look_sizes, sequential_p_value

ALPHA = 0.05
"""False alarms over all looks together are at most this share, if neither model is better."""
SAME_ANSWERS = 5
"""Identical answers in a row after which the chat says so."""

Finding = Literal["better", "worse", "unclear", "early"]


class PairedRow(NamedTuple):
    """Whether the answers of both models to one row match its reference."""

    tuned: bool
    base: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the last look found."""

    finding: Finding
    """Of the tuned model against its base. `early` before the first look."""
    p_value: float | None
    """Adjusted for all looks. None before the first one."""
    n: int
    """Rows at the last look, 0 before the first one."""
    next_look: int
    """Rows at the next look."""

    @property
    def words(self) -> str:
        """The verdict as words for the tally."""
        if self.finding == "early":
            return f"verdict after {self.next_look} rows"
        if self.finding == "unclear" or self.p_value is None:
            return "cannot be told apart yet"
        return f"{self.finding}, {p_in_words(self.p_value)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What the person preferred of a tuned and a base answer."""

    tuned: int = 0
    base: int = 0
    ties: int = 0

    @property
    def n(self) -> int:
        """All choices, ties too."""
        return self.tuned + self.base + self.ties

    @property
    def words(self) -> str:
        """The choices as words for the tally, or an empty text if there are none."""
        if not self.n:
            return ""
        ties = f", {_count(self.ties, 'tie')}" if self.ties else ""
        return f"you preferred tuned {self.tuned}, base {self.base}{ties}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Held-out rows by the models that answered them right, the verdict, and the person's choices."""

    both: int
    neither: int
    only_tuned: int
    only_base: int
    alone: int
    """Rows that only the tuned model answered."""
    alone_right: int
    verdict: Verdict
    choices: Choices
    """All choices between both models, also on the person's own questions."""

    @property
    def n(self) -> int:
        """Rows that both models answered."""
        return self.both + self.neither + self.only_tuned + self.only_base

    @property
    def tuned_right(self) -> int:
        """Rows of `n` that the tuned model answered right."""
        return self.both + self.only_tuned

    @property
    def base_right(self) -> int:
        """Rows of `n` that the base answered right."""
        return self.both + self.only_base

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the sentence. The last one is the verdict, if both models answered rows."""
        if not self.n:
            return (_count(self.alone, "held-out row"), f"{self.alone_right} ✓") if self.alone else ()
        verdict = self.verdict
        at = f" (first {verdict.n} rows)" if verdict.n not in (0, self.n) else ""
        return (
            _count(self.n, "held-out row"),
            f"tuned {self.tuned_right} ✓",
            f"base {self.base_right} ✓",
            f"{verdict.words}{at}",
        )

    @property
    def sentence(self) -> str:
        """The tally in one line, or an empty text if there are no rows."""
        *counts, last = self.parts or ("",)
        return f"{' · '.join(counts)} {'→' if self.n else '·'} {last}" if counts else last


def tally(conversation: Conversation) -> Tally:
    """Count the held-out rows and the choices of a conversation.

    A turn counts if the first answers of both models ended by themselves: not stopped, and not begun by the person.
    While a blind choice is open, its turn does not count, because the tally would give the names away.
    """
    pairs = _rows_by_id(conversation)
    rows = [pair for _, pair in sorted(pairs.values(), key=lambda timed: timed[0])]
    alone = _rows_of_one(conversation, pairs.keys())
    return Tally(
        both=rows.count(PairedRow(tuned=True, base=True)),
        neither=rows.count(PairedRow(tuned=False, base=False)),
        only_tuned=rows.count(PairedRow(tuned=True, base=False)),
        only_base=rows.count(PairedRow(tuned=False, base=True)),
        alone=len(alone),
        alone_right=sum(alone.values()),
        verdict=judge(rows),
        choices=_count_choices(conversation.turns),
    )


def judge(rows: Sequence[PairedRow]) -> Verdict:
    """Return the verdict on rows in the order in which they were answered."""
    counts: dict[int, Count] = {}
    for next_look in look_sizes():
        if next_look > len(rows):
            break
        seen = rows[:next_look]
        wins, losses = (seen.count(PairedRow(tuned=better, base=not better)) for better in (True, False))
        counts[next_look] = Count(wins, losses)
    if not counts:
        return Verdict(finding="early", p_value=None, n=0, next_look=next_look)
    p_value = sequential_p_value(tuple(counts.values()))
    n, (wins, losses) = list(counts.items())[-1]
    finding: Finding = "unclear"
    if p_value <= ALPHA:
        finding = "better" if wins > losses else "worse"
    return Verdict(finding=finding, p_value=p_value, n=n, next_look=next_look)


def same_answers_in_a_row(conversation: Conversation) -> str | None:
    """Return a sentence if the last five questions that both models answered got identical answers, else None."""
    pairs = sorted(_answer_pairs(conversation), key=lambda pair: pair.at)[-SAME_ANSWERS:]
    if len(pairs) < SAME_ANSWERS or any(pair.tuned != pair.base for pair in pairs):
        return None
    return f"{SAME_ANSWERS} identical answers in a row: training changed nothing here"


def p_in_words(p_value: float) -> str:
    """Return a p-value as `p = 0.02`, or `p < 0.001`."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.2f}" if p_value >= 0.01 else f"p = {p_value:.3f}"


# --- reading a conversation ---------------------------------------------------------------------------------------


class _AnswerPair(NamedTuple):
    """The first answers of both models to one question, and when both were there."""

    at: datetime
    row: str | None
    reference: str
    tuned: str
    base: str


def _answer_pairs(conversation: Conversation) -> Iterator[_AnswerPair]:
    for turn in conversation.turns:
        tuned, base = (_first_answer(turn, side) for side in SIDES)
        if tuned is None or base is None or turn.is_blind:
            continue
        question = turn.question
        times = [tuned.at, base.at, *([turn.choice.at] if question.left and turn.choice else [])]
        at = max(map(_with_zone, times))
        yield _AnswerPair(at, question.row, question.reference or "", tuned.response, base.response)
    for run in conversation.rows:
        if run.base is not None:
            yield _AnswerPair(_with_zone(run.at), run.row, run.reference, run.tuned, run.base)


def _with_zone(at: datetime) -> datetime:
    """Return a time that can be compared with every other. One without a zone, of another program, is taken as UTC."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _first_answer(turn: Turn, side: Side) -> Answered | None:
    """Return the first answer of a side, if it ended by itself and the person did not write its beginning."""
    answer = turn.answer(side, 0)
    return None if answer is None or answer.stop_reason == "cancelled" or answer.n_forced else answer


def _rows_by_id(conversation: Conversation) -> dict[str, tuple[datetime, PairedRow]]:
    """Return the first pair of answers to every held-out row, with its time."""
    rows: dict[str, tuple[datetime, PairedRow]] = {}
    for pair in sorted(_answer_pairs(conversation), key=lambda pair: pair.at):
        if pair.row is not None and pair.row not in rows:
            right = PairedRow(is_match(pair.tuned, pair.reference), is_match(pair.base, pair.reference))
            rows[pair.row] = pair.at, right
    return rows


def _rows_of_one(conversation: Conversation, paired: Collection[str]) -> dict[str, bool]:
    """Return whether the tuned model answered right, for the other rows that it answered."""
    rows: dict[str, bool] = {}
    for turn in conversation.turns:
        question, answer = turn.question, _first_answer(turn, "tuned")
        if question.row is not None and answer is not None and not turn.is_blind:
            rows.setdefault(question.row, is_match(answer.response, question.reference or ""))
    for run in conversation.rows:
        rows.setdefault(run.row, is_match(run.tuned, run.reference))
    return {row: right for row, right in rows.items() if row not in paired}


def _count_choices(turns: Sequence[Turn]) -> Choices:
    """Count the preferred sides. A choice between two answers of one model is none."""
    preferred: list[Side | None] = []
    for choice in [turn.choice for turn in turns if turn.choice is not None]:
        if choice.chosen is None or choice.rejected is None:
            preferred.append(None)
        elif choice.chosen.side != choice.rejected.side:
            preferred.append(choice.chosen.side)
    return Choices(tuned=preferred.count("tuned"), base=preferred.count("base"), ties=preferred.count(None))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
