"""Confidence intervals, compared with formulas and independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assistant.statistics import (
    bounded_mean_interval,
    rate_interval,
    smallest_detectable_difference,
    standard_deviation,
)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_a_rate_equals_scipys_exact_one_and_contains_the_rate(trial: tuple[int, int]) -> None:
    k, n = trial
    interval = rate_interval(k, n)
    assert interval is not None
    assert interval == pytest.approx(tuple(stats.binomtest(k, n).proportion_ci(0.95, method="exact")), abs=1e-8)
    assert -1e-12 <= interval.low <= k / n <= interval.high <= 1 + 1e-12
    assert interval.low < interval.high


@pytest.mark.parametrize("n", [1, 2, 10, 30, 110])
def test_interval_of_a_rate_covers_at_least_95_percent_of_every_rate(n: int) -> None:
    intervals = [rate_interval(k, n) or (1, 0) for k in range(n + 1)]
    for true in np.linspace(0.001, 0.999, 200):
        chances = stats.binom.pmf(np.arange(n + 1), n, true)
        covered = sum(chance for chance, (low, high) in zip(chances, intervals, strict=True) if low <= true <= high)
        assert covered >= 0.95 - 1e-9


def test_interval_of_the_book_exact_matches() -> None:
    interval = rate_interval(17, 110)
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.0927, 0.2359)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_zeros_and_hundreds_is_that_of_clopper_and_pearson(trial: tuple[int, int]) -> None:
    k, n = trial
    low, high = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert bounded_mean_interval([100.0] * k + [0.0] * (n - k)) == pytest.approx((100 * low, 100 * high), abs=1e-6)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60))
def test_interval_of_a_bounded_mean_contains_the_mean_and_stays_within_the_bounds(values: list[float]) -> None:
    interval = bounded_mean_interval(values)
    assert interval is not None
    assert 0 <= interval.low <= math.fsum(values) / len(values) + 1e-6
    assert math.fsum(values) / len(values) - 1e-6 <= interval.high <= 100
    assert interval.low < interval.high


def test_interval_of_a_bounded_mean_agrees_with_the_t_interval_for_many_rows() -> None:
    values = np.random.default_rng(0).normal(50, 10, 5000)
    expected = stats.t.interval(0.95, 4999, values.mean(), stats.sem(values))
    assert bounded_mean_interval(values.tolist()) == pytest.approx(expected, abs=0.03)


def test_too_few_values_have_no_interval() -> None:
    assert bounded_mean_interval([]) is None
    assert rate_interval(0, 0) is None
    assert standard_deviation([50]) is None


@given(st.lists(st.floats(0, 100), min_size=2, max_size=50))
def test_standard_deviation_equals_numpy(values: list[float]) -> None:
    assert standard_deviation(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)


@pytest.mark.parametrize(("n", "points"), [(100, 9.9), (110, 9.4), (200, 7.0), (500, 4.4), (1000, 3.1)])
def test_smallest_difference_for_the_published_standard_deviation(n: int, points: float) -> None:
    # The published 35.3 is that of the differences. With a correlation of 0.5, the scores have the same one.
    difference = smallest_detectable_difference(35.3, n, correlation=0.5)
    assert difference is not None
    assert round(difference, 1) == points


def test_paired_test_detects_the_smallest_difference_with_the_stated_power() -> None:
    n, std, correlation = 110, 30.0, 0.35
    difference = smallest_detectable_difference(std, n, correlation=correlation)
    assert difference is not None
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(2, 3000, n)) * std
    first = noise[0]
    second = correlation * noise[0] + math.sqrt(1 - correlation**2) * noise[1] + difference
    detected = stats.ttest_rel(second, first, axis=1).pvalue < 0.05
    assert np.mean(detected) == pytest.approx(0.8, abs=0.03)
    assert smallest_detectable_difference(std, 1, correlation=correlation) is None
