"""From a scored run folder to one value: the report, which `report.json` holds and every table shows.

No data is None and never 0; a row without a score is left out of the means and counted under its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from assistant.files import write_atomic
from assistant.settings import Frozen
from assistant.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_mean_interval,
    smallest_detectable_difference,
    standard_deviation,
    wilson,
)
from evaluation.judgement import REASONS, JudgeIdentity, Reason
from evaluation.ledger import JudgeLine, Judgement, Key, Ledger, Source, read_ledger
from evaluation.metrics import Metrics
from evaluation.responses import ResponseRecord, Run, read_run
from evaluation.scoring import LEDGER_FILE, ceiling_sample, outcome_of, read_metrics

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
SEED = 123
WORST = 10
FEW_ROWS = 10
"""Below this a bootstrap is far too narrow: a category gets no interval then, and the whole run a note."""

CORRELATION_OF_RUNS = 0.35
"""How far two models' scores went together row by row where it was measured (Llama-3-8B as judge, n = 99)."""

ScoreName = Literal["judge", "exact"]


class Mean(Frozen):
    """A mean over `n` rows and where it lies with 95 % confidence; None where there are no data."""

    n: int
    mean: float | None
    interval: Interval | None


class Category(Mean):
    """The headline score of one category; `n` counts its rows with a score."""

    name: str | None
    """None for rows without a category."""
    rows: int
    exact_matches: int
    chrf: float | None
    """Mean of the rows that have a response."""
    ended: int
    """Responses that the model ended by itself, before the token limit."""


class Ceiling(Frozen):
    """What the judge gave to exact matches, from 0 to 100: how high it goes. No part of the mean."""

    rows: int
    """Exact matches it was asked about."""
    judged: int
    mean: float | None
    lowest: float | None


class Bounds(Frozen):
    """The mean if every row without a score had got 0, and if it had got 100."""

    low: float
    high: float


class SmallestDifference(Frozen):
    """What a paired comparison of two runs on these rows could tell from chance."""

    points: float
    power: float = 0.8
    assumed_correlation: float = CORRELATION_OF_RUNS


class ShownRow(Frozen):
    """A row as the list of the worst shows it."""

    id: str
    row: int
    source: str
    instruction: str
    input: str
    reference: str
    response: str
    score: float
    chrf: float
    analysis: str | None


class JudgeSummary(JudgeIdentity):
    """The judge whose scores are reported: the one that was asked last."""

    url: str
    judge_fingerprint: str
    other_judges: int
    """Further judges in the ledger; their scores are kept and not mixed in."""


