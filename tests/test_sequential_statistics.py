"""The sign test with several looks: its looks, its error rate by enumeration and simulation, and its power."""

from __future__ import annotations

import itertools
from itertools import islice

import numpy as np
import pytest
from scipy.stats import binomtest

from assistant.sequential_statistics import Count, look_sizes, sequential_p_value, shares
from tests.support.looks import simulate


def test_looks_are_at_20_50_100_200_and_so_on() -> None:
    assert list(islice(look_sizes(), 9)) == [20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]


def test_shares_are_never_more_than_one_together() -> None:
    assert sum(shares(50)) == pytest.approx(1)
    assert min(shares(30)) > 0
    assert shares(2) == shares(5)[:2]


@pytest.mark.parametrize(("wins", "losses"), [(8, 0), (0, 9), (12, 3), (20, 0), (6, 5), (0, 0)])
def test_the_first_look_is_scipys_binomial_test_divided_by_its_share(wins: int, losses: int) -> None:
    plain = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sequential_p_value((Count(wins, losses),)) == pytest.approx(min(1.0, plain / shares(1)[0]))


def test_without_a_look_nothing_is_known() -> None:
    assert sequential_p_value(()) == 1


def test_both_sides_are_treated_alike() -> None:
    counts = (Count(7, 2), Count(15, 6), Count(33, 10))
    mirrored = tuple(Count(losses, wins) for wins, losses in counts)
    assert sequential_p_value(counts) == sequential_p_value(mirrored) < 0.05


def test_the_second_look_agrees_with_counting_all_paths() -> None:
    """All 2^12 sequences of twelve rows that differ, with looks after the first 7 and after all 12."""
    first, second = shares(2)
    own = Count(10, 2)
    stretch = binomtest(10, 12).pvalue / second
    early, late = ([binomtest(wins, n).pvalue for wins in range(n + 1)] for n in (7, 12))
    crossing = sum(
        early[sum(path[:7])] <= first * stretch * (1 + 1e-12) or late[sum(path)] <= second * stretch * (1 + 1e-12)
        for path in itertools.product([0, 1], repeat=12)
    )
    expected = crossing / 2**12 + stretch * (1 - first - second)
    assert sequential_p_value((Count(6, 1), own)) == pytest.approx(expected)
    assert expected < stretch  # Bonferroni's p-value


@pytest.mark.parametrize("differ", [0.05, 0.3, 1.0])
def test_false_alarms_over_all_looks_are_at_most_5_percent(differ: float) -> None:
    """400 runs to 200 rows of two equal models. `tests/long/test_looks.py` has 4,000 runs to 2,000 rows."""
    found = simulate(differ=differ, better=0.5, n_looks=4, runs=400, seed=5)
    alarms = np.mean(found.any(axis=1))
    assert alarms <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 400)


def test_a_clearly_better_model_is_found_at_the_first_looks() -> None:
    """60 % right against none, as the demo's model and its base: nearly every run finds it with 20 rows."""
    found = simulate(differ=0.6, better=1.0, n_looks=2, runs=200, seed=6)
    assert np.mean(found[:, 0]) >= 0.95
    assert np.mean(found[:, 1]) == 1
