"""Scoring a run folder: metrics for every response, and a judge for those that metrics cannot settle.

    metrics.jsonl      one line a response; written anew each time
    judgements.jsonl   what every judge said, attempt by attempt; only ever added to

An exact match is scored 100 and an empty response 0 without asking: on data where GPT-4's scores are known this lifts
a local judge's rank correlation with them from .70 to .90 (tests/test_metrics.py holds that). A seeded tenth of the
exact matches is put to the judge all the same, which shows how high it goes; that is no part of the mean.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from assistant.errors import DataError, JudgeError
from assistant.files import write_atomic
from assistant.jsonl import AppendOnly, read_lines
from evaluation.judge import Judge
from evaluation.judgement import Attempt, JudgeIdentity, Reason
from evaluation.ledger import JudgeLine, Judgement, Key, Purpose, Source, now, read_ledger
from evaluation.metrics import Metrics, is_exact, measure
from evaluation.responses import ResponseRecord, Run
from evaluation.rubric import MAX_SCORE, Material

METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "judgements.jsonl"
CEILING_SHARE = 0.1
CEILING_SEED = 123
GIVE_UP_AFTER = 3
"""Rows in a row that get no answer at all."""


class MetricsRecord(Metrics):
    """The metrics of one response."""

    id: str
    response_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeStep:
    """How far the judge has come; the first step comes before the model is loaded and has no outcome."""

    done: int
    total: int
    outcome: Judgement | None


def write_metrics(run: Run) -> None:
    """Measure every response and replace `metrics.jsonl`."""
    lines = []
    for record in run.responses:
        if record.response is not None:
            found = measure(record.response, record.reference).model_dump()
            lines.append(json.dumps({"id": record.id, "response_hash": record.response_hash, **found}) + "\n")
    write_atomic(run.folder / METRICS_FILE, "".join(lines))


def read_metrics(run: Run) -> dict[str, Metrics]:
    """The metrics of every response by row id.

    Raises:
        DataError: responses have come since they were measured.
    """
    lines = read_lines(run.folder / METRICS_FILE, _METRICS)
    known = {(line.id, line.response_hash): line for line in lines}
    answered = [record for record in run.responses if record.response is not None]
    new = sum((record.id, record.response_hash) not in known for record in answered)
    if new:
        raise DataError(
            f"{run.folder}: expected scores of all {len(answered)} responses, got none for {new} of them. "
            f"Run: evaluation score {run.folder}"
        )
    return {record.id: known[record.id, record.response_hash] for record in answered}


_METRICS = TypeAdapter(MetricsRecord)


# --- the judge ----------------------------------------------------------------------------------------------------


def judge_run(run: Run, judge: Judge, *, retry_unscored: bool = False) -> Iterator[JudgeStep]:
    """Put to the judge what it has not scored yet; every attempt is on the disk before the next question.

    A row that failed for a reason that can pass is asked again; with `retry_unscored` every unscored row is.

    Raises:
        PrerequisiteError, JudgeError: what concerns every row; rows that were not asked stay for the next run.
    """
    identity = judge.connect()
    path = run.folder / LEDGER_FILE
    with AppendOnly[JudgeLine | Judgement](path) as ledger:
        known = read_ledger(path)
        outcomes = known.outcomes(identity.fingerprint)
        if known.newest is None or known.newest.fingerprint != identity.fingerprint:
            ledger.append([_judge_line(identity, judge)])
        ledger.append(_settled(run, identity, outcomes))
        questions = [
            (purpose, record)
            for purpose, record in _questions(run)
            if _is_open(outcomes.get((purpose, record.id, record.response_hash)), retry_unscored)
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
    """Ask one question after the other; stops asking when the server has gone."""
    in_vain = 0
    for done, (purpose, record) in enumerate(questions, start=1):
        outcome = None
        for attempt in judge.attempts(_material(record)):
            source: Source | None = None if attempt.score is None else "judge"
            outcome = _judgement(record, identity, attempt, purpose=purpose, source=source)
            ledger.append([outcome])
        yield JudgeStep(done=done, total=len(questions), outcome=outcome)
        in_vain = in_vain + 1 if outcome is not None and outcome.unscored == "unreachable" else 0
        if in_vain >= GIVE_UP_AFTER:
            not_asked = Attempt(unscored="unreachable", detail="not asked: the server had gone", final=False)
            rest = questions[done:]
            ledger.append(_judgement(record, identity, not_asked, purpose=purpose) for purpose, record in rest)
            in_vain += len(rest)
            break
    if in_vain:
        raise JudgeError(
            f"judge: expected {judge.settings.url} to go on answering, got no answer for the last {in_vain} "
            f"{'row' if in_vain == 1 else 'rows'}. Start it (ollama serve) and give the same command again; it asks "
            f"only for what is missing."
        )


def _is_open(outcome: Judgement | None, retry_unscored: bool) -> bool:
    if outcome is None:
        return True
    return outcome.score is None and (retry_unscored or not outcome.final)


def _questions(run: Run) -> Iterator[tuple[Purpose, ResponseRecord]]:
    """The responses that need a judge, then the exact matches it is asked about as a check."""
    for record in run.responses:
        if _without_judge(record) is None:
            yield "score", record
    for record in ceiling_sample(run):
        yield "ceiling", record


def ceiling_sample(run: Run) -> list[ResponseRecord]:
    """A tenth of the exact matches, at least one where there are any; the same ones every time."""
    exact = [record for record in run.responses if record.response and is_exact(record.response, record.reference)]
    order = sorted(exact, key=lambda record: hashlib.sha256(f"{CEILING_SEED} {record.id}".encode()).hexdigest())
    return order[: math.ceil(CEILING_SHARE * len(exact))]


def _without_judge(record: ResponseRecord) -> tuple[Source | None, Attempt] | None:
    """What a row comes to without asking; None where a judge is needed."""
    if record.response is None:
        return None, Attempt(unscored="no_response", detail=record.error)
    if not record.response.strip():
        return "empty", Attempt(score=0)
    if is_exact(record.response, record.reference):
        return "exact", Attempt(score=MAX_SCORE)
    return None


def _settled(run: Run, identity: JudgeIdentity, outcomes: dict[Key, Judgement]) -> Iterator[Judgement]:
    for record in run.responses:
        found = _without_judge(record)
        if found is not None and ("score", record.id, record.response_hash) not in outcomes:
            source, attempt = found
            yield _judgement(record, identity, attempt, source=source)


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


def outcome_of(record: ResponseRecord, outcomes: Mapping[Key, Judgement]) -> tuple[float | None, Reason | None]:
    """A row's points from 0 to 100, or the reason why it has none."""
    found = outcomes.get(("score", record.id, record.response_hash))
    if found is None:
        return None, "not_judged" if record.response is not None else "no_response"
    return found.points, found.unscored
