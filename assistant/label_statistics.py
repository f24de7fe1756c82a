"""People's labels against a judge's scores: agreement, and the mean that the labels correct.

Labels and scores go from 0 to 100 and stand in the same order. Functions import numpy and scipy when they need them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from assistant.statistics import CONFIDENCE, RESAMPLES, Interval, bounded_mean_interval

MIN_LABELS = 15
"""With fewer labels their spread is too uncertain for an interval, so there is no corrected mean."""


class Estimate(NamedTuple):
    """A figure and its 95 % interval. The interval is None if the data do not allow one."""

    value: float
    interval: Interval | None


# --- agreement ----------------------------------------------------------------------------------------------------


def weighted_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Cohen's kappa with quadratic weights: 1 for equal values, 0 for the agreement that chance gives.

    It is 1 minus the mean squared difference of the pairs, divided by that of all combinations of a first and a second
    value. For categories with equal distances this equals the usual formula with a table of counts. None if there are
    no values or all values are equal, because chance then agrees fully.
    """
    n = len(first)
    if n == 0:
        return None
    observed = math.fsum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / n
    mean_first, mean_second = math.fsum(first) / n, math.fsum(second) / n
    by_chance = (
        math.fsum((a - mean_first) ** 2 for a in first) / n
        + math.fsum((b - mean_second) ** 2 for b in second) / n
        + (mean_first - mean_second) ** 2
    )
    return None if by_chance == 0 else 1 - observed / by_chance


def weighted_kappa_with_interval(first: Sequence[float], second: Sequence[float], *, seed: int) -> Estimate | None:
    """Return kappa and a bootstrap interval over the rows. See `weighted_kappa`."""
    kappa = weighted_kappa(first, second)
    if kappa is None:
        return None
    n = len(first)
    if n < 3:
        return Estimate(kappa, None)
    import numpy as np

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    rows = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES // 5, n))
    a, b = a[rows], b[rows]
    by_chance = a.var(axis=1) + b.var(axis=1) + (a.mean(axis=1) - b.mean(axis=1)) ** 2
    usable = by_chance > 0
    if not usable.any():
        return Estimate(kappa, None)
    kappas = 1 - ((a - b) ** 2).mean(axis=1)[usable] / by_chance[usable]
    low, high = np.quantile(kappas, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(kappa, Interval(float(low), float(high)))


def spearman(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Spearman's rank correlation and its interval on Fisher's scale (Bonett and Wright 2000).

    None for fewer than three rows, or if one side's values are all equal.
    """
    n = len(first)
    if n < 3 or min(first) == max(first) or min(second) == max(second):
        return None
    from scipy.stats import norm, spearmanr

    rho = float(spearmanr(first, second).statistic)
    if n < 5 or abs(rho) > 1 - 1e-12:
        return Estimate(rho, None)
    half_width = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    centre = math.atanh(rho)
    return Estimate(rho, Interval(math.tanh(centre - half_width), math.tanh(centre + half_width)))


def mean_absolute_error(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Mean absolute difference, in points, and its interval. None if there are no values."""
    errors = [abs(a - b) for a, b in zip(first, second, strict=True)]
    if not errors:
        return None
    return Estimate(math.fsum(errors) / len(errors), bounded_mean_interval(errors))


# --- the corrected mean -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """Rows whose scores have the same origin. `labels` and `labelled_scores` belong to the same rows, in order."""

    labels: Sequence[float]
    labelled_scores: Sequence[float]
    other_scores: Sequence[float]
    """Scores of the rows without a label."""

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return len(self.labels) + len(self.other_scores)


@dataclass(frozen=True, kw_only=True, slots=True)
class _StratumMean:
    weight: float
    mean: float
    variance: float
    degrees: int | None
    """Degrees of freedom of the variance. None if it does not come from labels."""


class CorrectedMean(NamedTuple):
    """A mean of scores that labels corrected."""

    mean: float
    interval: Interval


def corrected_mean(strata: Sequence[Stratum]) -> CorrectedMean | None:
    """Return the mean label that people would give, from a few labels and the judge's score of every row.

    This is PPI++ (Angelopoulos et al., arXiv:2311.01453), stratified. In each stratum the labels correct the scores,
    and a power-tuned factor from 0 to 1 says how much the scores count: 0 is the mean of the labels alone. The interval
    is for new rows of the same kind, so it contains the chance of the rows as well as that of the labels. The labels of
    a stratum must be a random sample of it. A stratum with fewer than two labels keeps its scores.

    None for fewer than `MIN_LABELS` labels in the strata with at least two.
    """
    strata = [stratum for stratum in strata if stratum.rows]
    rows = sum(stratum.rows for stratum in strata)
    if sum(len(stratum.labels) for stratum in strata if len(stratum.labels) >= 2) < MIN_LABELS:
        return None
    from scipy.stats import t

    parts = [_stratum_mean(stratum, rows) for stratum in strata]
    mean = math.fsum(part.weight * part.mean for part in parts)
    # The shares of the strata are random too: other rows would hold more or fewer exact matches.
    shares = math.fsum(part.weight * (part.mean - mean) ** 2 for part in parts) / rows
    within = [part.weight**2 * part.variance for part in parts]
    variance = math.fsum(within) + shares
    # Welch and Satterthwaite: the variance is as uncertain as its largest part.
    uncertain = math.fsum(
        value**2 / part.degrees for value, part in zip(within, parts, strict=True) if part.degrees is not None
    ) + shares**2 / (rows - 1)
    degrees = variance**2 / uncertain if uncertain > 0 else float(rows - 1)
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, degrees)) * math.sqrt(variance)
    return CorrectedMean(mean, Interval(max(0.0, mean - half_width), min(100.0, mean + half_width)))


