"""Confidence intervals, and the smallest difference that a test set can detect.

A mean gets a seeded percentile bootstrap, a rate gets a Wilson interval. With a few hundred rows, mean +- 1.96 standard
errors is too narrow, and for a rate it can leave 0..1 (Bowyer et al., arXiv:2503.01747; Miller, arXiv:2411.00640).
Functions import numpy and scipy only when they need them, so that commands start fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
RESAMPLES = 10_000


class Interval(NamedTuple):
    """A confidence interval, 95 % by default."""

    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval | None:
    """Wilson score interval of the rate `successes / n`, within 0..1. None if `n` is 0."""
    if n == 0:
        return None
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(low), float(high))


def bootstrap_mean_interval(
    values: Sequence[float], *, seed: int, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """Percentile bootstrap interval of the mean. The same values, in the same order, and seed give the same interval.

    Returns None for fewer than two values. If all values are equal, the interval has no width; this does not mean that
    the next row has the same value.
    """
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return Interval(float(values[0]), float(values[0]))
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(values)),  # at most 16 MB per batch
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def standard_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (divisor n - 1). None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def smallest_detectable_difference(
    std: float, n: int, *, correlation: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Smallest true difference of two means that a paired, two-sided test on `n` rows detects.

    The test has significance level `alpha` and statistical power `power`. `std` is the standard deviation of one run's
    scores. `correlation` is the correlation of two runs' scores over the rows. The result has the unit of `std`, and is
    None for fewer than two rows.
    """
    if n < 2:
        return None
    std_of_differences = std * math.sqrt(2 * (1 - correlation))
    quantile = NormalDist().inv_cdf
    return (quantile(1 - alpha / 2) + quantile(power)) * std_of_differences / math.sqrt(n)
