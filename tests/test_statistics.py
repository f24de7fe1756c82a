"""Intervals against formulas and independent implementations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assistant.statistics import (
    Interval,
    bootstrap_mean_interval,
    smallest_detectable_difference,
    standard_deviation,
    wilson,
)
from tests.conftest import REPOSITORY

SHARED = REPOSITORY.parent / "shared" / "data"


def wilson_by_formula(k: int, n: int) -> tuple[float, float]:
    z = stats.norm.ppf(0.975)
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return middle - half, middle + half


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_formula_and_stays_within_0_and_1(trial: tuple[int, int]) -> None:
    k, n = trial
    found = wilson(k, n)
    assert found is not None
    assert found == pytest.approx(wilson_by_formula(k, n), abs=1e-9)
    assert -1e-12 <= found.low <= k / n + 1e-12
    assert k / n - 1e-12 <= found.high <= 1 + 1e-12
    assert found.low < found.high


def test_wilson_of_the_books_exact_matches() -> None:
    found = wilson(17, 110)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (0.0988, 0.2336)


def test_no_data_is_no_interval() -> None:
    assert wilson(0, 0) is None
    assert bootstrap_mean_interval([], seed=1) is None
    assert bootstrap_mean_interval([50], seed=1) is None
    assert standard_deviation([50]) is None


def test_the_bootstrap_is_the_same_for_the_same_seed() -> None:
    values = [0.3, 20.1, 21.7, 60.9, 99.5, 97.3, 40.2]
    assert bootstrap_mean_interval(values, seed=7) == bootstrap_mean_interval(values, seed=7)
    assert bootstrap_mean_interval(values, seed=7) != bootstrap_mean_interval(values, seed=8)


def test_the_bootstrap_agrees_with_the_t_interval_on_normal_data() -> None:
    values = np.random.default_rng(0).normal(50, 10, 400)
    found = bootstrap_mean_interval(values.tolist(), seed=1)
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert found == pytest.approx(expected, abs=0.1)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    # Scores as a judge gives them: bimodal and bounded. 200 samples of 60; +-3.5 standard errors of the coverage.
    rng = np.random.default_rng(3)
    samples = rng.choice([0, 20, 100], p=[0.3, 0.2, 0.5], size=(200, 60))
    intervals = [bootstrap_mean_interval(sample.tolist(), seed=1, resamples=2000) for sample in samples]
    covered = np.mean([found is not None and found.low <= 54 <= found.high for found in intervals])
    assert 0.89 <= covered <= 1


@pytest.mark.skipif(not SHARED.exists(), reason=f"no shared data at {SHARED}")
def test_the_interval_of_a_published_run() -> None:
    scores = json.loads((SHARED / "judged" / "llama3-8b-model-1-response.json").read_text())
    found = bootstrap_mean_interval(scores, seed=1)
    assert found == pytest.approx((71.3, 82.5), abs=0.4)


def test_equal_values_have_an_interval_without_width() -> None:
    assert bootstrap_mean_interval([80, 80, 80], seed=1) == Interval(80, 80)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=50))
def test_standard_deviation_is_numpys(values: list[float]) -> None:
    assert standard_deviation(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)


@pytest.mark.parametrize(("n", "points"), [(100, 9.9), (110, 9.4), (200, 7.0), (500, 4.4), (1000, 3.1)])
def test_smallest_difference_of_the_published_spread(n: int, points: float) -> None:
    # The published 35.3 is the spread of the differences, which is that of the scores where they correlate by .5.
    found = smallest_detectable_difference(35.3, n, correlation=0.5)
    assert found is not None
    assert round(found, 1) == points


def test_that_difference_is_found_with_that_power() -> None:
    n, spread, correlation = 110, 30.0, 0.35
    difference = smallest_detectable_difference(spread, n, correlation=correlation)
    assert difference is not None
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(2, 3000, n)) * spread
    first = noise[0]
    second = correlation * noise[0] + math.sqrt(1 - correlation**2) * noise[1] + difference
    found = stats.ttest_rel(second, first, axis=1).pvalue < 0.05
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert smallest_detectable_difference(spread, 1, correlation=correlation) is None
