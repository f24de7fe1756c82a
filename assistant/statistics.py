"""Intervals and the smallest difference a test set can show. scipy does the work and is imported where it is used.

Means get a seeded percentile bootstrap, rates a Wilson interval: at a few hundred rows mean +- 1.96 standard errors is
too narrow, and on a rate it leaves 0..1 (Bowyer et al., arXiv:2503.01747; Miller, arXiv:2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
RESAMPLES = 10_000


class Interval(NamedTuple):
    """Where the true value lies with 95 % confidence."""

    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval | None:
    """Wilson's interval of a rate, within 0..1. None for no trials."""
    if n == 0:
        return None
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(low), float(high))


def bootstrap_mean_interval(
    values: Sequence[float], *, seed: int, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """Percentile bootstrap of the mean, the same for the same values in the same order and seed.

    None for fewer than two values. Where all values are equal it has no width, which says little about the next row.
    """
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return Interval(float(values[0]), float(values[0]))
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(values)),  # at most 16 MB at a time
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def standard_deviation(values: Sequence[float]) -> float | None:
    """With n - 1 below the line; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def smallest_detectable_difference(
    spread: float, n: int, *, correlation: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest true difference of two means that a paired comparison on `n` rows finds with `power`.

    `spread` is the standard deviation of one run's scores; `correlation` is how far the scores of two runs go together
    row by row. In the unit of `spread`; two-sided at `alpha`. None below two rows.
    """
    if n < 2:
        return None
    spread_of_differences = spread * math.sqrt(2 * (1 - correlation))
    quantile = NormalDist().inv_cdf
    return (quantile(1 - alpha / 2) + quantile(power)) * spread_of_differences / math.sqrt(n)
