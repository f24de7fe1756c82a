"""Lets a judge choose between two runs, row by row and in both orders. Disagreement is a tie.

    pairwise.jsonl    in the second run's folder: every attempt, in the form of the ledger; records are only added

Rows with equal responses are ties, and rows that are settled in both runs have their result, without asking. Of several
responses to a row, only the first counts. Does not print.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assistant.jsonl import AppendOnly
from assistant.settings import Frozen
from evaluation.answers.folder import AnswersFolder, ResponseRecord, read_answers
from evaluation.judging.event_loop import run_until_stopped
from evaluation.judging.hosts import Host
from evaluation.judging.judgement import JudgeIdentity, JudgeSettings
from evaluation.judging.ledger import JudgeLine, Judgement, read_ledger
from evaluation.judging.pair_judge import PairJudge, choices, make_pair_tasks, pairing_of
from evaluation.judging.pairwise import (
    Pairing,
    PairOutcome,
    PositionFlips,
    Result,
    WinRate,
    combine,
    position_flips,
    win_rate,
)
from evaluation.judging.settled import settle
from evaluation.judging.verdict_cache import Verdicts
from evaluation.judging.work import JudgeStep, JudgeWork, connected, judge_line, take_over

PAIRWISE_FILE = "pairwise.jsonl"
MANY_FLIPS = 25.0
"""Percent of position flips above which the judge's choices say little."""


