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
    BOOTSTRAP_METHOD,
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
from evaluation.judgement import REASONS, UNVERIFIED, WITHOUT_JUDGE, JudgeIdentity, Reason
from evaluation.ledger import JudgeLine, Judgement, JudgementKey, Ledger, Source, read_ledger
from evaluation.metrics import Metrics
from evaluation.report_rows import ReportRow, make_row, write_row_scores
from evaluation.response_facts import ResponseFacts, fact_notes, response_facts
from evaluation.scoring import LEDGER_FILE, ceiling_sample, outcome_of, read_metrics
from evaluation.settled import settle

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
N_WORST_ROWS = 10
FEW_ROWS = 10
"""With fewer rows a bootstrap interval is far too narrow: a category gets no interval, and the report a note."""

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
    other_versions: dict[str, int]
    """Number of verdicts by each other version of the server that are included."""


Level = Literal["green", "amber", "red", "untested"]
"""How far to trust the judge. `untested` means that nobody knows."""


class JudgeVerdict(Frozen):
    """The verdict on the judge, shown beside every score that it gave."""

    level: Level
    reasons: tuple[str, ...]
    """Sentences, the most important first."""


UNTESTED = JudgeVerdict(level="untested", reasons=("The judge was not tested on control items.",))


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
    """Rows without a score. With several samples, a row counts here if none of its responses has a score."""
    responses: ResponseFacts
    reference_free: Mean
    """The rows without a reference. They count in no other mean, and not in `n`."""
    unanswered: int
    """Rows that the model was not asked about yet. They count under `no_response`."""
    sources: dict[Source, int]
    """Where the scores come from."""
    metrics: dict[str, Mean]
    stop_reasons: dict[str, int]
    categories: tuple[Category, ...]
    ceiling: Ceiling | None
    judge: JudgeSummary | None
    judge_verdict: JudgeVerdict | None = None
    """None without a judge."""
    judge_failed: bool = False
    """Whether the judge was asked and gave no usable verdict at all. Then there is no mean."""
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
    return make_report_with_rows(folder)[0]


def make_report_with_rows(folder: Path) -> tuple[Report, tuple[ReportRow, ...]]:
    """Return the report and all rows that have a line in the folder. See `make_report` for the errors."""
    answers = read_answers(folder)
    metrics = read_metrics(answers)
    ledger = read_ledger(answers.folder / LEDGER_FILE)
    judge = _judge_with_scores(answers, ledger)
    outcomes = ledger.outcomes(judge.fingerprint) if judge else None
    judge_failed = judge is not None and not _has_scored(answers, ledger, judge) and _is_needed(answers, ledger, judge)
    all_rows = [_scored_row(record, metrics.get(record.key), outcomes) for record in answers.responses]
    free_table = _table([row for row in all_rows if row.record.is_reference_free])
    rows = [row for row in all_rows if not row.record.is_reference_free]
    n_rows = answers.info.rows - len(free_table)
    table = _table(rows)
    scores = table["score"].dropna().tolist()
    headline: ScoreName = "judge" if judge else "exact"
    summary = _mean_of(scores, is_rate=not judge)
    unscored = _unscored(rows)
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
        n=n_rows,
        scored=summary.n,
        mean=None if judge_failed else summary.mean,
        interval=None if judge_failed else summary.interval,
        interval_method=BOOTSTRAP_METHOD if judge else WILSON_METHOD,
        standard_deviation=None if std is None else round(std, 4),
        smallest_difference=smallest_difference(std, summary.n),
        bounds=bounds(scores, n_rows),
        exact_matches=int((table["exact"] > 0).sum()),
        unscored={reason: unscored[reason] for reason in REASONS if unscored[reason]},
        responses=response_facts(answers),
        reference_free=mean_of_scores(free_table["score"].dropna().tolist()),
        unanswered=answers.unanswered,
        sources=dict(Counter(row.outcome.source for row in rows if row.outcome and row.outcome.source)),
        metrics=_metric_means(table),
        stop_reasons=dict(Counter(row.record.stop_reason for row in rows if row.record.stop_reason)),
        categories=_categories(headline, table),
        ceiling=_ceiling(answers, outcomes) if outcomes is not None else None,
        judge=_judge_summary(judge, ledger, outcomes or {}) if judge else None,
        judge_failed=judge_failed,
        judge_verdict=UNTESTED if judge else None,
        worst=_worst(rows),
        notes=(),
    )
    shown = tuple(make_row(row.record, row.metrics, row.score, row.unscored, row.outcome) for row in rows)
    return report.model_copy(update={"notes": tuple(_notes(report, ledger))}), shown