class Report(Frozen):
    """Everything that is known about a run. Scores and metrics go from 0 to 100."""

    run: str
    name: str
    kind: Literal["model", "file"]
    template: str | None
    data_files: tuple[str, ...]
    part: str
    score: ScoreName
    """What `mean` is the mean of: the judge's points (exact matches 100), or exact matches alone."""
    n: int
    """All rows, those without a score and those without an answer among them."""
    scored: int
    mean: float | None
    interval: Interval | None
    interval_method: str
    standard_deviation: float | None
    smallest_difference: SmallestDifference | None
    bounds: Bounds | None
    exact_matches: int
    unscored: dict[Reason, int]
    unanswered: int
    """Rows the model was not asked yet; they count under `no_response`."""
    sources: dict[Source, int]
    """Where the judge's points come from."""
    metrics: dict[str, Mean]
    stop_reasons: dict[str, int]
    categories: tuple[Category, ...]
    ceiling: Ceiling | None
    judge: JudgeSummary | None
    worst: tuple[ShownRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    """One row with all that is known of it."""

    record: ResponseRecord
    metrics: Metrics | None
    score: float | None
    unscored: Reason | None
    outcome: Judgement | None


def make_report(folder: Path) -> Report:
    """Read a scored run folder and sum it up.

    Raises:
        DataError: it is no run folder, or has responses that were never scored.
    """
    run = read_run(folder)
    measured = read_metrics(run)
    ledger = read_ledger(run.folder / LEDGER_FILE)
    judge = _judge_with_verdicts(run, ledger)
    outcomes = ledger.outcomes(judge.fingerprint) if judge else None
    rows = [_scored(record, measured.get(record.id), outcomes) for record in run.responses]
    table = _table(rows)
    scores = table["score"].dropna().tolist()
    headline: ScoreName = "judge" if judge else "exact"
    summary = _mean(headline, scores)
    unscored = Counter(row.unscored for row in rows if row.unscored)
    unscored["no_response"] += run.unanswered
    spread = standard_deviation(scores)
    ceiling = _ceiling(run, outcomes) if outcomes is not None else None
    report = Report(
        run=str(folder),
        name=run.info.name,
        kind=run.info.kind,
        template=run.info.template,
        data_files=run.info.data_files,
        part=run.info.part,
        score=headline,
        n=run.info.rows,
        scored=summary.n,
        mean=summary.mean,
        interval=summary.interval,
        interval_method=_method(headline),
        standard_deviation=_rounded(spread),
        smallest_difference=_smallest_difference(spread, summary.n),
        bounds=_bounds(scores, run.info.rows),
        exact_matches=int((table["exact"] > 0).sum()),
        unscored={reason: unscored[reason] for reason in REASONS if unscored[reason]},
        unanswered=run.unanswered,
        sources=dict(Counter(row.outcome.source for row in rows if row.outcome and row.outcome.source)),
        metrics={name: _mean(name, table[name].dropna().tolist()) for name in Metrics.model_fields},
        stop_reasons=dict(Counter(row.record.stop_reason for row in rows if row.record.stop_reason)),
        categories=_categories(headline, table),
        ceiling=ceiling,
        judge=_judge_summary(judge, ledger) if judge else None,
        worst=_worst(rows),
        notes=(),
    )
    return report.model_copy(update={"notes": tuple(_notes(report, ledger))})


def write_report(folder: Path, report: Report, markdown: str) -> None:
    """Put `report.json` and `report.md` beside the responses, each in one step."""
    write_atomic(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    write_atomic(folder / MARKDOWN_FILE, markdown)


# --- rows ---------------------------------------------------------------------------------------------------------


def _judge_with_verdicts(run: Run, ledger: Ledger) -> JudgeLine | None:
    """The judge that was asked last, if it scored anything, or if nothing needed it.

    Exact matches are scored without it, so a judge that never answered would leave a mean of them alone: 100.
    """
    if ledger.newest is None:
        return None
    outcomes = ledger.outcomes(ledger.newest.fingerprint)
    found = [outcomes.get(("score", record.id, record.response_hash)) for record in run.responses]
    answered = any(outcome is not None and outcome.source == "judge" for outcome in found)
    needed = any(outcome is None or outcome.unscored not in {None, "no_response"} for outcome in found)
    return ledger.newest if answered or not needed else None


def _scored(record: ResponseRecord, metrics: Metrics | None, outcomes: Mapping[Key, Judgement] | None) -> _Scored:
    score: float | None
    unscored: Reason | None
    outcome = None
    if outcomes is not None:
        score, unscored = outcome_of(record, outcomes)
        outcome = outcomes.get(("score", record.id, record.response_hash))
    elif metrics is None:
        score, unscored = None, "no_response"
    else:
        score, unscored = 100.0 * metrics.exact, None
    return _Scored(record=record, metrics=metrics, score=score, unscored=unscored, outcome=outcome)


def _table(rows: Sequence[_Scored]) -> pd.DataFrame:
    """One line a row: category, headline score, and every metric from 0 to 100; missing is NaN."""
    import pandas as pd

    lines: list[dict[str, object]] = []
    for row in rows:
        line: dict[str, object] = {"category": row.record.category, "score": row.score}
        line["ended"] = row.record.stop_reason == "eos"
        for name in Metrics.model_fields:
            value = getattr(row.metrics, name) if row.metrics else None
            line[name] = 100.0 * value if isinstance(value, bool) else value
        lines.append(line)
    table = pd.DataFrame(lines, columns=["category", "score", "ended", *Metrics.model_fields])
    numbers = ["score", *Metrics.model_fields]
    table[numbers] = table[numbers].astype(float)
    return table


def _worst(rows: Sequence[_Scored]) -> tuple[ShownRow, ...]:
    """The lowest scores; among equal ones the responses furthest from the reference."""
    scored = [(row.score, row.metrics, row) for row in rows if row.score is not None and row.metrics is not None]
    scored.sort(key=lambda found: (found[0], found[1].chrf))
    return tuple(
        ShownRow(
            id=row.record.id,
            row=row.record.row,
            source=row.record.source,
            instruction=row.record.instruction,
            input=row.record.input,
            reference=row.record.reference,
            response=row.record.response or "",
            score=score,
            chrf=round(metrics.chrf, 2),
            analysis=row.outcome.analysis if row.outcome else None,
        )
        for score, metrics, row in scored[:WORST]
        if score < 100
    )


# --- figures ------------------------------------------------------------------------------------------------------

_RATES = {"exact", "normalised_exact"}


def _mean(name: str, values: Sequence[float], *, least: int = 2) -> Mean:
    """Mean and interval of values from 0 to 100.

    A rate (each value 0 or 100) gets Wilson's interval, any other mean a bootstrap where there are `least` values.
    """
    if not values:
        return Mean(n=0, mean=None, interval=None)
    if name in _RATES:
        interval = wilson(sum(value > 0 for value in values), len(values))
        interval = interval and Interval(100 * interval.low, 100 * interval.high)
    else:
        interval = bootstrap_mean_interval(values, seed=SEED) if len(values) >= least else None
    rounded = interval and Interval(round(interval.low, 4), round(interval.high, 4))
    return Mean(n=len(values), mean=round(math.fsum(values) / len(values), 4), interval=rounded)


def _method(headline: ScoreName) -> str:
    if headline == "exact":
        return "Wilson, 95 %"
    return f"percentile bootstrap of the rows, 95 %, {RESAMPLES} resamples, seed {SEED}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _bounds(scores: Sequence[float], n: int) -> Bounds | None:
    if n == 0:
        return None
    total, missing = math.fsum(scores), n - len(scores)
    return Bounds(low=round(total / n, 4), high=round((total + 100 * missing) / n, 4))


def _smallest_difference(spread: float | None, n: int) -> SmallestDifference | None:
    if not spread:
        return None
    points = smallest_detectable_difference(spread, n, correlation=CORRELATION_OF_RUNS)
    return None if points is None else SmallestDifference(points=round(points, 2))


def _categories(headline: ScoreName, table: pd.DataFrame) -> tuple[Category, ...]:
    """The headline score by category, in the order of names, rows without one last."""
    if table["category"].isna().all():
        return ()
    found = []
    for name, group in table.groupby("category", dropna=False, sort=True):
        mean = _mean(headline, group["score"].dropna().tolist(), least=FEW_ROWS)
        found.append(
            Category(
                **dict(mean),
                name=name if isinstance(name, str) else None,
                rows=len(group),
                exact_matches=int((group["exact"] > 0).sum()),
                chrf=_mean("chrf", group["chrf"].dropna().tolist(), least=len(group) + 1).mean,
                ended=int(group["ended"].sum()),
            )
        )
    return tuple(sorted(found, key=lambda category: (category.name is None, category.name or "")))


def _ceiling(run: Run, outcomes: Mapping[Key, Judgement]) -> Ceiling | None:
    sample = ceiling_sample(run)
    found = [outcomes.get(("ceiling", record.id, record.response_hash)) for record in sample]
    points = [outcome.points for outcome in found if outcome is not None and outcome.points is not None]
    if not sample:
        return None
    mean = round(math.fsum(points) / len(points), 4) if points else None
    return Ceiling(rows=len(sample), judged=len(points), mean=mean, lowest=min(points, default=None))


def _judge_summary(judge: JudgeLine, ledger: Ledger) -> JudgeSummary:
    others = {line.fingerprint for line in ledger.judges} - {judge.fingerprint}
    return JudgeSummary(
        **judge.identity.model_dump(), url=judge.url, judge_fingerprint=judge.fingerprint, other_judges=len(others)
    )


def _notes(report: Report, ledger: Ledger) -> list[str]:
    """What a reader must know before believing the mean, one sentence each."""
    notes = []
    missing = report.n - report.scored
    if ledger.newest is not None and report.judge is None:
        notes.append(f"The judge {ledger.newest.identity.model} scored no row, so the score is that of exact matches.")
    if report.judge is None and ledger.newest is None:
        notes.append("No judge was asked: a right answer in other words counts as wrong here.")
    if report.unanswered:
        notes.append(f"{report.unanswered} of {report.n} rows are not answered yet; respond again to go on.")
    if missing and report.bounds:
        low, high = report.bounds.low, report.bounds.high
        notes.append(
            f"{missing} of {report.n} rows have no score; with them the mean lies from {low:.1f} to {high:.1f}."
        )
    if report.judge and set(report.unscored) - {"no_response"} and report.sources.get("exact"):
        notes.append("Exact matches never miss a score and judged rows do, so the mean leans upward.")
    if report.ceiling and report.ceiling.mean is not None and report.ceiling.mean < 90:
        asked = f"{report.ceiling.judged} exact {'match' if report.ceiling.judged == 1 else 'matches'}"
        notes.append(f"The judge gave {asked} {report.ceiling.mean:.0f} on average: its scores may be too low.")
    if report.interval and report.interval.low == report.interval.high:
        notes.append("All rows have the same score, so the interval says nothing.")
    elif report.interval and report.judge and report.scored < FEW_ROWS:
        notes.append(f"Only {report.scored} rows have a score; the interval is too narrow for so few.")
    if report.stop_reasons.get("length"):
        cut = report.stop_reasons["length"]
        notes.append(f"{cut} {'response was' if cut == 1 else 'responses were'} cut at the token limit.")
    if report.judge and report.judge.other_judges:
        others = report.judge.other_judges
        notes.append(f"The ledger holds {others} other {'judge' if others == 1 else 'judges'}; not mixed in.")
    return notes
