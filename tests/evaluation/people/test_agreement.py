"""People's labels against the judge's scores."""

from __future__ import annotations

import pytest

from evaluation.people.agreement import RowScore, measure_agreement


def rows(n_labels: int) -> list[RowScore]:
    settled = [RowScore(id=f"s{i}", score=100, is_settled=True) for i in range(30)]
    judged = [
        RowScore(id=f"j{i}", score=20 * (i % 6), label=max(0, 20 * (i % 6) - 10) if i < n_labels else None)
        for i in range(60)
    ]
    return settled + judged


def test_agreement_of_a_judge_that_is_ten_points_too_kind() -> None:
    agreement = measure_agreement(rows(30))
    assert (agreement.rows, agreement.labels, agreement.labels_of_judged_rows) == (90, 30, 30)
    assert agreement.mean_difference == pytest.approx(10 * 5 / 6, abs=1e-3)
    assert agreement.spearman is not None
    assert agreement.spearman.value == pytest.approx(1)
    assert agreement.mean_absolute_error is not None
    assert agreement.mean_absolute_error.value == pytest.approx(10 * 5 / 6, abs=1e-3)
    assert agreement.kappa is not None
    assert 0.9 < agreement.kappa.value < 1
    assert agreement.corrected is not None
    assert agreement.corrected.raw_mean == pytest.approx((30 * 100 + 60 * 50) / 90, abs=1e-3)
    truth = (30 * 100 + 60 * (50 - 10 * 5 / 6)) / 90
    assert agreement.corrected.mean == pytest.approx(truth, abs=0.7)
    assert agreement.corrected.interval.low < truth < agreement.corrected.interval.high
    assert any("settled rows" in note for note in agreement.notes)


def test_mean_is_not_corrected_with_fewer_than_fifteen_labels() -> None:
    agreement = measure_agreement(rows(14))
    assert agreement.corrected is None
    assert any("14 labels of judged rows are too few" in note for note in agreement.notes)
    assert measure_agreement(rows(15)).corrected is not None


def test_no_labels_give_no_figures() -> None:
    agreement = measure_agreement(rows(0))
    assert (agreement.kappa, agreement.spearman, agreement.mean_absolute_error, agreement.corrected) == (None,) * 4
    assert measure_agreement([]).rows == 0
