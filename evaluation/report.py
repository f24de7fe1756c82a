"""The report: one value that sums up a scored answers folder. `report.json` contains it, and every table shows it.

A figure without data is None and never 0. A row without a score does not count in the means; it is counted under its
reason. Does not know how the report looks.
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
from assistant.statistics import Interval, standard_deviation
from evaluation.answers_folder import AnswersFolder, ResponseRecord, read_answers
from evaluation.figures import (
    SCORES_METHOD,
    WILSON_METHOD,
    Bounds,
    Mean,
    SmallestDifference,
    bounds,
    mean_of_rate,
    mean_of_scores,
    plain_mean,
    smallest_difference,
)
from evaluation.judgement import REASONS, JudgeIdentity, Reason
from evaluation.ledger import JudgeLine, Judgement, JudgementKey, Ledger, Source, read_ledger
from evaluation.metrics import Metrics
from evaluation.scoring import LEDGER_FILE, ceiling_sample, outcome_of, read_metrics

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
N_WORST_ROWS = 10

RATES = ("exact", "normalised_exact")
"""Metrics that are 0 or 100 for each row."""

ScoreName = Literal["judge", "exact"]


class Category(Mean):
    """The headline score of one category. `n` is the number of its rows with a score."""

    name: str | None
    """None for the rows without a category."""
    rows: int
    exact_matches: int
    chrf: float | None
    """Mean over the rows that have a response."""
    ended: int
    """Number of responses that the model ended with EOS, before the token limit."""


class Ceiling(Frozen):
    """The judge's scores of exact matches, from 0 to 100. They show how high it goes and do not count in the mean."""

    rows: int
    """Number of exact matches in the sample."""
    judged: int
    mean: float | None
    lowest: float | None


class ShownRow(Frozen):
    """A row in the list of the worst rows."""

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
    """The judge that was asked last. The report contains only its scores."""

    url: str
    judge_fingerprint: str
    other_judges: int
    """Number of other judges in the ledger. Their scores are kept, but not included here."""