def _stratum_mean(stratum: Stratum, rows: int) -> _StratumMean:
    weight = stratum.rows / rows
    if len(stratum.labels) < 2:
        scores = [*stratum.labelled_scores, *stratum.other_scores]
        variance = _variance(scores) / len(scores) if len(scores) > 1 else 0.0
        return _StratumMean(weight=weight, mean=math.fsum(scores) / len(scores), variance=variance, degrees=None)
    mean, variance = ppi_mean(stratum.labels, stratum.labelled_scores, stratum.other_scores)
    return _StratumMean(weight=weight, mean=mean, variance=variance, degrees=len(stratum.labels) - 1)


def ppi_mean(
    labels: Sequence[float],
    labelled_scores: Sequence[float],
    other_scores: Sequence[float],
    *,
    factor: float | None = None,
) -> tuple[float, float]:
    """Return the PPI++ mean and its variance. Without `factor`, the one with the smallest variance is used.

    Raises:
        ValueError: there are fewer than two labels.
    """
    n, n_other = len(labels), len(other_scores)
    if n < 2 or n != len(labelled_scores):
        raise ValueError(f"labels: expected at least two, each with a score, got {n} and {len(labelled_scores)}")
    if n_other == 0:
        return math.fsum(labels) / n, _variance(labels) / n
    spread = _variance([*labelled_scores, *other_scores])
    if factor is None:
        factor = 0.0
        if spread > 0:
            mean_label, mean_score = math.fsum(labels) / n, math.fsum(labelled_scores) / n
            products = ((y - mean_label) * (f - mean_score) for y, f in zip(labels, labelled_scores, strict=True))
            covariance = math.fsum(products) / (n - 1)
            factor = min(1.0, max(0.0, covariance / ((1 + n / n_other) * spread)))
    residuals = [label - factor * score for label, score in zip(labels, labelled_scores, strict=True)]
    mean = factor * math.fsum(other_scores) / n_other + math.fsum(residuals) / n
    return mean, _variance(residuals) / n + factor**2 * spread / n_other


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