class PairwiseComparison(Frozen):
    """A judge's choices between one run and the baseline. A win is one of the second run."""

    first: str
    """The baseline."""
    second: str
    judge: JudgeIdentity
    judge_fingerprint: str
    settled: int
    """Pairs with a result without asking."""
    unscored: int
    """Pairs without a valid answer in at least one order. They are left out."""
    left_out: int
    """Shared rows without a response in at least one run."""
    wins: WinRate
    """Of the second run."""
    flips: PositionFlips
    """Of the pairs that the judge was asked about."""
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PairPlan:
    """The questions about one run and the baseline."""

    total: int
    """Questions that no run has asked before."""
    reused: int
    urls: tuple[str, ...]
    notes: tuple[str, ...]
    """A sentence about each server that is left out."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    settled: list[Result]
    open: list[tuple[ResponseRecord, Pairing]]
    left_out: int


def compare_pairwise(
    folders: Sequence[Path],
    settings: JudgeSettings,
    *,
    verdicts: Verdicts | None = None,
    on_start: Callable[[PairPlan], None] = lambda _plan: None,
    on_step: Callable[[], None] = lambda: None,
) -> list[PairwiseComparison]:
    """Let a judge choose between every run and the first one. No question is asked twice.

    Args:
        folders: Answers folders; the first is the baseline.
        settings: The judge.
        verdicts: The shared verdicts; by default those of this user.
        on_start: Called before the questions about each run.
        on_step: Called after each question.

    Raises:
        DataError: a folder has no answers.
        PrerequisiteError, JudgeError: a failure that concerns every pair; the next run asks about the others.
    """
    baseline, *others = [read_answers(folder) for folder in folders]
    judge, shared = PairJudge(settings), verdicts or Verdicts()

    async def work() -> list[PairwiseComparison]:
        async with connected(judge) as (hosts, notes):
            return [
                await _compare(baseline, other, judge, hosts, shared, tuple(notes), on_start, on_step)
                for other in others
            ]

    return run_until_stopped(work())


async def _compare(
    baseline: AnswersFolder,
    other: AnswersFolder,
    judge: PairJudge,
    hosts: Sequence[Host],
    shared: Verdicts,
    notes: tuple[str, ...],
    on_start: Callable[[PairPlan], None],
    on_step: Callable[[], None],
) -> PairwiseComparison:
    pairs = _pairs(baseline, other)
    asked = make_pair_tasks(judge, pairs.open)
    identity = judge.identity(hosts[0].facts)
    points = _stored_points(other.folder / PAIRWISE_FILE, identity)

    def step(step: JudgeStep) -> None:
        if step.outcome is not None and step.outcome.question is not None:
            if step.outcome.question not in points:  # equal questions about several rows are one
                on_step()
            points[step.outcome.question] = step.outcome.points

    with AppendOnly[JudgeLine | Judgement](other.folder / PAIRWISE_FILE) as ledger:
        tasks = [task for task in asked.tasks if task.hash not in points]
        known = shared.find(identity.fingerprint, {task.hash for task in tasks})
        if tasks:
            ledger.append([judge_line(identity, hosts)])
        tasks = take_over(tasks, known, identity, ledger)
        points |= {question: attempt.points for question, attempt in known.items()}
        urls = tuple(host.client.url for host in hosts)
        on_start(PairPlan(total=len(tasks), reused=len(known), urls=urls, notes=notes))
        alive = [host for host in hosts if host.fault is None]
        n_scored = sum(value is not None for value in points.values())
        await JudgeWork(judge, alive, ledger, shared, n_scored=n_scored, on_step=step).ask_all(tasks)
    answers = [answer for answer in choices(asked.questions, points) if answer is not None]
    outcomes = [PairOutcome(result=result, agreed=True, flipped=False) for result in pairs.settled]
    rate = win_rate([*outcomes, *(combine(*answer) for answer in answers)])
    flips = position_flips(answers)
    first, second = str(baseline.folder), str(other.folder)
    return PairwiseComparison(
        first=first,
        second=second,
        judge=identity,
        judge_fingerprint=identity.fingerprint,
        settled=len(pairs.settled),
        unscored=len(asked.questions) - len(answers),
        left_out=pairs.left_out,
        wins=rate,
        flips=flips,
        sentence=_sentence(first, second, identity.model, rate, flips),
    )


def _stored_points(path: Path, identity: JudgeIdentity) -> dict[str, float | None]:
    """Return the points of all questions with a score or a lasting failure, by hash. They need no asking."""
    return {
        line.question: line.points
        for line in read_ledger(path).judgements
        if line.fingerprint == identity.fingerprint and line.question and (line.score is not None or line.final)
    }


def _pairs(baseline: AnswersFolder, other: AnswersFolder) -> _Pairs:
    """Return the rows in both runs: with a result, and to be asked about. The other run's response is the first."""
    theirs = {record.id: record for record in baseline.responses if not record.sample}
    settled: list[Result] = []
    to_ask, left_out = [], 0
    for record in other.responses:
        before = theirs.get(record.id)
        if before is None or record.sample:
            continue
        if record.response is None or before.response is None:
            left_out += 1
        elif (result := _result_without_judge(record, before)) is not None:
            settled.append(result)
        else:
            to_ask.append((record, pairing_of(record, record.response, before.response)))
    return _Pairs(settled, to_ask, left_out)


def _result_without_judge(first: ResponseRecord, second: ResponseRecord) -> Result | None:
    """Return which response is better if no judge is needed to see it, else None."""
    if (first.response or "").strip() == (second.response or "").strip():
        return "tie"
    one, two = settle(first), settle(second)
    if one is None or two is None or one.points is None or two.points is None:
        return None
    if one.points == two.points:
        return "tie"
    return "first" if one.points > two.points else "second"


def _sentence(first: str, second: str, model: str, wins: WinRate, flips: PositionFlips) -> str:
    """Return the judge's answer to "is the second run better?"."""
    if wins.rate is None or wins.interval is None:
        return f"Judge {model} has compared no row of {second} and {first}."
    figures = f"win rate {wins.rate:.0f} %, 95 % interval {wins.interval.low:.0f} to {wins.interval.high:.0f}"
    answer = f"In pairs, judge {model} sees no more than noise between {second} and {first} ({figures})."
    if wins.interval.low > 50:
        answer = f"In pairs, judge {model} prefers {second} to {first} ({figures})."
    elif wins.interval.high < 50:
        answer = f"In pairs, judge {model} prefers {first} to {second} ({figures} for {second})."
    if flips.rate is not None and flips.rate > MANY_FLIPS:
        answer += f" But in {flips.flips} of {flips.n} pairs the place of a response decided: try another judge."
    return answer
