"""Figures that summarise a list of scores: mean with interval, bounds, and the smallest detectable difference.

All scores go from 0 to 100. A figure without data is None and never 0. Does not know rows, judges or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from assistant.settings import Frozen
from assistant.statistics import Interval, bounded_mean_interval, smallest_detectable_difference

PASS_MARK = 80.0
"""A response is right from this number of points."""
CORRELATION_OF_RUNS = 0.35
"""Correlation of two models' scores over the rows, as measured with Llama-3-8B as the judge and n = 99."""

INTERVAL_METHOD = "Clopper-Pearson with the effective number of rows, 95 %"
"""Of every mean. For a rate, whose values are all 0 or 100, this is Clopper and Pearson's own interval."""


class Mean(Frozen):
    """A mean of `n` values and its 95 % interval. None if there are no data."""

    n: int
    mean: float | None
    interval: Interval | None


class Bounds(Frozen):
    """The mean if every row without a score got 0, and if every such row got 100."""

    low: float
    high: float


class SmallestDifference(Frozen):
    """The smallest difference between two runs on the same rows that a paired comparison detects."""

    points: float
    power: float = 0.8
    assumed_correlation: float = CORRELATION_OF_RUNS


def counted(n: int, noun: str = "row") -> str:
    """Return a number of things in words: `1 row`, `2 rows`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def mean_of_scores(values: Sequence[float], *, high: float = 100.0) -> Mean:
    """Return the mean and the interval of values from 0 to `high`. The interval is honest for few rows too.

    The values of a rate are each 0 or 100; its interval is Clopper and Pearson's.
    """
    return _mean(values, bounded_mean_interval(values, high=high))


def plain_mean(values: Sequence[float]) -> float | None:
    """Return the mean without an interval, rounded to four decimals. None if there are no values."""
    return _mean(values, None).mean


def _mean(values: Sequence[float], interval: Interval | None) -> Mean:
    if not values:
        return Mean(n=0, mean=None, interval=None)
    mean = round(math.fsum(values) / len(values), 4)
    return Mean(n=len(values), mean=mean, interval=interval and interval.rounded())


def bounds(scores: Sequence[float], n: int) -> Bounds | None:
    """Return the bounds of the mean over `n` rows, of which only some have one of the `scores`. None if `n` is 0."""
    if n == 0:
        return None
    total, n_missing = math.fsum(scores), n - len(scores)
    return Bounds(low=round(total / n, 4), high=round((total + 100 * n_missing) / n, 4))


def smallest_difference(std: float | None, n: int) -> SmallestDifference | None:
    """Return the smallest detectable difference for scores with this standard deviation, on `n` rows.

    None if the standard deviation is not known or 0.
    """
    if not std:
        return None
    points = smallest_detectable_difference(std, n, correlation=CORRELATION_OF_RUNS)
    return None if points is None else SmallestDifference(points=round(points, 2))
