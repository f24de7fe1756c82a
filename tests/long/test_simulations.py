"""Intervals and tests keep what they promise: 1,000 simulated runs of each, on published scores and strong models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from assistant.label_statistics import Stratum, corrected_mean
from assistant.paired_statistics import sign_flip_p_value
from assistant.statistics import bounded_mean_interval
from tests.conftest import shared_file

pytestmark = pytest.mark.long

RUNS = 1000
N_ROWS = (10, 20, 30, 60, 110)
Scores = NDArray[np.float64]


def published() -> tuple[Scores, Scores, Scores, NDArray[np.bool_]]:
    """Return GPT-4's scores, Llama's, the hybrid's (exact matches 100), and which rows are exact matches."""
    rows = json.loads(shared_file("data/judged/eval-example-data.json").read_text())
    exact = np.array([row["output"].strip() == row["model 1 response"].strip() for row in rows])
    gpt4, llama = (
        np.array(json.loads(shared_file(f"data/judged/{name}-model-1-response.json").read_text()), dtype=float)
        for name in ("gpt4", "llama3-8b")
    )
    return gpt4, llama, np.where(exact, 100.0, llama), exact


def population(kind: str) -> Scores:
    """Return the scores to draw from: `hybrid`, `gpt4`, or for example `97zero`: 97 % at 100, the others at 0."""
    gpt4, _, hybrid, exact = published()
    if not kind[0].isdigit():
        return {"hybrid": hybrid, "gpt4": gpt4}[kind]
    n_bad = 1000 - 10 * int(kind[:2])
    bad = {"zero": np.zeros(1), "mixed": hybrid[~exact], "good": np.full(1, 80.0)}[kind[2:]]
    return np.concatenate([np.full(1000 - n_bad, 100.0), np.resize(np.random.default_rng(3).permutation(bad), n_bad)])


STRONG = [f"{share}{bad}" for share in (90, 95, 97, 99) for bad in ("zero", "mixed", "good")]


@pytest.mark.parametrize("kind", ["hybrid", "gpt4", *STRONG])
def test_interval_of_a_mean_covers_it(kind: str) -> None:
    scores = population(kind)
    rng = np.random.default_rng(11)
    for n in N_ROWS:
        intervals = [bounded_mean_interval(rng.choice(scores, n).tolist()) for _ in range(RUNS)]
        coverage = np.mean(
            [i is not None and i.low <= scores.mean() + 1e-9 and scores.mean() <= i.high + 1e-9 for i in intervals]
        )
        print(f"interval {kind} n={n}: {coverage:.3f}")
        assert coverage >= 0.93, (kind, n)
        if kind == "hybrid" and n >= 20:
            assert coverage <= 0.985


@pytest.mark.parametrize("kind", ["hybrid", "gpt4", "90zero", "90mixed", "97zero", "97mixed"])
@pytest.mark.parametrize("n", N_ROWS)
def test_paired_test_calls_noise_a_difference_in_3_to_7_of_100_runs(kind: str, n: int) -> None:
    scores = population(kind)
    rng = np.random.default_rng(7)
    alarms, covered, differing = 0, 0, 0
    for run in range(RUNS):
        rows = rng.integers(0, len(scores), n)
        # Two runs of equal quality: each row's other value is the same one, or that of another row.
        first, second = (
            np.where(rng.random(n) < 0.4, scores[rows], scores[rng.integers(0, len(scores), n)]) for _ in range(2)
        )
        differences = (second - first).tolist()
        differing += int(np.count_nonzero(differences))
        alarms += sign_flip_p_value(differences, seed=run, resamples=2000) < 0.05
        interval = bounded_mean_interval(differences, low=-100, high=100)
        covered += interval is not None and interval.low <= 0 <= interval.high
    print(
        f"paired {kind} n={n}: {differing / RUNS:.1f} differ, false alarms {alarms / RUNS:.3f}, "
        f"interval covers {covered / RUNS:.3f}"
    )
    assert alarms / RUNS <= 0.07
    # Fewer than 5 rows that differ cannot show anything at 5 %: all 4 have equal signs in 12.5 of 100 runs.
    if kind == "hybrid" or differing / RUNS >= 5.5:
        assert alarms / RUNS >= 0.03
    assert covered / RUNS >= 0.93


def test_interval_of_a_difference_covers_it_where_few_rows_differ() -> None:
    rng = np.random.default_rng(9)
    values, shares = np.array([0.0, 20.0, 100.0, -60.0]), [0.85, 0.08, 0.04, 0.03]
    mean = float(values @ shares)
    for n in N_ROWS:
        intervals = [
            bounded_mean_interval(rng.choice(values, n, p=shares).tolist(), low=-100, high=100) for _ in range(RUNS)
        ]
        coverage = np.mean([interval is not None and interval.low <= mean <= interval.high for interval in intervals])
        print(f"difference of few rows n={n}: {coverage:.3f}")
        assert coverage >= 0.93, n


@pytest.mark.parametrize("n_labels", [15, 20, 30])
def test_corrected_mean_covers_what_people_would_say(n_labels: int) -> None:
    gpt4, _, hybrid, exact = published()
    rng = np.random.default_rng(5)
    covered, errors = 0, []
    for _ in range(RUNS):
        rows = rng.integers(0, 100, 110)
        judged = rng.permutation(rows[~exact[rows]])
        labelled, others = judged[:n_labels], judged[n_labels:]
        settled = Stratum(labels=[], labelled_scores=[], other_scores=hybrid[rows[exact[rows]]].tolist())
        asked = Stratum(
            labels=gpt4[labelled].tolist(),
            labelled_scores=hybrid[labelled].tolist(),
            other_scores=hybrid[others].tolist(),
        )
        corrected = corrected_mean([settled, asked])
        assert corrected is not None
        covered += corrected.interval.low <= gpt4.mean() <= corrected.interval.high
        errors.append(corrected.mean - gpt4.mean())
    print(f"corrected labels={n_labels}: covers {covered / RUNS:.3f}, bias {np.mean(errors):+.2f}")
    assert 0.93 <= covered / RUNS <= 0.97
    assert abs(np.mean(errors)) < 0.5


def test_twenty_labels_with_settled_rows_have_at_most_04_times_the_error_of_twenty_labels_alone() -> None:
    """The error is that against the mean of all labels of this test set."""
    gpt4, _, hybrid, exact = published()
    rng = np.random.default_rng(6)
    corrected_errors, plain_errors = [], []
    settled = Stratum(labels=[], labelled_scores=[], other_scores=hybrid[exact].tolist())
    for _ in range(RUNS):
        judged = rng.permutation(np.flatnonzero(~exact))
        labelled, others = judged[:20], judged[20:]
        asked = Stratum(
            labels=gpt4[labelled].tolist(),
            labelled_scores=hybrid[labelled].tolist(),
            other_scores=hybrid[others].tolist(),
        )
        corrected = corrected_mean([settled, asked])
        assert corrected is not None
        corrected_errors.append(corrected.mean - gpt4.mean())
        plain_errors.append(rng.choice(gpt4, 20, replace=False).mean() - gpt4.mean())
    ratio = np.sqrt(np.mean(np.square(corrected_errors)) / np.mean(np.square(plain_errors)))
    print(f"error ratio {ratio:.3f}, bias {np.mean(corrected_errors):+.3f}, hybrid {hybrid.mean() - gpt4.mean():+.2f}")
    assert ratio <= 0.4
    assert abs(np.mean(corrected_errors)) < 0.5
