"""Scores the responses of an answers folder: metrics for all of them, and a judge where metrics are not enough.

    metrics.jsonl      one line per response; rewritten each time
    judgements.jsonl   the ledger: every attempt of every judge; records are only added

An exact match scores 100 and an empty response scores 0 without asking the judge. On data with GPT-4's scores, this
raises a local judge's rank correlation with them from .70 to .90 (tests/evaluation/answers/test_metrics.py).
A seeded tenth of the exact matches is put to the judge as well, to show how high its scores go. It does not count in
the mean.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from assistant.errors import DataError
from assistant.files import write_atomic
from assistant.jsonl import AppendOnly, read_lines
from evaluation.answers.folder import AnswersFolder, ResponseRecord
from evaluation.answers.metrics import Metrics, measure
from evaluation.judging.controls import ITEMS_PER_KIND, control_items
from evaluation.judging.event_loop import run_until_stopped
from evaluation.judging.hosts import Host
from evaluation.judging.judge import Judge
from evaluation.judging.judgement import Attempt, JudgeIdentity, JudgeSettings, Reason
from evaluation.judging.ledger import JudgeLine, Judgement, JudgementKey, Source, read_ledger
from evaluation.judging.rubric import Material, Method
from evaluation.judging.settled import judged_all_the_same, settle
from evaluation.judging.verdict import POINTS_PER_SCORE
from evaluation.judging.verdict_cache import Verdicts
from evaluation.judging.work import (
    JudgeStep,
    JudgeWork,
    Ledger,
    NoLedger,
    Row,
    Task,
    connected,
    judge_line,
    judgement_of,
    make_tasks,
    take_over,
)

METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "judgements.jsonl"
PLAN_QUESTIONS = 3
"""How many questions `--plan` times."""
PART_SEED = 123
"""Seed of the part that `--limit` scores."""


class MetricsRecord(Metrics):
    """A line of `metrics.jsonl`: the metrics of one response."""

    id: str
    response_hash: str


_METRICS = TypeAdapter(MetricsRecord)


def write_metrics(answers: AnswersFolder) -> None:
    """Measure every response and replace `metrics.jsonl`."""
    lines = []
    for record in answers.responses:
        if record.response is not None and record.reference:
            metrics = measure(record.response, record.reference).model_dump()
            lines.append(json.dumps({"id": record.id, "response_hash": record.response_hash, **metrics}) + "\n")
    write_atomic(answers.folder / METRICS_FILE, "".join(lines))


def read_metrics(answers: AnswersFolder) -> dict[str, Metrics]:
    """Read the metrics of every response to a row with a reference, by `ResponseRecord.key`.

    Raises:
        DataError: some responses were not measured yet.
    """
    lines = read_lines(answers.folder / METRICS_FILE, _METRICS)
    metrics = {(line.id, line.response_hash): line for line in lines}
    answered = [record for record in answers.responses if record.response is not None and record.reference]
    n_missing = sum((record.id, record.response_hash) not in metrics for record in answered)
    if n_missing:
        raise DataError(
            f"{answers.folder}: expected scores of all {len(answered)} responses, got none for {n_missing} of them. "
            f"Run: evaluation score {answers.folder}"
        )
    return {record.key: metrics[record.id, record.response_hash] for record in answered}


# --- the judge ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """Which rows to ask about.

    Args:
        retry_unscored: Ask again about every row without a score, also if the failure will not pass.
        rejudge: Ask again about rows whose verdict is of another version of the server.
        limit: Score only this many rows of the folder: a seeded part, stratified by category. None means all.
        n_questions: Ask only this many questions, whose verdicts are shared but not in the ledger. None means all.
        controls: How many control items of each kind the judge gets. 0 leaves the judge untested.
    """

    retry_unscored: bool = False
    rejudge: bool = False
    limit: int | None = None
    n_questions: int | None = None
    controls: int = ITEMS_PER_KIND


@dataclass(kw_only=True, slots=True)
class JudgeRun:
    """What a run of the judge found and did."""

    notes: list[str] = field(default_factory=list)
    """Sentences for the user: servers left out, verdicts of another version."""
    questions: int = 0
    """Questions that no run has asked before."""
    responses: int = 0
    """Responses that these questions are about. Equal ones share a question."""
    reused: int = 0
    """Rows with verdicts of other runs."""
    urls: tuple[str, ...] = ()
    """The servers that are asked."""
    seconds: list[float] = field(default_factory=list)
    """Seconds of every question that was asked now."""
    failed: list[Reason] = field(default_factory=list)
    """Why responses that were asked about now have no score, one reason for each."""
    faults: list[str] = field(default_factory=list)
    """What happened to servers that were lost on the way, if others did the rest."""


def judge_answers(
    answers: AnswersFolder,
    settings: JudgeSettings,
    asking: Asking | None = None,
    *,
    method: Method | None = None,
    on_start: Callable[[JudgeRun], None] = lambda _run: None,
    on_step: Callable[[JudgeStep], None] = lambda _step: None,
    verdicts: Verdicts | None = None,
) -> JudgeRun:
    """Ask the judge about every row that it has not scored yet. `on_step` is called at the start and after each row.

    Every attempt is on the disk before the next question. A row with a transient failure is asked about again, after
    all others. Verdicts of other runs on the same questions are taken over.

    Raises:
        PrerequisiteError, JudgeError: a failure that concerns every row; the next run asks about the remaining rows.
    """
    judge, run, asking = Judge(settings, method), JudgeRun(), asking or Asking()
    shared = verdicts or Verdicts()

    def step(one: JudgeStep) -> None:
        if one.outcome is not None and one.outcome.unscored is not None:
            run.failed.append(one.outcome.unscored)
        on_step(one)

    async def work() -> None:
        async with connected(judge) as (hosts, notes):
            run.notes += notes
            run.urls = tuple(host.client.url for host in hosts)
            with _ledger(answers, asking) as ledger:
                judging, tasks = _prepare(answers, judge, hosts, ledger, shared, asking, run, step)
                on_start(run)
                run.seconds = judging.seconds
                await judging.ask_all(tasks if asking.n_questions is None else _sample(tasks, asking.n_questions))
                run.faults = [str(host.fault) for host in hosts if host.fault is not None]

    run_until_stopped(work())
    return run


def _ledger(answers: AnswersFolder, asking: Asking) -> AbstractContextManager[Ledger]:
    """Return what gets the attempts.

    A sample of questions leaves no trace in the folder. It would settle all exact matches, and a later `limit` would
    then score its part of the rows and the exact matches of all.
    """
    if asking.n_questions is not None:
        return nullcontext(NoLedger())
    return AppendOnly[JudgeLine | Judgement](answers.folder / LEDGER_FILE)


def _prepare(
    answers: AnswersFolder,
    judge: Judge,
    hosts: Sequence[Host],
    ledger: Ledger,
    shared: Verdicts,
    asking: Asking,
    run: JudgeRun,
    on_step: Callable[[JudgeStep], None],
) -> tuple[JudgeWork[Material], list[Task[Material]]]:
    """Store what needs no question, and return the questions that are left and who asks them."""
    stored = read_ledger(answers.folder / LEDGER_FILE)
    identity = judge.identity(hosts[0].facts)
    outcomes = stored.outcomes(identity.fingerprint)
    newest = stored.newest_judge
    if newest is None or (newest.fingerprint, newest.identity) != (identity.fingerprint, identity):
        ledger.append([judge_line(identity, hosts)])
    part = chosen_rows(answers, asking.limit)
    ledger.append(_new_judgements_without_judge(part, identity, outcomes))
    versions = {host.facts.version for host in hosts}
    run.notes += _version_notes(outcomes, versions, asking)

    def needs_asking(row: Row) -> bool:
        return _needs_asking(outcomes.get(_key(row)), judge.settings, versions, asking)

    rows = [row for row in _questions(part, answers, judge.method, asking.controls) if needs_asking(row)]
    # Rows that failed before go to the back, so that they never block the others.
    rows.sort(key=lambda row: _key(row) in outcomes)
    tasks = make_tasks(judge, rows)
    known = shared.find(identity.fingerprint, {task.hash for task in tasks})
    if asking.rejudge:
        known = {question: attempt for question, attempt in known.items() if attempt.server_version in versions}
    run.reused = sum(len(task.rows) for task in tasks if task.hash in known)
    tasks = take_over(tasks, known, identity, ledger)
    run.questions, run.responses = len(tasks), sum(len(task.rows) for task in tasks)
    n_scored = run.reused + sum(outcome.source == "judge" for outcome in outcomes.values())
    return JudgeWork(judge, hosts, ledger, shared, n_scored=n_scored, on_step=on_step), tasks


def chosen_rows(answers: AnswersFolder, limit: int | None) -> AnswersFolder:
    """Return a part of the rows: seeded, and stratified by category. A larger limit gives a part that holds it."""
    if limit is None or limit >= len(answers.responses):
        return answers
    by_category: dict[str | None, list[ResponseRecord]] = {}
    for record in sorted(answers.responses, key=lambda record: _order(record.id)):
        by_category.setdefault(record.category, []).append(record)
    # The k-th of n rows of a category stands at (k - 1/2) / n, so every prefix has each category in proportion.
    places = [
        ((index + 0.5) / len(records), _order(record.id), record.id)
        for records in by_category.values()
        for index, record in enumerate(records)
    ]
    chosen = {row_id for _, _, row_id in sorted(places)[:limit]}
    return replace(answers, responses=tuple(record for record in answers.responses if record.id in chosen))


def _order(text: str) -> str:
    """Return a key that puts rows into a seeded order."""
    return hashlib.sha256(f"{PART_SEED} {text}".encode()).hexdigest()


def _sample(tasks: Sequence[Task[Material]], n_questions: int) -> list[Task[Material]]:
    return sorted(tasks, key=lambda task: _order(task.hash))[:n_questions]


def _version_notes(
    outcomes: Mapping[JudgementKey, Judgement], versions: Collection[str], asking: Asking
) -> Iterator[str]:
    """Yield a sentence if the server's version has changed since some verdicts."""
    old = Counter(
        outcome.server_version
        for outcome in outcomes.values()
        if outcome.source == "judge" and outcome.server_version is not None and outcome.server_version not in versions
    )
    for version, count in sorted(old.items()):
        what = "They are asked again." if asking.rejudge else "--rejudge asks about them again."
        yield (
            f"the server's version is now {', '.join(sorted(versions)) or 'unknown'}; {count} "
            f"{'verdict is' if count == 1 else 'verdicts are'} of version {version or 'unknown'}. {what}"
        )


