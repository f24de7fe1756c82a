"""How well a judge repeats itself: the same questions asked several times, and what its scores have in common.

Temperature 0 does not make a judge repeat itself on every server. Does not know how a judge is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from assistant.settings import Frozen
from assistant.statistics import Interval, rate_interval


class Repeatability(Frozen):
    """How much the scores of equal questions differ. Scores go from 0 to 100, and shares, too."""

    items: int
    """Questions with at least two scores. The other figures are about these."""
    verdicts: int
    """Their scores, all together."""
    missing: int
    """Verdicts of all questions that gave no score."""
    equal: float | None
    """Share of the items whose scores are all equal."""
    equal_interval: Interval | None
    sd: float | None
    """Standard deviation of one score around the mean of its item, in points."""
    largest: float | None
    """Largest difference between two scores of one item, in points."""
    icc: float | None
    """Intraclass correlation, ICC(1,1): the share of the scores' variance that lies between the items and not in the
    repetition. At most 1; None if all scores of all items are equal, or with one item."""


def repeatability(scores: Sequence[Sequence[float | None]]) -> Repeatability:
    """Summarise repeated scores. `scores` holds the scores of each question; None is a verdict without a score."""
    known = [[score for score in item if score is not None] for item in scores]
    items = [item for item in known if len(item) > 1]
    n_equal = sum(min(item) == max(item) for item in items)
    interval = rate_interval(n_equal, len(items))
    return Repeatability(
        items=len(items),
        verdicts=sum(map(len, items)),
        missing=sum(score is None for item in scores for score in item),
        equal=round(100 * n_equal / len(items), 4) if items else None,
        equal_interval=interval and interval.rounded(times=100),
        sd=_rounded(math.sqrt(_within(items)) if items else None),
        largest=max((max(item) - min(item) for item in items), default=None),
        icc=_rounded(_icc(items)),
    )


def _icc(items: Sequence[Sequence[float]]) -> float | None:
    """Return ICC(1,1) by a one-way analysis of variance (Shrout and Fleiss, 1979). Items may differ in length."""
    n = sum(map(len, items))
    if len(items) < 2:
        return None
    grand = math.fsum(score for item in items for score in item) / n
    means = [math.fsum(item) / len(item) for item in items]
    spread = math.fsum(len(item) * (mean - grand) ** 2 for item, mean in zip(items, means, strict=True))
    between, within = spread / (len(items) - 1), _within(items)
    # The mean number of scores of an item, corrected for unequal lengths.
    length = (n - sum(len(item) ** 2 for item in items) / n) / (len(items) - 1)
    total = between + (length - 1) * within
    return (between - within) / total if total > 0 else None


def _within(items: Sequence[Sequence[float]]) -> float:
    """Return the mean square within the items: the variance of one score around the mean of its item."""
    squares = [(score - math.fsum(item) / len(item)) ** 2 for item in items for score in item]
    return math.fsum(squares) / (len(squares) - len(items))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
