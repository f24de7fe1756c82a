"""Confidence intervals, and the smallest difference that a test set can detect.

A mean of scores and a rate get one kind of interval: Clopper and Pearson's, for scores with an effective number of
rows. With a few hundred rows, mean +- 1.96 standard errors is too narrow, and for a rate it can leave 0..1 (Bowyer et
al., arXiv:2503.01747; Miller, arXiv:2411.00640). Wilson's interval of a rate near 0 or 1 covers 90 % at worst.
A percentile bootstrap is too narrow too if nearly all values are equal: it cannot see the rare bad row.
Functions import numpy and scipy only when they need them, so that commands start fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE, POWER = 0.95, 0.8
RESAMPLES = 10_000


class Interval(NamedTuple):
    """A confidence interval of 95 %."""

    low: float
    high: float

    def rounded(self, *, times: float = 1) -> Interval:
        """Return both ends, multiplied by `times` and rounded to four decimals."""
        return Interval(round(times * self.low, 4), round(times * self.high, 4))


def rate_interval(successes: int, n: int) -> Interval | None:
    """Clopper and Pearson's interval of the rate `successes / n`, within 0..1. None if `n` is 0."""
    return bounded_mean_interval([1.0] * successes + [0.0] * (n - successes), high=1.0)


def bounded_mean_interval(values: Sequence[float], *, low: float = 0.0, high: float = 100.0) -> Interval | None:
    """Interval of the mean of values that all lie in `low..high`. None if there are no values.

    This is Clopper and Pearson's interval with an effective number of rows. Values between the ends vary less than
    values that are only 0 or 1, so they count as more rows: n times the ratio of the two variances. Half a row at each
    end joins the values before the variances are taken, so equal values do not count as infinitely many rows. For
    values that are all at one of the ends, the result is exactly Clopper and Pearson's.
    """
    if not values:
        return None
    from scipy.special import betaincinv

    n, width = len(values), high - low
    shares = [(value - low) / width for value in values]
    total = math.fsum(shares)
    padded_mean = (total + 0.5) / (n + 1)
    padded_variance = (math.fsum(share * share for share in shares) + 0.5) / (n + 1) - padded_mean**2
    ratio = min(1.0, padded_variance / (padded_mean * (1 - padded_mean)))
    n_effective = n / ratio
    successes = min(max(total / ratio, 0.0), n_effective)
    failures = n_effective - successes
    tail = (1 - CONFIDENCE) / 2
    # Less than a thousand-millionth of a row is rounding: the mean is at the end itself.
    bottom = float(betaincinv(successes, failures + 1, tail)) if successes > 1e-9 else 0.0
    top = float(betaincinv(successes + 1, failures, 1 - tail)) if failures > 1e-9 else 1.0
    return Interval(low + width * bottom, low + width * top)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (divisor n - 1). None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def smallest_detectable_difference(std: float, n: int, *, correlation: float) -> float | None:
    """Smallest true difference of two means that a paired, two-sided test on `n` rows detects.

    The test has significance level 0.05 and statistical power 0.8. `std` is the standard deviation of one run's
    scores. `correlation` is the correlation of two runs' scores over the rows. The result has the unit of `std`, and is
    None for fewer than two rows.
    """
    if n < 2:
        return None
    std_of_differences = std * math.sqrt(2 * (1 - correlation))
    quantile = NormalDist().inv_cdf
    return (quantile((1 + CONFIDENCE) / 2) + quantile(POWER)) * std_of_differences / math.sqrt(n)