def _key(row: Row) -> JudgementKey:
    return row.purpose, row.record.id, row.record.response_hash


def _questions(part: AnswersFolder, answers: AnswersFolder, method: Method, controls: int) -> Iterator[Row]:
    """Yield the responses of a part that need a judge, the settled rows that it gets as a check, and control items."""
    for record in part.responses:
        if _settle_without_judge(record) is None:
            yield Row("score", record)
    in_part = {record.id for record in part.responses}
    for record in judged_all_the_same(answers.responses):
        if record.id in in_part:
            yield Row("ceiling", record)
    by_id = {record.id: record for record in answers.responses if record.reference}
    for item in control_items(list(by_id.values()), per_kind=controls, method=method.name):
        yield Row(item.purpose, by_id[item.row_id].model_copy(update={"response": item.response}))


def _needs_asking(
    outcome: Judgement | None, settings: JudgeSettings, versions: Collection[str], asking: Asking
) -> bool:
    """Return whether a row has no verdict yet that counts."""
    if outcome is None:
        return True
    if outcome.score is not None:
        return asking.rejudge and outcome.server_version not in versions
    # Another context may hold a row that did not fit.
    fits_now = outcome.unscored in {"too_long", "truncated"} and outcome.num_ctx != settings.num_ctx
    return asking.retry_unscored or not outcome.final or fits_now


