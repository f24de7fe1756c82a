"""The report: one value that sums up a scored answers folder. `report.json` contains it, and every table shows it.

A figure without data is None and never 0. A row without a score does not count in the means; it is counted under its
reason. Does not know how the report looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.files import write_atomic
from assistant.statistics import standard_deviation
from evaluation.answers.folder import ResponseRecord, read_answers
from evaluation.answers.metrics import Metrics
from evaluation.answers.response_facts import response_facts
from evaluation.figures import (
    INTERVAL_METHOD,
    PASS_MARK,
    Mean,
    bounds,
    mean_of_scores,
    plain_mean,
    smallest_difference,
)
from evaluation.judging.judgement import REASONS, Reason
from evaluation.judging.ledger import Judgement, JudgementKey, read_ledger
from evaluation.judging.row_outcome import headline_score
from evaluation.judging.scoring import LEDGER_FILE, read_metrics
from evaluation.judging.settled import settle
from evaluation.people.agreement import Agreement, RowScore, measure_agreement
from evaluation.people.labels import label_scores, read_labels
from evaluation.reports.judge_findings import (
    ceiling,
    corrected_rate_of,
    has_failed,
    judge_summary,
    judge_with_scores,
    trust_in_judge,
)
from evaluation.reports.notes import report_notes
from evaluation.reports.rows import ReportRow, ScoredRow, write_row_scores
from evaluation.reports.values import Category, Report, ScoreName, ShownRow

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
N_WORST_ROWS = 10


def make_report(folder: Path, *, pass_mark: float = PASS_MARK) -> Report:
    """Read a scored answers folder and summarise it.

    Raises:
        DataError: the folder is not an answers folder, or has responses that were not scored yet.
    """
    return make_report_with_rows(folder, pass_mark=pass_mark)[0]


def make_report_with_rows(folder: Path, *, pass_mark: float = PASS_MARK) -> tuple[Report, tuple[ReportRow, ...]]:
    """Return the report and all rows that have a line in the folder. See `make_report` for the errors."""
    answers = read_answers(folder)
    metrics = read_metrics(answers)
    ledger = read_ledger(answers.folder / LEDGER_FILE)
    judge = judge_with_scores(answers, ledger)
    outcomes = ledger.outcomes(judge.fingerprint) if judge else None
    judge_failed = judge is not None and has_failed(answers, ledger, judge)
    all_rows = [_scored_row(record, metrics.get(record.key), outcomes) for record in answers.responses]
    # Rates and labels count rows. The responses to one row are no independent rows, so they take the first one.
    first = [row for row in all_rows if row.record.sample == 0 and not row.record.is_reference_free]
    free_table = _table([row for row in all_rows if row.record.is_reference_free])
    rows = [row for row in all_rows if not row.record.is_reference_free]
    n_rows = answers.info.rows - len(free_table)
    trust = None if outcomes is None else trust_in_judge(outcomes, pass_mark)
    labels = label_scores(read_labels(answers).values())
    table = _table(rows)
    scores = table["score"].dropna().tolist()
    headline: ScoreName = "judge" if judge else "exact"
    summary = mean_of_scores(scores)
    unscored = _unscored(rows)
    unscored["no_response"] += answers.unanswered
    std = standard_deviation(scores)
    report = Report(
        run=str(folder),
        **answers.info.model_dump(include={"name", "kind", "template", "data_files", "part"}),
        score=headline,
        n=n_rows,
        scored=summary.n,
        mean=None if judge_failed else summary.mean,
        interval=None if judge_failed else summary.interval,
        interval_method=INTERVAL_METHOD,
        standard_deviation=None if std is None else round(std, 4),
        smallest_difference=smallest_difference(std, summary.n),
        bounds=bounds(scores, n_rows),
        exact_matches=int((table["exact"] > 0).sum()),
        unscored={reason: unscored[reason] for reason in REASONS if unscored[reason]},
        responses=response_facts(answers),
        reference_free=mean_of_scores(free_table["score"].dropna().tolist()),
        reference_free_rows=len(free_table),
        unanswered=answers.unanswered,
        sources=dict(Counter(row.outcome.source for row in rows if row.outcome and row.outcome.source)),
        metrics=_metric_means(table),
        stop_reasons=dict(Counter(row.record.stop_reason for row in rows if row.record.stop_reason)),
        categories=_categories(table),
        ceiling=ceiling(answers, outcomes) if outcomes is not None else None,
        judge=judge_summary(judge, ledger, outcomes or {}) if judge else None,
        judge_failed=judge_failed,
        judge_verdict=trust,
        corrected_rate=corrected_rate_of([row.outcome for row in first if row.outcome], trust) if trust else None,
        agreement=_agreement(labels, first),
        doubted=sum(row.outcome is not None and row.outcome.doubt is not None for row in rows),
        worst=_worst(rows),
        notes=(),
    )
    shown = tuple(row.shown(labels.get(row.label_key)) for row in all_rows)
    return report.model_copy(update={"notes": tuple(report_notes(report, ledger))}), shown


def _agreement(labels: Mapping[tuple[str, int], float], rows: Sequence[ScoredRow]) -> Agreement | None:
    """Compare people's labels with the scores. None without labels."""
    if not labels:
        return None
    return measure_agreement(
        [
            RowScore(
                id=row.record.key,
                score=row.score,
                label=labels.get(row.label_key),
                is_settled=settle(row.record) is not None,
            )
            for row in rows
            if row.score is not None
        ]
    )


def write_report(folder: Path, report: Report, markdown: str) -> None:
    """Write `report.json` and `report.md` into the answers folder, each in one step."""
    write_atomic(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    write_atomic(folder / MARKDOWN_FILE, markdown)


def write_pages(folder: Path, rows: Sequence[ReportRow], page: str) -> None:
    """Write `report.html` and the scores of all rows into the answers folder, each in one step."""
    write_row_scores(folder, rows)
    write_atomic(folder / HTML_FILE, page)


# --- rows ---------------------------------------------------------------------------------------------------------


def _scored_row(
    record: ResponseRecord, metrics: Metrics | None, outcomes: Mapping[JudgementKey, Judgement] | None
) -> ScoredRow:
    score, unscored = headline_score(record, outcomes)
    outcome = None if outcomes is None else outcomes.get(("score", record.id, record.response_hash))
    return ScoredRow(record=record, metrics=metrics, score=score, unscored=unscored, outcome=outcome)


def _table(rows: Sequence[ScoredRow]) -> pd.DataFrame:
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


def _worst(rows: Sequence[ScoredRow]) -> tuple[ShownRow, ...]:
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
    return {name: mean_of_scores(column) for name, column in values.items()}


def _unscored(rows: Sequence[ScoredRow]) -> Counter[Reason]:
    """Count the rows without any score under the reason of their last sample."""
    scored = {row.record.id for row in rows if row.score is not None}
    reasons = {row.record.id: row.unscored for row in rows if row.unscored and row.record.id not in scored}
    return Counter(reasons.values())


def _categories(table: pd.DataFrame) -> tuple[Category, ...]:
    """Return the headline score by category, sorted by name. Rows without a category come last."""
    if table["category"].isna().all():
        return ()
    categories = []
    for name, group in table.groupby("category", dropna=False, sort=True):
        scores = group["score"].dropna().tolist()
        mean = mean_of_scores(scores)
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
