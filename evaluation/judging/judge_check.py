"""Checks a judge on this machine before anyone trusts it: control items, repeated questions, and pairs in both orders.

- Control items have a known right score (`evaluation.judging.controls`).
- Some of them are asked again, past every cache, after a warm-up and in another order: does the judge repeat itself?
- A row's reference and another row's reference are compared in both orders: does the place of a response decide?

Verdicts on control items and pairs are shared with all runs, so `score` does not ask about them again. Does not print.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from assistant.dataset.examples import Example, row_ids
from assistant.errors import DataError
from evaluation.answers.folder import ResponseRecord
from evaluation.answers.records import make_record
from evaluation.judging.check_findings import JudgeCheck, PairFindings, conclude
from evaluation.judging.controls import KIND_OF, ControlItem, control_items
from evaluation.judging.event_loop import run_until_stopped
from evaluation.judging.hosts import Host
from evaluation.judging.judge import Asked, BaseJudge, Judge
from evaluation.judging.judgement import JudgeSettings
from evaluation.judging.ledger import Purpose
from evaluation.judging.pair_judge import PairJudge, PairTasks, choices, make_pair_tasks, pairing_of
from evaluation.judging.pairwise import Pairing, combine, position_flips
from evaluation.judging.repeatability import repeatability
from evaluation.judging.rubric import Material, Method
from evaluation.judging.trust import ControlScore, judge_trust
from evaluation.judging.verdict_cache import Verdicts
from evaluation.judging.work import JudgeStep, JudgeWork, NoLedger, Row, Task, connected, make_tasks

DEFAULT_REPEATS = 2
REPEATED_PER_KIND = 2
"""Control items of each kind that are asked again."""
CHECK_SEED = 123
MAX_ROWS = 240
"""Rows that the control items are drawn from."""
Points = dict[str, float | None]
"""Points from 0 to 100 by the hash of the question. None if the judge gave no valid verdict."""
NOTHING: Mapping[str, float | None] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckPlan:
    """What a check is about to do."""

    total: int
    """Questions to ask."""
    reused: int
    urls: tuple[str, ...]
    notes: tuple[str, ...]
    """A sentence about each server that is left out."""


def check(
    examples: Sequence[Example],
    settings: JudgeSettings,
    method: Method,
    *,
    per_kind: int,
    repeats: int = DEFAULT_REPEATS,
    verdicts: Verdicts | None = None,
    on_start: Callable[[CheckPlan], None] = lambda _plan: None,
    on_step: Callable[[], None] = lambda: None,
) -> JudgeCheck:
    """Ask a judge everything that shows whether it can be trusted.

    Args:
        examples: Rows to draw the items from. The same rows give the same items.
        settings: The judge.
        method: How it is asked about a response.
        per_kind: Control items of each kind, and pairs.
        repeats: How often some of the items are asked again.
        verdicts: The shared verdicts; by default those of this user.
        on_start: Called before the first question.
        on_step: Called after each question, `CheckPlan.total` times.

    Raises:
        DataError: no row can be made into a control item.
        PrerequisiteError, JudgeError: the judge cannot be asked, or gives nothing usable for its first items.
    """
    records = {record.id: record for record in _records(examples)}
    items = control_items(list(records.values()), per_kind=per_kind, method=method.name)
    if not items:
        raise DataError(
            f"judge check: expected rows with an instruction and a reference, got none in {len(examples)} rows. "
            f"Name other files with --data."
        )
    work = _Check(records, items, settings, method, repeats, verdicts or Verdicts(), on_step)
    return run_until_stopped(work.run(on_start))


def _records(examples: Sequence[Example]) -> list[ResponseRecord]:
    """Return up to `MAX_ROWS` rows with a reference, seeded, from all categories in turn.

    The shipped instructions have hundreds of rows of some categories and few of others.
    """
    records = [make_record(row_id, row) for row_id, row in zip(row_ids(examples), examples, strict=True)]
    n_before: Counter[str | None] = Counter()
    turns = {}
    for record in sorted(records, key=lambda record: _order(record.id)):
        turns[record.id] = n_before[record.category]
        n_before[record.category] += 1
    usable = [record for record in records if record.reference]
    return sorted(usable, key=lambda record: (turns[record.id], _order(record.id)))[:MAX_ROWS]


def _order(row_id: str) -> str:
    return hashlib.sha256(f"{CHECK_SEED} {row_id}".encode()).hexdigest()


class _Check:
    """One check at work."""

    def __init__(
        self,
        records: dict[str, ResponseRecord],
        items: Sequence[ControlItem],
        settings: JudgeSettings,
        method: Method,
        repeats: int,
        verdicts: Verdicts,
        on_step: Callable[[], None],
    ) -> None:
        self.records = records
        self.items = items
        self.judge = Judge(settings, method)
        self.pair_judge = PairJudge(settings)
        self.repeats = repeats
        self.verdicts = verdicts
        self.on_step = on_step
        self.seconds: list[float] = []

    async def run(self, on_start: Callable[[CheckPlan], None]) -> JudgeCheck:
        """Ask everything, and return what it shows."""
        async with connected(self.judge) as (hosts, notes):
            rows = [Row(item.purpose, self._record(item)) for item in self.items]
            tasks = make_tasks(self.judge, rows)
            pairs = make_pair_tasks(self.pair_judge, self._pairs())
            warm_up, again = self._repeated(tasks)
            points = self._known(self.judge, hosts, tasks)
            choice_points = self._known(self.pair_judge, hosts, pairs.tasks)
            reused = len(points) + len(choice_points)
            total = len(tasks) + len(pairs.tasks) - reused + len(warm_up) + len(again)
            urls = tuple(host.client.url for host in hosts)
            on_start(CheckPlan(total=total, reused=reused, urls=urls, notes=tuple(notes)))

            points |= await self._ask(self.judge, hosts, tasks, known=points)
            repeated = {task.hash: [points[task.hash]] for task in again}
            for questions in (warm_up, *_passes(again, self.repeats)):
                found = await self._ask(self.judge, hosts, questions, n_scored=_count(points), is_repeated=True)
                if questions is not warm_up:
                    for question, value in found.items():
                        repeated[question].append(value)
            # A judge that scores rows but gives nothing usable on pairs must not end the check here.
            choice_points |= await self._ask(
                self.pair_judge, hosts, pairs.tasks, known=choice_points, n_scored=_count(points)
            )
        later = [value for values in repeated.values() for value in values[1:]]
        outcomes = [*points.values(), *choice_points.values(), *later]
        return conclude(
            judge=self.judge.identity(hosts[0].facts),
            urls=urls,
            method=self.judge.method.name,
            rows=len(self.records),
            trust=judge_trust(_control_scores(tasks, points)),
            repeated=repeatability(list(repeated.values())),
            pairs=_pair_findings(pairs, choice_points),
            questions=total,
            reused=reused,
            unscored=sum(value is None for value in outcomes),
            seconds_each=round(sum(self.seconds) / len(self.seconds), 3) if self.seconds else None,
        )

    def _record(self, item: ControlItem) -> ResponseRecord:
        return self.records[item.row_id].model_copy(update={"response": item.response})

    def _pairs(self) -> Iterable[tuple[ResponseRecord, Pairing]]:
        """Yield a row with its own reference as the first response, and another row's as the second."""
        for item in self.items:
            if item.kind == "other_reference":
                record = self.records[item.row_id]
                yield record, pairing_of(record, record.reference, item.response)

    def _repeated(self, tasks: Sequence[Task[Material]]) -> tuple[list[Task[Material]], list[Task[Material]]]:
        """Return the question that warms the server up, and all repeated questions, pass after pass.

        The first question after a load or after other questions can be answered otherwise, so it does not count.
        """
        taken: Counter[Purpose] = Counter()
        chosen = []
        for task in tasks:
            purpose = task.rows[0].purpose
            if taken[purpose] < REPEATED_PER_KIND:
                taken[purpose] += 1
                chosen.append(task)
        again: list[Task[Material]] = []
        for number in range(self.repeats):
            again += random.Random(f"{CHECK_SEED} {number}").sample(chosen, len(chosen))
        return chosen[:1], again

    def _known(self, judge: BaseJudge[Any], hosts: Sequence[Host], tasks: Sequence[Task[Any]]) -> Points:
        """Return what was answered before, by the versions of the servers that are asked now."""
        versions = {host.facts.version for host in hosts}
        fingerprint = judge.identity(hosts[0].facts).fingerprint
        found = self.verdicts.find(fingerprint, {task.hash for task in tasks})
        return {question: one.points for question, one in found.items() if one.server_version in versions}

    async def _ask(
        self,
        judge: BaseJudge[Asked],
        hosts: Sequence[Host],
        tasks: Sequence[Task[Asked]],
        *,
        known: Mapping[str, float | None] = NOTHING,
        n_scored: int = 0,
        is_repeated: bool = False,
    ) -> Points:
        """Ask the questions that are not `known`. Returns the points by the question's hash.

        The verdict on a repeated question is not shared: it would replace the first one in the runs that have it.
        """
        points: Points = {}

        def step(step: JudgeStep) -> None:
            if step.outcome is not None and step.outcome.question is not None:
                points[step.outcome.question] = step.outcome.points
                self.on_step()

        work = JudgeWork(
            judge,
            [host for host in hosts if host.fault is None],
            NoLedger(),  # a check has no answers folder
            None if is_repeated else self.verdicts,
            n_scored=n_scored + _count(known),
            on_step=step,
        )
        # One row for each question, so that each question is one step.
        await work.ask_all([Task(task.hash, task.asked, task.rows[:1]) for task in tasks if task.hash not in known])
        if isinstance(judge, Judge):
            self.seconds += work.seconds
        return points


def _passes(again: Sequence[Task[Material]], repeats: int) -> list[Sequence[Task[Material]]]:
    length = len(again) // max(repeats, 1)
    return [again[start : start + length] for start in range(0, len(again), length)] if length else []


def _count(points: Mapping[str, float | None]) -> int:
    return sum(value is not None for value in points.values())


def _control_scores(tasks: Iterable[Task[Material]], points: Points) -> list[ControlScore]:
    return [ControlScore(kind=KIND_OF[row.purpose], points=points[task.hash]) for task in tasks for row in task.rows]


def _pair_findings(pairs: PairTasks, points: Points) -> PairFindings:
    answers = [answer for answer in choices(pairs.questions, points) if answer is not None]
    return PairFindings(
        flips=position_flips(answers),
        reference_won=sum(combine(*answer).result == "first" for answer in answers),
        unscored=len(pairs.questions) - len(answers),
    )