def _settle_without_judge(record: ResponseRecord) -> tuple[Source | None, Attempt] | None:
    """Return a row's outcome if it does not need the judge, or None if it does."""
    settled = settle(record)
    if settled is None:
        return None
    if settled.points is None:
        return None, Attempt(unscored=settled.unscored, detail=settled.detail)
    return settled.source, Attempt(score=settled.points // POINTS_PER_SCORE, points=settled.points)


def _new_judgements_without_judge(
    answers: AnswersFolder, identity: JudgeIdentity, outcomes: dict[JudgementKey, Judgement]
) -> Iterator[Judgement]:
    """Yield judgements of the rows that do not need the judge and are not in the ledger yet."""
    for record in answers.responses:
        settled = _settle_without_judge(record)
        if settled is not None and ("score", record.id, record.response_hash) not in outcomes:
            source, attempt = settled
            yield judgement_of(Row("score", record), identity, attempt, source=source)


def outcome_of(
    record: ResponseRecord, outcomes: Mapping[JudgementKey, Judgement]
) -> tuple[float | None, Reason | None]:
    """Return a row's points from 0 to 100, or the reason why it has none."""
    outcome = outcomes.get(("score", record.id, record.response_hash))
    if outcome is None:
        return None, "not_judged" if record.response is not None else "no_response"
    return outcome.points, outcome.unscored
