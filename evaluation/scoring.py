"""Scores the responses of an answers folder: metrics for all of them, and a judge where metrics are not enough.

    metrics.jsonl      one line per response; rewritten each time
    judgements.jsonl   the ledger: every attempt of every judge; records are only added

An exact match scores 100 and an empty response scores 0 without asking the judge. On data with GPT-4's scores, this
raises a local judge's rank correlation with them from .70 to .90 (tests/evaluation/test_metrics.py checks it). A seeded
tenth of the exact matches is put to the judge as well, to show how high its scores go. It does not count in the mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from assistant.errors import DataError, JudgeError
from assistant.files import write_atomic
from assistant.jsonl import AppendOnly, read_lines
from evaluation.answers_folder import AnswersFolder, ResponseRecord
from evaluation.judge import Judge
from evaluation.judgement import Attempt, JudgeIdentity, Reason
from evaluation.ledger import JudgeLine, Judgement, JudgementKey, Purpose, Source, now, read_ledger
from evaluation.metrics import Metrics, measure
from evaluation.rubric import POINTS_PER_SCORE, Material
from evaluation.settled import judged_all_the_same, settle

METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "judgements.jsonl"
MAX_UNREACHABLE = 3
"""Consecutive rows without any answer after which the judge is not asked any more."""


class MetricsRecord(Metrics):
    """A line of `metrics.jsonl`: the metrics of one response."""

    id: str
    response_hash: str


_METRICS = TypeAdapter(MetricsRecord)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeStep:
    """Progress of the judge. The first step comes before the model is loaded and has no outcome."""

    done: int
    total: int
    outcome: Judgement | None


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


def judge_answers(answers: AnswersFolder, judge: Judge, *, retry_unscored: bool = False) -> Iterator[JudgeStep]:
    """Ask the judge about every row that it has not scored yet. Yields one step per row.

    Every attempt is on the disk before the next question. A row with a transient failure is asked about again; with
    `retry_unscored`, so is every row without a score.

    Raises:
        PrerequisiteError, JudgeError: a failure that concerns every row; the next run asks about the remaining rows.
    """
    identity = judge.connect()
    path = answers.folder / LEDGER_FILE
    with AppendOnly[JudgeLine | Judgement](path) as ledger:
        stored = read_ledger(path)
        outcomes = stored.outcomes(identity.fingerprint)
        if stored.newest_judge is None or stored.newest_judge.fingerprint != identity.fingerprint:
            ledger.append([_judge_line(identity, judge)])
        ledger.append(_new_judgements_without_judge(answers, identity, outcomes))
        questions = [
            (purpose, record)
            for purpose, record in _questions(answers)
            if _needs_asking(outcomes.get((purpose, record.id, record.response_hash)), retry_unscored)
        ]
        yield JudgeStep(done=0, total=len(questions), outcome=None)
        if questions:
            judge.load()
            yield from _ask_all(judge, identity, ledger, questions)


def _ask_all(
    judge: Judge,
    identity: JudgeIdentity,
    ledger: AppendOnly[JudgeLine | Judgement],
    questions: list[tuple[Purpose, ResponseRecord]],
) -> Iterator[JudgeStep]:
    """Ask the questions one after the other. Stops when the server does not answer any more."""
    n_unreachable = 0
    for done, (purpose, record) in enumerate(questions, start=1):
        outcome = None
        for attempt in judge.attempts(_material(record)):
            source: Source | None = None if attempt.score is None else "judge"
            outcome = _judgement(record, identity, attempt, purpose=purpose, source=source)
            ledger.append([outcome])
        yield JudgeStep(done=done, total=len(questions), outcome=outcome)
        n_unreachable = n_unreachable + 1 if outcome is not None and outcome.unscored == "unreachable" else 0
        if n_unreachable >= MAX_UNREACHABLE:
            not_asked = Attempt(unscored="unreachable", detail="not asked: the server was unreachable", final=False)
            remaining = questions[done:]
            ledger.append(_judgement(record, identity, not_asked, purpose=purpose) for purpose, record in remaining)
            n_unreachable += len(remaining)
            break
    if n_unreachable:
        raise JudgeError(
            f"judge: expected answers from {judge.settings.url}, got none for the last {n_unreachable} "
            f"{'row' if n_unreachable == 1 else 'rows'}. Start the server (ollama serve) and give the same command "
            f"again; it asks only for the missing rows."
        )


def _questions(answers: AnswersFolder) -> Iterator[tuple[Purpose, ResponseRecord]]:
    """Yield the responses that need a judge, then the exact matches that the judge gets as a check."""
    for record in answers.responses:
        # A prompt for rows with a rubric and no reference does not exist yet: they stay `not_judged`.
        if record.reference and _settle_without_judge(record) is None:
            yield "score", record
    for record in ceiling_sample(answers):
        yield "ceiling", record


def _needs_asking(outcome: Judgement | None, retry_unscored: bool) -> bool:
    if outcome is None:
        return True
    return outcome.score is None and (retry_unscored or not outcome.final)


def ceiling_sample(answers: AnswersFolder) -> list[ResponseRecord]:
    """Return the settled rows that the judge gets as a check. It is always the same sample."""
    return judged_all_the_same(answers.responses)


def _settle_without_judge(record: ResponseRecord) -> tuple[Source | None, Attempt] | None:
    """Return a row's outcome if it does not need the judge, or None if it does."""
    settled = settle(record)
    if settled is None:
        return None
    if settled.points is None:
        return None, Attempt(unscored=settled.unscored, detail=settled.detail)
    return settled.source, Attempt(score=settled.points // POINTS_PER_SCORE)


def _new_judgements_without_judge(
    answers: AnswersFolder, identity: JudgeIdentity, outcomes: dict[JudgementKey, Judgement]
) -> Iterator[Judgement]:
    """Yield judgements of the rows that do not need the judge and are not in the ledger yet."""
    for record in answers.responses:
        settled = _settle_without_judge(record)
        if settled is not None and ("score", record.id, record.response_hash) not in outcomes:
            source, attempt = settled
            yield _judgement(record, identity, attempt, source=source)


def outcome_of(
    record: ResponseRecord, outcomes: Mapping[JudgementKey, Judgement]
) -> tuple[float | None, Reason | None]:
    """Return a row's points from 0 to 100, or the reason why it has none."""
    outcome = outcomes.get(("score", record.id, record.response_hash))
    if outcome is None:
        return None, "not_judged" if record.response is not None else "no_response"
    return outcome.points, outcome.unscored


def _judgement(
    record: ResponseRecord,
    identity: JudgeIdentity,
    attempt: Attempt,
    *,
    purpose: Purpose = "score",
    source: Source | None = None,
) -> Judgement:
    return Judgement(
        **attempt.model_dump(),
        id=record.id,
        response_hash=record.response_hash,
        fingerprint=identity.fingerprint,
        purpose=purpose,
        source=source,
        created=now(),
    )


def _judge_line(identity: JudgeIdentity, judge: Judge) -> JudgeLine:
    return JudgeLine(fingerprint=identity.fingerprint, identity=identity, url=judge.settings.url, created=now())


def _material(record: ResponseRecord) -> Material:
    return Material(
        instruction=record.instruction,
        input=record.input,
        reference=record.reference,
        response=record.response or "",
        history=record.history,
    )