def write_report(folder: Path, report: Report, markdown: str) -> None:
    """Write `report.json` and `report.md` into the answers folder, each in one step."""
    write_atomic(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    write_atomic(folder / MARKDOWN_FILE, markdown)


def write_pages(folder: Path, rows: Sequence[ReportRow], page: str) -> None:
    """Write `report.html` and the scores of all rows into the answers folder, each in one step."""
    write_row_scores(folder, rows)
    write_atomic(folder / HTML_FILE, page)


# --- rows ---------------------------------------------------------------------------------------------------------


def _judge_with_scores(answers: AnswersFolder, ledger: Ledger) -> JudgeLine | None:
    """Return the judge that was asked last, unless it was needed and has not been asked about any row yet.

    Exact matches score 100 without the judge. If no row was judged, the mean over them would always be 100.
    """
    judge = ledger.newest_judge
    if judge is None:
        return None
    was_asked = any(
        outcome is not None and (outcome.source == "judge" or outcome.unscored not in {None, *WITHOUT_JUDGE})
        for outcome in _row_outcomes(answers, ledger, judge)
    )
    return judge if was_asked or not _is_needed(answers, ledger, judge) else None


def _has_scored(answers: AnswersFolder, ledger: Ledger, judge: JudgeLine) -> bool:
    return any(outcome and outcome.source == "judge" for outcome in _row_outcomes(answers, ledger, judge))


def _is_needed(answers: AnswersFolder, ledger: Ledger, judge: JudgeLine) -> bool:
    outcomes = _row_outcomes(answers, ledger, judge)
    return any(outcome is None or outcome.unscored not in {None, *WITHOUT_JUDGE} for outcome in outcomes)


def _row_outcomes(answers: AnswersFolder, ledger: Ledger, judge: JudgeLine) -> list[Judgement | None]:
    outcomes = ledger.outcomes(judge.fingerprint)
    return [outcomes.get(("score", record.id, record.response_hash)) for record in answers.responses]


def _scored_row(
    record: ResponseRecord, metrics: Metrics | None, outcomes: Mapping[JudgementKey, Judgement] | None
) -> _ScoredRow:
    score: float | None
    unscored: Reason | None
    outcome = None
    if outcomes is not None:
        score, unscored = outcome_of(record, outcomes)
        outcome = outcomes.get(("score", record.id, record.response_hash))
    else:
        settled = settle(record)
        if settled is not None:
            score, unscored = settled.points, settled.unscored
        else:  # without a judge, what does not match the reference counts as wrong
            score, unscored = (None, "not_judged") if record.is_reference_free else (0.0, None)
    return _ScoredRow(record=record, metrics=metrics, score=score, unscored=unscored, outcome=outcome)


def _table(rows: Sequence[_ScoredRow]) -> pd.DataFrame:
    """Return a table with one line per row: category, headline score and metrics. A missing value is NaN.

    Numbers are the means over the row's samples that have them.
    """
    import pandas as pd

    lines: list[dict[str, object]] = []
    for row in rows:
        line: dict[str, object] = {"id": row.record.id, "category": row.record.category, "score": row.score}
        line["ended"] = row.record.stop_reason == "eos"
        for name in Metrics.model_fields:
            value = getattr(row.metrics, name) if row.metrics else None
            line[name] = 100.0 * value if isinstance(value, bool) else value
        lines.append(line)
    table = pd.DataFrame(lines, columns=["id", "category", "score", "ended", *Metrics.model_fields])
    numbers = ["score", "ended", *Metrics.model_fields]
    table[numbers] = table[numbers].astype(float)
    if not table["id"].duplicated().any():
        return table
    how = {"category": "first"} | dict.fromkeys(numbers, "mean")
    return table.groupby("id", sort=False, as_index=False).agg(how)


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
    return {name: _mean_of(column, is_rate=name in RATES) for name, column in values.items()}


def _mean_of(values: Sequence[float], *, is_rate: bool) -> Mean:
    """Return the mean. A rate whose rows are means of several samples has the interval of a score."""
    return mean_of_rate(values) if is_rate and set(values) <= {0.0, 100.0} else mean_of_scores(values)


def _unscored(rows: Sequence[_ScoredRow]) -> Counter[Reason]:
    """Count the rows without any score under the reason of their last sample."""
    scored = {row.record.id for row in rows if row.score is not None}
    reasons = {row.record.id: row.unscored for row in rows if row.unscored and row.record.id not in scored}
    return Counter(reasons.values())


def _categories(headline: ScoreName, table: pd.DataFrame) -> tuple[Category, ...]:
    """Return the headline score by category, sorted by name. Rows without a category come last."""
    if table["category"].isna().all():
        return ()
    categories = []
    for name, group in table.groupby("category", dropna=False, sort=True):
        scores = group["score"].dropna().tolist()
        is_rate = headline == "exact" and set(scores) <= {0.0, 100.0}
        mean = mean_of_rate(scores) if is_rate else mean_of_scores(scores, min_rows=FEW_ROWS)
        categories.append(
            Category(
                **dict(mean),
                name=name if isinstance(name, str) else None,
                rows=len(group),
                exact_matches=int((group["exact"] > 0).sum()),
                chrf=plain_mean(group["chrf"].dropna().tolist()),
                ended=round(group["ended"].sum()),
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


def _judge_summary(judge: JudgeLine, ledger: Ledger, outcomes: Mapping[JudgementKey, Judgement]) -> JudgeSummary:
    versions = Counter(
        outcome.server_version
        for outcome in outcomes.values()
        if outcome.source == "judge" and outcome.server_version is not None
    )
    del versions[judge.identity.server_version]
    others = {line.fingerprint for line in ledger.judges} - {judge.fingerprint}
    return JudgeSummary(
        **judge.identity.model_dump(),
        url=judge.url,
        judge_fingerprint=judge.fingerprint,
        other_judges=len(others),
        other_versions=dict(versions),
    )


def _notes(report: Report, ledger: Ledger) -> list[str]:
    """Return what a reader must know before trusting the mean, one sentence each."""
    notes = []
    n_missing = report.n - report.scored
    if ledger.newest_judge is not None and report.judge is None:
        model = ledger.newest_judge.identity.model
        notes.append(f"The judge {model} scored no row, so the score is the rate of exact matches.")
    if report.judge_failed:
        notes.append("The judge gave no usable verdict, so there is no score. Exact matches alone do not make one.")
    if report.judge and report.judge.other_versions:
        counts = ", ".join(
            f"{count} of {version or 'unknown'}" for version, count in report.judge.other_versions.items()
        )
        notes.append(
            f"Not all verdicts are of the server's version {report.judge.server_version or 'unknown'}: {counts}. "
            f"evaluation score with --rejudge asks about them again."
        )
    if report.judge and report.judge.digest == UNVERIFIED:
        notes.append("The server names no digest of the judge, so nobody can check that it stayed the same model.")
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
    if report.judge and set(report.unscored) - WITHOUT_JUDGE and report.sources.get("exact"):
        notes.append("Exact matches always have a score and some judged rows do not, so the mean is likely too high.")
    if report.ceiling and report.ceiling.mean is not None and report.ceiling.mean < 90:
        matches = f"{report.ceiling.judged} exact {'match' if report.ceiling.judged == 1 else 'matches'}"
        notes.append(f"The judge gave {matches} {report.ceiling.mean:.0f} on average: its scores may be too low.")
    if report.interval and report.interval.low == report.interval.high:
        notes.append("All rows have the same score, so the interval has no meaning.")
    elif report.interval and report.judge and report.scored < FEW_ROWS:
        notes.append(f"Only {report.scored} rows have a score, so the interval is too narrow.")
    notes += fact_notes(report.responses)
    if n_cut := report.stop_reasons.get("length"):
        notes.append(f"{n_cut} {'response was' if n_cut == 1 else 'responses were'} cut at the token limit.")
    if report.judge and (n_others := report.judge.other_judges):
        judges = "judge" if n_others == 1 else "judges"
        notes.append(f"The ledger also has scores of {n_others} other {judges}. They are not included.")
    return notes
