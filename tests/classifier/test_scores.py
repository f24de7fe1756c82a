"""Figures of a classifier: cases that a person can count, plain formulas, and the coverage of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from assistant.classifier.scores import (
    N_BINS,
    N_MISTAKES,
    Scores,
    calibration,
    fit_temperature,
    log_softmax,
    macro_figures,
    macro_intervals,
    score,
)
from assistant.dataset.examples import Example
from assistant.label_statistics import Estimate

LABELS = ("a", "b", "c")
pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


def examples(targets: list[int]) -> list[Example]:
    return [
        Example(instruction=f"text {place}", output=LABELS[target], source="a.csv", row=place)
        for place, target in enumerate(targets)
    ]


def answered(targets: list[int], predicted: list[int], sure: float = 0.9, n_labels: int = 3) -> Scores:
    rest = (1 - sure) / (n_labels - 1)
    rows = [[math.log(sure if place == guess else rest) for place in range(n_labels)] for guess in predicted]
    return score(LABELS[:n_labels], examples(targets), np.array(rows), temperature=1.0)


def test_figures_of_a_case_that_a_person_can_count() -> None:
    found = answered([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], n_labels=2)
    assert found.confusion == ((3, 1), (1, 1))
    assert found.accuracy.value == pytest.approx(4 / 6)
    assert found.balanced_accuracy.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.macro_f1.value == pytest.approx((2 * 3 / 8 + 2 * 1 / 4) / 2)
    first, second = found.by_label
    assert (first.rows, first.predicted) == (4, 4)
    assert first.precision is not None
    assert first.precision.value == pytest.approx(3 / 4)
    assert second.recall is not None
    assert second.recall.value == pytest.approx(1 / 2)
    assert found.commonest_share == pytest.approx(4 / 6)
    assert found.n_mistakes == 2


def test_shares_have_clopper_and_pearsons_interval() -> None:
    found = answered([0] * 20 + [1] * 20, [0] * 19 + [1] * 21, n_labels=2)
    low, high = beta.ppf([0.025], 39, 2)[0], beta.ppf([0.975], 40, 1)[0]
    assert found.accuracy.interval == pytest.approx((low, high))
    recall = found.by_label[1].recall
    assert recall is not None
    assert recall.interval is not None
    assert recall.interval == pytest.approx((0.025 ** (1 / 20), 1.0))


@given(pairs)
def test_macro_figures_are_the_plain_formulas(answers: list[tuple[int, int]]) -> None:
    targets, predicted = [pair[0] for pair in answers], [pair[1] for pair in answers]
    found = answered(targets, predicted)
    recalls, f1s = [], []
    for label in range(3):
        hits = sum(pair == (label, label) for pair in answers)
        rows, guesses = targets.count(label), predicted.count(label)
        if rows:
            recalls.append(hits / rows)
        if rows or guesses:
            f1s.append(2 * hits / (rows + guesses))
    assert found.balanced_accuracy.value == pytest.approx(sum(recalls) / len(recalls))
    assert found.macro_f1.value == pytest.approx(sum(f1s) / len(f1s))
    assert found.n_mistakes == sum(target != guess for target, guess in answers)
    for estimate in (found.accuracy, found.balanced_accuracy, found.macro_f1):
        assert estimate.interval is None or estimate.interval.low <= estimate.value <= estimate.interval.high
        assert estimate.interval is None or (estimate.interval.low >= 0 and estimate.interval.high <= 1)


def test_a_label_that_is_nowhere_has_no_figures() -> None:
    found = answered([0, 1], [0, 1])
    assert found.by_label[2].precision is None
    assert found.by_label[2].recall is None
    assert found.balanced_accuracy.value == found.macro_f1.value == 1


@pytest.mark.parametrize(
    ("rows", "recalls"),
    [((60, 60), (0.99, 0.99)), ((100, 15), (0.97, 0.8)), ((40, 5, 10), (0.7, 0.7, 0.9))],
)
def test_macro_intervals_cover_what_they_claim(rows: tuple[int, ...], recalls: tuple[float, ...]) -> None:
    rng, n_labels, n_runs = np.random.default_rng(1), len(rows), 150
    shares = np.array([[(1 - r) / (n_labels - 1)] * n_labels for r in recalls])
    np.fill_diagonal(shares, recalls)
    truth = macro_figures(shares * np.array(rows)[:, None])
    covered = np.zeros(2)
    for _ in range(n_runs):
        counts = np.array([rng.multinomial(*row) for row in zip(rows, shares, strict=True)])
        intervals = macro_intervals(counts, seed=0)
        assert intervals is not None
        covered += [interval.low <= value <= interval.high for interval, value in zip(intervals, truth, strict=True)]
    assert (covered / n_runs > 0.9).all(), covered / n_runs


def test_no_mistake_seen_does_not_mean_that_none_is_possible() -> None:
    found = answered([0] * 30 + [1] * 30, [0] * 30 + [1] * 30, n_labels=2)
    for estimate in (found.balanced_accuracy, found.macro_f1):
        assert estimate == Estimate(1.0, estimate.interval)
        assert estimate.interval is not None
        assert 0.9 < estimate.interval.low < 0.98


# --- calibration --------------------------------------------------------------------------------------------------


def test_calibration_error_of_a_case_that_a_person_can_count() -> None:
    surest = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])  # three of four right, and one of two
    rows = np.log(np.stack([surest, 1 - surest], axis=1))
    found = calibration(rows, np.array([0, 0, 0, 1, 0, 1]))
    assert found.expected_error == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.1)
    assert found.log_loss == pytest.approx(-(3 * math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(0.4)) / 6)


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 99))
def test_calibration_error_is_the_plain_sum_over_bins(n: int, n_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = log_softmax(rng.normal(0, 2, (n, n_labels)))
    targets = rng.integers(0, n_labels, n)
    total = 0.0
    for number in range(N_BINS):
        inside = [
            place
            for place in range(n)
            if number / N_BINS <= math.exp(rows[place].max()) < (number + 1) / N_BINS + 1e-15 * (number == N_BINS - 1)
        ]
        if inside:
            right = sum(rows[place].argmax() == targets[place] for place in inside) / len(inside)
            sure = sum(math.exp(rows[place].max()) for place in inside) / len(inside)
            total += len(inside) / n * abs(right - sure)
    assert calibration(rows, targets).expected_error == pytest.approx(total, abs=1e-9)
    assert np.exp(rows).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_hidden_is_found(factor: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 3))
    targets = [int(rng.choice(3, p=np.exp(row))) for row in log_softmax(logits)]
    found = fit_temperature(log_softmax(logits * factor), targets)
    assert found is not None
    assert found == pytest.approx(factor, rel=0.08)
    before, after = (calibration(log_softmax(logits * scale), np.array(targets)) for scale in (factor, factor / found))
    assert after.log_loss <= before.log_loss + 1e-4
    assert after.expected_error < 0.03


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    rng = np.random.default_rng(3)
    rows, targets = log_softmax(rng.normal(0, 2, (80, 4))), rng.integers(0, 4, 80)
    rows[np.arange(80), targets] += 1.0

    def loss(temperature: float) -> float:
        goals = np.full((80, 4), 0.5 / 81 / 3)
        goals[np.arange(80), targets] = 80.5 / 81
        return float(-(goals * log_softmax(rows / temperature)).sum())

    found = fit_temperature(rows, list(targets))
    assert found is not None
    assert loss(found) <= min(loss(temperature) for temperature in np.geomspace(0.05, 20, 2000)) + 1e-6


def test_a_perfect_validation_part_does_not_make_the_model_certain() -> None:
    targets = [0, 1] * 30
    rows = log_softmax(np.array([[3.0, 0.0], [0.0, 3.0]] * 30))
    found = fit_temperature(rows, targets)
    assert found is not None
    surest = math.exp(log_softmax(rows / found)[0].max())
    assert surest == pytest.approx(60.5 / 61, abs=1e-3)


def test_a_temperature_needs_twenty_rows() -> None:
    assert fit_temperature(np.zeros((19, 2)), [0] * 19) is None
    assert fit_temperature(log_softmax(np.tile([1.0, 0.0], (20, 1))), [0] * 20) is not None


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_mistakes_are_the_surest_first_with_their_texts() -> None:
    sure = np.linspace(0.51, 0.99, 30)
    rows = np.log(np.stack([1 - sure, sure], axis=1))
    found = score(LABELS[:2], examples([0] * 30), rows, temperature=2.0)
    assert (found.n_mistakes, len(found.mistakes)) == (30, N_MISTAKES)
    assert [mistake.text for mistake in found.mistakes] == [f"text {place}" for place in range(29, 9, -1)]
    first = found.mistakes[0]
    assert (first.label, first.predicted, first.where) == ("a", "b", "a.csv, row 29")
    assert first.probability == pytest.approx(math.sqrt(0.99) / (math.sqrt(0.99) + math.sqrt(0.01)))
