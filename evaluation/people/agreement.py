"""People against the judge: how well their labels agree with its scores, and the mean that the labels correct.

Does not know where the labels come from and asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from assistant.label_statistics import (
    MIN_LABELS,
    Estimate,
    Stratum,
    corrected_mean,
    mean_absolute_error,
    spearman,
    weighted_kappa_with_interval,
)
from assistant.settings import Frozen
from assistant.statistics import Interval

AGREEMENT_SEED = 123
CORRECTION_METHOD = "PPI++, by settled or judged, 95 %"

Points = Annotated[float, Field(ge=0, le=100)]


class RowScore(Frozen):
    """One scored row, and a person's label of it if there is one."""

    id: str
    score: Points
    """The row's headline score: the judge's, or the one that settled it."""
    label: Points | None = None
    is_settled: bool = False
    """True if the score did not need the judge (an exact match, an empty response, a check)."""


class Figure(Frozen):
    """A figure and its 95 % interval. The interval is None if the labels are too few for one."""

    value: float
    interval: Interval | None


class HumanCorrectedMean(Frozen):
    """The mean label that people would give to all rows."""

    mean: float
    interval: Interval
    raw_mean: float
    """The mean of the scores without the labels."""
    method: str = CORRECTION_METHOD


class Agreement(Frozen):
    """People's labels against the judge's scores. The figures are over the labelled rows that the judge scored."""

    rows: int
    labels: int
    labels_of_judged_rows: int
    kappa: Figure | None
    """Quadratic-weighted kappa: 1 is full agreement, 0 is chance."""
    spearman: Figure | None
    mean_absolute_error: Figure | None
    """In points."""
    mean_difference: float | None
    """The judge's score minus the label, on average. Positive if the judge is too kind."""
    corrected: HumanCorrectedMean | None
    notes: tuple[str, ...]


def measure_agreement(rows: Sequence[RowScore]) -> Agreement:
    """Compare labels with scores, and correct the mean of all rows.

    `rows` holds every row with a score. The labelled rows must be drawn at random from those that are not settled.
    Labels of settled rows are used too; they must be drawn at random from the settled rows.
    """
    labelled = [row for row in rows if row.label is not None]
    judged = [row for row in labelled if not row.is_settled]
    labels = [row.label for row in judged if row.label is not None]
    scores = [row.score for row in judged]
    difference = sum(scores) / len(scores) - sum(labels) / len(labels) if labels else None
    corrected = _corrected(rows)
    return Agreement(
        rows=len(rows),
        labels=len(labelled),
        labels_of_judged_rows=len(judged),
        kappa=_figure(weighted_kappa_with_interval(labels, scores, seed=AGREEMENT_SEED)),
        spearman=_figure(spearman(labels, scores)),
        mean_absolute_error=_figure(mean_absolute_error(labels, scores)),
        mean_difference=None if difference is None else round(difference, 4),
        corrected=corrected,
        notes=tuple(_notes(rows, len(labels), corrected)),
    )


def _corrected(rows: Sequence[RowScore]) -> HumanCorrectedMean | None:
    strata = [_stratum([row for row in rows if row.is_settled == settled]) for settled in (True, False)]
    judged = strata[1]
    if judged.rows and len(judged.labels) < min(MIN_LABELS, judged.rows):
        return None
    result = corrected_mean(strata)
    if result is None:
        return None
    return HumanCorrectedMean(
        mean=round(result.mean, 4),
        interval=result.interval.rounded(),
        raw_mean=round(sum(row.score for row in rows) / len(rows), 4),
    )


def _stratum(rows: Sequence[RowScore]) -> Stratum:
    return Stratum(
        labels=[row.label for row in rows if row.label is not None],
        labelled_scores=[row.score for row in rows if row.label is not None],
        other_scores=[row.score for row in rows if row.label is None],
    )


def _notes(rows: Sequence[RowScore], n_judged_labels: int, corrected: HumanCorrectedMean | None) -> list[str]:
    notes = []
    if corrected is None:
        notes.append(
            f"{n_judged_labels} labels of judged rows are too few to correct the mean: it needs {MIN_LABELS}. "
            "Label more rows with evaluation label."
        )
    if corrected is not None and any(row.is_settled for row in rows):
        n_settled_labels = sum(row.is_settled and row.label is not None for row in rows)
        if n_settled_labels < 2:
            notes.append("The corrected mean takes the scores of settled rows as right, because none was labelled.")
    return notes


def _figure(estimate: Estimate | None) -> Figure | None:
    if estimate is None:
        return None
    return Figure(value=round(estimate.value, 4), interval=estimate.interval and estimate.interval.rounded())