class Report(Frozen):
    """All results of an answers folder. Scores and metrics go from 0 to 100."""

    run: str
    name: str
    kind: Literal["model", "file"]
    template: str | None
    data_files: tuple[str, ...]
    part: str
    score: ScoreName
    """What `mean` summarises: `judge` is the judge's points (exact matches 100), `exact` the rate of exact matches."""
    n: int
    """All rows, including rows without a score and rows without a response."""
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
    """Rows that the model was not asked about yet. They count under `no_response`."""
    sources: dict[Source, int]
    """Where the scores come from."""
    metrics: dict[str, Mean]
    stop_reasons: dict[str, int]
    categories: tuple[Category, ...]
    ceiling: Ceiling | None
    judge: JudgeSummary | None
    worst: tuple[ShownRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ScoredRow:
    """One row with its metrics and its headline score."""

    record: ResponseRecord
    metrics: Metrics | None
    score: float | None
    unscored: Reason | None
    outcome: Judgement | None


def make_report(folder: Path) -> Report:
    """Read a scored answers folder and summarise it.

    Raises:
        DataError: the folder is not an answers folder, or has responses that were not scored yet.
    """
    answers = read_answers(folder)
    metrics = read_metrics(answers)
    ledger = read_ledger(answers.folder / LEDGER_FILE)
    judge = judge_with_scores(answers, ledger)
    outcomes = ledger.outcomes(judge.fingerprint) if judge else None
    rows = [_scored_row(record, metrics.get(record.id), outcomes) for record in answers.responses]
    table = _table(rows)
    scores = table["score"].dropna().tolist()
    headline: ScoreName = "judge" if judge else "exact"
    summary = mean_of_scores(scores) if judge else mean_of_rate(scores)
    unscored = Counter(row.unscored for row in rows if row.unscored)
    unscored["no_response"] += answers.unanswered
    std = standard_deviation(scores)
    report = Report(
        run=str(folder),
        name=answers.info.name,
        kind=answers.info.kind,
        template=answers.info.template,
        data_files=answers.info.data_files,
        part=answers.info.part,
        score=headline,
        n=answers.info.rows,
        scored=summary.n,
        mean=summary.mean,
        interval=summary.interval,
        interval_method=SCORES_METHOD if judge else WILSON_METHOD,
        standard_deviation=None if std is None else round(std, 4),
        smallest_difference=smallest_difference(std, summary.n),
        bounds=bounds(scores, answers.info.rows),
        exact_matches=int((table["exact"] > 0).sum()),
        unscored={reason: unscored[reason] for reason in REASONS if unscored[reason]},
        unanswered=answers.unanswered,
        sources=dict(Counter(row.outcome.source for row in rows if row.outcome and row.outcome.source)),
        metrics=_metric_means(table),
        stop_reasons=dict(Counter(row.record.stop_reason for row in rows if row.record.stop_reason)),
        categories=_categories(headline, table),
        ceiling=_ceiling(answers, outcomes) if outcomes is not None else None,
        judge=_judge_summary(judge, ledger) if judge else None,
        worst=_worst(rows),
        notes=(),
    )
    return report.model_copy(update={"notes": tuple(_notes(report, ledger))})


def write_report(folder: Path, report: Report, markdown: str) -> None:
    """Write `report.json` and `report.md` into the answers folder, each in one step."""
    write_atomic(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    write_atomic(folder / MARKDOWN_FILE, markdown)


# --- rows ---------------------------------------------------------------------------------------------------------


def judge_with_scores(answers: AnswersFolder, ledger: Ledger) -> JudgeLine | None:
    """Return the judge that was asked last, if it scored a row or if no row needed it.

    Exact matches score 100 without the judge. If the judge never answered, the mean over them would always be 100.
    """
    if ledger.newest_judge is None:
        return None
    outcomes = ledger.outcomes(ledger.newest_judge.fingerprint)
    row_outcomes = [outcomes.get(("score", record.id, record.response_hash)) for record in answers.responses]
    has_scored = any(outcome is not None and outcome.source == "judge" for outcome in row_outcomes)
    is_needed = any(outcome is None or outcome.unscored not in {None, "no_response"} for outcome in row_outcomes)
    return ledger.newest_judge if has_scored or not is_needed else None


def _scored_row(
    record: ResponseRecord, metrics: Metrics | None, outcomes: Mapping[JudgementKey, Judgement] | None
) -> _ScoredRow:
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
    return _ScoredRow(record=record, metrics=metrics, score=score, unscored=unscored, outcome=outcome)


def _table(rows: Sequence[_ScoredRow]) -> pd.DataFrame:
    """Return a table with one line per row: category, headline score and metrics. A missing value is NaN."""
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


def _worst(rows: Sequence[_ScoredRow]) -> tuple[ShownRow, ...]:
    """Return the rows with the lowest scores below 100. Among equal scores, the lowest chrF comes first."""
    scored = [(row.score, row.metrics, row) for row in rows if row.score is not None and row.metrics is not None]
    scored.sort(key=lambda scored_row: (scored_row[0], scored_row[1].chrf))
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
        for score, metrics, row in scored[:N_WORST_ROWS]
        if score < 100
    )


# --- parts of the report ------------------------------------------------------------------------------------------


def _metric_means(table: pd.DataFrame) -> dict[str, Mean]:
    values = {name: table[name].dropna().tolist() for name in Metrics.model_fields}
    return {name: mean_of_rate(column) if name in RATES else mean_of_scores(column) for name, column in values.items()}


def _categories(headline: ScoreName, table: pd.DataFrame) -> tuple[Category, ...]:
    """Return the headline score by category, sorted by name. Rows without a category come last."""
    if table["category"].isna().all():
        return ()
    categories = []
    for name, group in table.groupby("category", dropna=False, sort=True):
        scores = group["score"].dropna().tolist()
        mean = mean_of_rate(scores) if headline == "exact" else mean_of_scores(scores)
        categories.append(
            Category(
                **dict(mean),
                name=name if isinstance(name, str) else None,
                rows=len(group),
                exact_matches=int((group["exact"] > 0).sum()),
                chrf=plain_mean(group["chrf"].dropna().tolist()),
                ended=int(group["ended"].sum()),
            )
        )
    return tuple(sorted(categories, key=lambda category: (category.name is None, category.name or "")))


def _ceiling(answers: AnswersFolder, outcomes: Mapping[JudgementKey, Judgement]) -> Ceiling | None:
    sample = ceiling_sample(answers)
    judgements = [outcomes.get(("ceiling", record.id, record.response_hash)) for record in sample]
    points = [judgement.points for judgement in judgements if judgement is not None and judgement.points is not None]
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
    """Return what a reader must know before trusting the mean, one sentence each."""
    notes = []
    n_missing = report.n - report.scored
    if ledger.newest_judge is not None and report.judge is None:
        model = ledger.newest_judge.identity.model
        notes.append(f"The judge {model} scored no row, so the score is the rate of exact matches.")
    if report.judge is None and ledger.newest_judge is None:
        notes.append("No judge was asked, so correct paraphrases count as wrong.")
    if report.unanswered:
        notes.append(
            f"{report.unanswered} of {report.n} rows are not answered yet. Run evaluation respond again to continue."
        )
    if n_missing and report.bounds:
        low, high = report.bounds.low, report.bounds.high
        notes.append(
            f"{n_missing} of {report.n} rows have no score. With scores for all rows, the mean would be "
            f"from {low:.1f} to {high:.1f}."
        )
    if report.judge and set(report.unscored) - {"no_response"} and report.sources.get("exact"):
        notes.append("Exact matches always have a score and some judged rows do not, so the mean is likely too high.")
    if report.ceiling and report.ceiling.mean is not None and report.ceiling.mean < 90:
        matches = f"{report.ceiling.judged} exact {'match' if report.ceiling.judged == 1 else 'matches'}"
        notes.append(f"The judge gave {matches} {report.ceiling.mean:.0f} on average: its scores may be too low.")
    if n_cut := report.stop_reasons.get("length"):
        notes.append(f"{n_cut} {'response was' if n_cut == 1 else 'responses were'} cut at the token limit.")
    if report.judge and (n_others := report.judge.other_judges):
        judges = "judge" if n_others == 1 else "judges"
        notes.append(f"The ledger also has scores of {n_others} other {judges}. They are not included.")
    return notes
