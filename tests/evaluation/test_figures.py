"""Figures of a list of scores: intervals, bounds and the smallest detectable difference. Missing data give None."""

from __future__ import annotations

import pytest

from evaluation.figures import (
    CORRELATION_OF_RUNS,
    Bounds,
    Mean,
    bounds,
    counted,
    mean_of_scores,
    plain_mean,
    smallest_difference,
)


def test_no_values_give_no_mean_and_no_interval() -> None:
    empty = Mean(n=0, mean=None, interval=None)
    assert mean_of_scores([]) == empty
    assert plain_mean([]) is None


def test_rate_has_the_interval_of_clopper_and_pearson() -> None:
    mean = mean_of_scores([100, 0, 0, 0])
    assert (mean.n, mean.mean) == (4, 25)
    assert mean.interval == pytest.approx((0.63, 80.59), abs=0.01)


def test_scores_have_an_interval_with_any_number_of_rows() -> None:
    scores = [0.0, 20.0, 40.0, 100.0]
    mean = mean_of_scores(scores)
    assert mean.interval is not None
    assert mean.interval.low < 40 < mean.interval.high
    assert mean_of_scores(scores) == mean
    one = mean_of_scores([40.0]).interval
    assert one is not None
    assert one.high - one.low > 80


def test_category_of_twelve_rows_at_100_is_not_said_to_be_perfect() -> None:
    interval = mean_of_scores([100.0] * 12).interval
    assert interval is not None
    assert interval.low == pytest.approx(100 * 0.025 ** (1 / 12), abs=1e-3)  # Clopper and Pearson's: 73.5
    assert interval.high == 100


def test_bounds_are_the_means_with_0_and_with_100_for_missing_scores() -> None:
    assert bounds([100, 80], 4) == Bounds(low=45, high=95)
    assert bounds([100, 80], 2) == Bounds(low=90, high=90)
    assert bounds([], 0) is None


def test_smallest_difference_needs_scores_that_differ() -> None:
    difference = smallest_difference(38.0389, 109)
    assert difference is not None
    assert difference.model_dump() == {"points": 11.64, "power": 0.8, "assumed_correlation": CORRELATION_OF_RUNS}
    assert smallest_difference(None, 1) is None
    assert smallest_difference(0.0, 5) is None


def test_one_of_a_thing_is_not_plural() -> None:
    assert [counted(0), counted(1), counted(2, "pair")] == ["0 rows", "1 row", "2 pairs"]
