"""Two runs on the same rows: is their difference more than chance?

Every function takes differences, one per row: the second run's value minus the first's. The sign-flip test decides. It
needs no assumption about the values but one: two runs of equal quality could have swapped theirs on every row. The
bootstrap interval says how large the difference may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from assistant.statistics import CONFIDENCE, RESAMPLES, Interval, smallest_detectable_difference, standard_deviation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT_SIGN_FLIPS = 13
"""Up to this many rows that differ, all sign patterns (8,192) are counted. Beyond it, `RESAMPLES` are drawn."""


def paired_bootstrap_interval(differences: Sequence[float], *, seed: int) -> Interval | None:
    """Bootstrap interval of the mean difference, in the unit of the differences.

    The percentiles are wider than 95 % by the ratio of Student's to the normal quantile, and by
    sqrt(n / (n - 1)), because a plain percentile interval is too narrow for few rows (Hesterberg, arXiv:1411.5279,
    section 5.2). None if fewer than two rows differ: such data cannot say how large a difference may be.
    """
    n = len(differences)
    if n < 2 or sum(difference != 0 for difference in differences) < 2:
        return None
    import numpy as np
    from scipy.stats import t

    values = np.asarray(differences, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    step = max(1, 2_000_000 // n)  # at most 16 MB of indices at once
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        means[start : start + size] = values[rng.integers(0, n, size=(size, n))].mean(axis=1)
    quantile = math.sqrt(n / (n - 1)) * float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
    tail = NormalDist().cdf(-quantile)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def sign_flip_p_value(differences: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> float:
    """Two-sided mid-p-value of the mean difference, by flipping the signs of the differences. 1 if no row differs.

    It is the share of sign patterns whose mean is farther from 0 than the measured one, plus half the share of those
    whose mean is as far. If few rows differ, few values of p are possible, and the ordinary p-value, which counts the
    latter in full, calls noise a difference in far less than 5 of 100 comparisons (Lancaster 1961). See
    benchmarks/RESULTS.md for both.
    """
    import numpy as np

    values = np.asarray([difference for difference in differences if difference != 0], dtype=float)
    n = len(values)
    if n == 0:
        return 1.0
    measured = abs(values.sum())
    rounding = 1e-10 * np.abs(values).sum()  # sums of the same values in another order are rounded otherwise

    def extreme(signs: NDArray[np.int8]) -> float:
        """Return how many sign patterns of (patterns, n) are as extreme. Those that are just as far count half."""
        distances = np.abs(signs @ values) - measured
        return float(np.mean([np.count_nonzero(distances > rounding), np.count_nonzero(distances >= -rounding)]))

    if n <= EXACT_SIGN_FLIPS:
        patterns = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.int8)
        return extreme(2 * patterns - 1) / len(patterns)
    rng = np.random.default_rng(seed)
    count = 0.5  # the measured pattern itself
    step = max(1, 2_000_000 // n)
    for start in range(0, resamples, step):
        signs = rng.integers(0, 2, size=(min(step, resamples - start), n), dtype=np.int8)
        count += extreme(2 * signs - 1)
    return count / (resamples + 1)


def sign_test_p_value(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test. Ties do not count. 1 if there are neither wins nor losses."""
    return float(sign_test_p_values(wins + losses)[wins])


def sign_test_p_values(n: int) -> NDArray[np.float64]:
    """Return the two-sided p-value of the exact sign test for 0 to `n` wins of `n` rows that differ, (n + 1)."""
    import numpy as np

    tail = np.cumsum(coin_probabilities(n))
    wins = np.arange(n + 1)
    return np.minimum(1.0, 2.0 * tail[np.minimum(wins, n - wins)])


def coin_probabilities(n: int) -> NDArray[np.float64]:
    """Return the probabilities of 0 to `n` heads of `n` fair coins, (n + 1)."""
    import numpy as np

    heads = np.arange(n)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - heads) / (heads + 1)))])
    shares: NDArray[np.float64] = np.exp(logs - logs.max())
    return shares / np.sum(shares)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm, in the given order. They keep the error rate of all tests together."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation over the rows. None for fewer than two rows, or if one run's values are all equal."""
    std_first, std_second = standard_deviation(first), standard_deviation(second)
    if not std_first or not std_second:
        return None
    mean_first, mean_second = math.fsum(first) / len(first), math.fsum(second) / len(second)
    products = ((a - mean_first) * (b - mean_second) for a, b in zip(first, second, strict=True))
    return math.fsum(products) / (len(first) - 1) / (std_first * std_second)


def detectable_difference(differences: Sequence[float]) -> float | None:
    """Smallest true difference that these rows show with a power of 0.8, from the measured spread of the differences.

    The spread contains the runs' measured correlation. None for fewer than two rows, or if all differences are equal.
    """
    std = standard_deviation(differences)
    if not std:
        return None
    return smallest_detectable_difference(std / math.sqrt(2), len(differences), correlation=0.0)
