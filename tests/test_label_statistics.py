"""Agreement of labels and scores, and the corrected mean, against independent formulas and published scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from assistant.label_statistics import (
    Stratum,
    corrected_mean,
    mean_absolute_error,
    ppi_mean,
    spearman,
    weighted_kappa,
    weighted_kappa_with_interval,
)
from tests.conftest import shared_file


def kappa_of_a_table(first: list[int], second: list[int], categories: int) -> float:
    table = np.zeros((categories, categories))
    for a, b in zip(first, second, strict=True):
        table[a, b] += 1
    weights = (np.arange(categories)[:, None] - np.arange(categories)) ** 2
    by_chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(1 - (weights * table).sum() / (weights * by_chance).sum())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=60))
def test_weighted_kappa_equals_the_formula_with_a_table(pairs: list[tuple[int, int]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    if len(set(first + second)) == 1:
        assert weighted_kappa(first, second) is None
        return
    expected = kappa_of_a_table(first, second, 6)
    assert weighted_kappa(first, second) == pytest.approx(expected, abs=1e-9)
    assert weighted_kappa([20 * a for a in first], [20 * b for b in second]) == pytest.approx(expected, abs=1e-9)


def test_weighted_kappa_of_two_categories_is_the_known_value() -> None:
    # The worked example of Cohen's kappa with 20, 5, 10 and 15 of 50: with two categories all weights are equal.
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert weighted_kappa(first, second) == pytest.approx(0.4)
    estimate = weighted_kappa_with_interval(first, second, seed=1)
    assert estimate is not None
    assert estimate.interval == pytest.approx((0.15, 0.65), abs=0.04)  # 0.4 +- 1.96 * 0.128


def published() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return GPT-4's and Llama's scores, and which rows are exact matches."""
    rows = json.loads(shared_file("data/judged/eval-example-data.json").read_text())
    exact = np.array([row["output"].strip() == row["model 1 response"].strip() for row in rows])
    gpt4, llama = (
        np.array(json.loads(shared_file(f"data/judged/{name}-model-1-response.json").read_text()), dtype=float)
        for name in ("gpt4", "llama3-8b")
    )
    return gpt4, llama, exact


def test_settling_exact_matches_lifts_the_rank_correlation_with_gpt4() -> None:
    gpt4, llama, exact = published()
    hybrid = np.where(exact, 100.0, llama)
    on_the_scale = np.where(exact, 100.0, 20 * np.round(llama / 20))
    estimates = [spearman(gpt4.tolist(), scores.tolist()) for scores in (llama, hybrid, on_the_scale)]
    values = [estimate.value for estimate in estimates if estimate is not None]
    assert values == pytest.approx([0.698, 0.904, 0.885], abs=0.0005)
    assert hybrid.mean() - gpt4.mean() == pytest.approx(6.8, abs=0.1)
    assert estimates[0] is not None
    assert estimates[0].interval == pytest.approx((0.56, 0.79), abs=0.03)  # the published bootstrap


def test_mean_absolute_error_of_the_published_scores() -> None:
    gpt4, llama, _ = published()
    estimate = mean_absolute_error(gpt4.tolist(), llama.tolist())
    assert estimate is not None
    assert estimate.value == pytest.approx(15.9, abs=0.05)
    assert estimate.interval is not None
    assert estimate.interval.low < 15.9 < estimate.interval.high


def test_figures_without_enough_labels_are_none() -> None:
    assert weighted_kappa([], []) is None
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert mean_absolute_error([], []) is None


def test_factor_of_ppi_goes_from_labels_alone_to_full_trust() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(50, 20, 300)
    useless, perfect = rng.normal(50, 20, 300), truth
    labels = truth[:40].tolist()
    mean, variance = ppi_mean(labels, useless[:40].tolist(), useless[40:].tolist(), factor=0)
    assert mean == pytest.approx(np.mean(labels))
    assert variance == pytest.approx(np.var(labels, ddof=1) / 40)
    mean, variance = ppi_mean(labels, perfect[:40].tolist(), perfect[40:].tolist(), factor=1)
    assert mean == pytest.approx(truth[40:].mean())
    assert variance == pytest.approx(np.var(truth, ddof=1) / 260)
    tuned = ppi_mean(labels, perfect[:40].tolist(), perfect[40:].tolist())
    assert tuned[1] < variance
    assert tuned[0] == pytest.approx(truth.mean(), abs=1)


def test_ppi_uses_the_factor_with_the_smallest_variance() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(50, 20, 400)
    scores = 0.6 * truth + rng.normal(30, 10, 400)
    parts = truth[:200].tolist(), scores[:200].tolist(), scores[200:].tolist()
    variances = [ppi_mean(*parts, factor=factor)[1] for factor in np.linspace(0, 1, 101)]
    assert ppi_mean(*parts)[1] == pytest.approx(min(variances), rel=0.02)
    with pytest.raises(ValueError, match="at least two"):
        ppi_mean([1], [1], [1])


def test_labels_mend_the_mean_of_the_published_scores() -> None:
    gpt4, llama, exact = published()
    hybrid = np.where(exact, 100.0, llama)
    rng = np.random.default_rng(3)
    settled = Stratum(labels=[], labelled_scores=[], other_scores=hybrid[exact].tolist())
    means = []
    for _ in range(200):
        judged = rng.permutation(np.flatnonzero(~exact))
        asked = Stratum(
            labels=gpt4[judged[:20]].tolist(),
            labelled_scores=hybrid[judged[:20]].tolist(),
            other_scores=hybrid[judged[20:]].tolist(),
        )
        corrected = corrected_mean([settled, asked])
        assert corrected is not None
        means.append(corrected.mean)
    assert np.mean(means) == pytest.approx(gpt4.mean(), abs=0.5)


def test_fourteen_labels_are_refused_and_fifteen_are_not() -> None:
    def with_labels(n: int) -> Stratum:
        return Stratum(labels=[0.0, *[100.0] * (n - 1)], labelled_scores=[80.0] * n, other_scores=[80.0] * 30)

    assert corrected_mean([with_labels(14)]) is None
    corrected = corrected_mean([with_labels(15)])
    assert corrected is not None
    assert corrected.mean == pytest.approx(100 * 14 / 15)
    # The scores say nothing here, so the interval is the t interval of the labels, cut at 100.
    labels = [0.0, *[100.0] * 14]
    expected = stats.t.interval(0.95, 14, np.mean(labels), stats.sem(labels))
    assert corrected.interval.low == pytest.approx(expected[0], abs=1e-6)
    assert corrected.interval.high == 100
