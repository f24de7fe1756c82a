"""How well a judge repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f_oneway

from evaluation.judging.repeatability import repeatability

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Table 2 of Shrout and Fleiss (1979): six targets by four judges. They give ICC(1,1) = .17."""


def test_icc_is_that_of_shrout_and_fleiss() -> None:
    icc = repeatability(SHROUT_FLEISS).icc
    assert icc is not None
    assert round(icc, 2) == 0.17


def test_icc_follows_from_scipys_f_statistic() -> None:
    scores = np.random.default_rng(0).normal(50, 20, (12, 1)) + np.random.default_rng(1).normal(0, 6, (12, 3))
    f = f_oneway(*scores).statistic
    assert repeatability(scores.tolist()).icc == pytest.approx((f - 1) / (f + 3 - 1), abs=1e-4)


def test_icc_of_items_of_unequal_length_finds_the_true_share() -> None:
    rng = np.random.default_rng(2)
    items = [list(rng.normal(0, 20) + rng.normal(0, 10, rng.integers(2, 6))) for _ in range(4000)]
    result = repeatability(items)
    assert result.icc == pytest.approx(20**2 / (20**2 + 10**2), abs=0.02)
    assert result.sd == pytest.approx(10, abs=0.2)


def test_a_judge_that_always_repeats_itself() -> None:
    result = repeatability([[100, 100, 100], [20, 20, 20], [60, 60]])
    assert (result.items, result.verdicts, result.missing) == (3, 8, 0)
    assert (result.equal, result.sd, result.largest, result.icc) == (100.0, 0.0, 0, 1.0)
    assert result.equal_interval is not None
    assert result.equal_interval.low < 50  # three items prove little


def test_differences_and_missing_verdicts_are_counted() -> None:
    result = repeatability([[100, 80], [20, None, 20], [None, 60], [None, None], []])
    assert (result.items, result.verdicts, result.missing) == (2, 4, 4)
    assert (result.equal, result.largest) == (50.0, 20)
    assert result.sd == pytest.approx(10.0)  # ((10² + 10²) + 0) / (4 - 2) = 100


def test_what_cannot_be_known_is_none() -> None:
    nothing = repeatability([[60], [None]])
    assert (nothing.items, nothing.equal, nothing.sd, nothing.largest, nothing.icc) == (0, None, None, None, None)
    assert repeatability([[60, 60], [60, 60]]).icc is None  # a judge that gives every row the same score
    assert repeatability([[60, 40]]).icc is None
