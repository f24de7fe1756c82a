"""Tests and intervals of paired differences, against scipy and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assistant.paired_statistics import (
    coin_probabilities,
    correlation,
    detectable_difference,
    holm,
    paired_bootstrap_interval,
    sign_flip_p_value,
    sign_test_p_value,
    sign_test_p_values,
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9).filter(any))
def test_sign_flip_test_of_few_rows_counts_all_patterns_and_half_of_those_as_far(differences: list[int]) -> None:
    patterns = itertools.product([-1, 1], repeat=len(differences))
    sums = [abs(sum(sign * value for sign, value in zip(signs, differences, strict=True))) for signs in patterns]
    measured = abs(sum(differences))
    expected = np.mean([(value > measured) + 0.5 * (value == measured) for value in sums])
    assert sign_flip_p_value(differences, seed=1) == pytest.approx(expected)


def test_sign_flip_test_of_two_values_is_the_mid_p_of_the_exact_binomial_test() -> None:
    for wins, losses in ((5, 0), (8, 1), (6, 6), (40, 22)):
        p_value, n = stats.binomtest(wins, wins + losses).pvalue, wins + losses
        measured = stats.binom.pmf(wins, n, 0.5) * (1 if wins == losses else 2)
        found = sign_flip_p_value([20.0] * wins + [-20.0] * losses, seed=1)
        assert found == pytest.approx(p_value - measured / 2, abs=1e-12 if n <= 13 else 0.01)


def test_sign_flip_test_of_many_rows_agrees_with_scipys_permutation_test() -> None:
    """Scipy counts the patterns that are as far as the measured one in full, so its p-value is a little larger."""
    differences = np.random.default_rng(4).choice([-20, 0, 20, 60], size=80, p=[0.3, 0.4, 0.2, 0.1])
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=10_000, rng=np.random.default_rng(1)
    ).pvalue
    as_far = stats.permutation_test(
        (differences,),
        lambda values, axis: np.abs(values.mean(axis)) > abs(differences.mean()) + 1e-9,
        permutation_type="samples",
        n_resamples=10_000,
        alternative="greater",
        rng=np.random.default_rng(1),
    ).null_distribution
    mid_p = (expected + float(as_far.mean())) / 2
    assert sign_flip_p_value(differences.tolist(), seed=1) == pytest.approx(mid_p, abs=0.008)
    # Unequal values hardly ever have equal sums, and then both count the same patterns.
    spread = np.random.default_rng(5).normal(0.3, 1, 11)
    ordinary = stats.permutation_test((spread,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p_value(spread.tolist(), seed=1) == pytest.approx(ordinary - 1 / 2**11)


def test_rows_that_are_all_equal_show_no_difference() -> None:
    assert sign_flip_p_value([0.0] * 20, seed=1) == 1
    assert sign_test_p_value(0, 0) == 1
    assert paired_bootstrap_interval([0.0] * 20, seed=1) is None
    assert paired_bootstrap_interval([0.0] * 19 + [20.0], seed=1) is None
    assert detectable_difference([5.0] * 20) is None
    assert correlation([1.0, 1.0], [1.0, 2.0]) is None


def test_bootstrap_interval_agrees_with_the_t_interval_on_normal_differences() -> None:
    for n, tolerance in ((12, 0.1), (300, 0.03)):
        values = np.random.default_rng(2).normal(1, 3, n)
        interval = paired_bootstrap_interval(values.tolist(), seed=1)
        low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert interval == pytest.approx((low, high), abs=tolerance * (high - low))
        assert paired_bootstrap_interval(values.tolist(), seed=1) == interval


@pytest.mark.parametrize("n", [1, 2, 9, 40, 333, 5000])
def test_sign_test_is_scipys_binomial_test(n: int) -> None:
    for wins in {0, 1, n // 3, n // 2, (n + 1) // 2, n - 1, n}:
        expected = stats.binomtest(wins, n).pvalue
        assert sign_test_p_value(wins, n - wins) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert sign_test_p_values(n).shape == coin_probabilities(n).shape == (n + 1,)
    assert coin_probabilities(n).sum() == pytest.approx(1)


def test_sign_test_of_ten_rows() -> None:
    assert sign_test_p_value(9, 1) == pytest.approx(22 / 1024)
    assert sign_test_p_value(1, 9) == pytest.approx(22 / 1024)
    assert sign_test_p_value(5, 5) == 1


def test_holm_on_a_worked_example() -> None:
    # Holm 1979 with four tests: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 takes the 0.06 before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1, 1]


def test_smallest_difference_contains_the_measured_correlation() -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(50, 20, 200)
    second = first + rng.normal(0, 5, 200)
    assert correlation(first.tolist(), second.tolist()) == pytest.approx(np.corrcoef(first, second)[0, 1])
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.std(second - first, ddof=1) / np.sqrt(200)
    assert detectable_difference((second - first).tolist()) == pytest.approx(expected)
