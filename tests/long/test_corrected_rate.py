"""The interval of the corrected pass rate contains the true rate in 93 to 97 % of simulated runs."""

from __future__ import annotations

import numpy as np
import pytest

import evaluation.judging.trust
from evaluation.judging.trust import HitRate, Trust, corrected_rate

RUNS = 1000


def coverage(true: float, tpr: float, tnr: float, *, n: int, n_high: int, n_low: int, settled: float = 0.0) -> float:
    """Return the share of runs whose interval contains the true rate, in percent. Refused runs do not count."""
    rng = np.random.default_rng(7)
    inside = answered = 0
    for _ in range(RUNS):
        n_settled = int(rng.binomial(n, settled))
        n_right = int(rng.binomial(n - n_settled, true))
        n_pass = int(rng.binomial(n_right, tpr) + rng.binomial(n - n_settled - n_right, 1 - tnr))
        trust = Trust(
            level="green",
            reasons=(),
            tpr=HitRate(right=int(rng.binomial(n_high, tpr)), n=n_high, interval=None),
            tnr=HitRate(right=int(rng.binomial(n_low, tnr)), n=n_low, interval=None),
        )
        interval = corrected_rate(n_pass, n - n_settled, trust, settled_right=n_settled).interval
        if interval is not None:
            answered += 1
            inside += interval.low <= settled + (1 - settled) * true <= interval.high
    assert answered > 0.95 * RUNS
    return 100 * inside / answered


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.judging.trust, "N_DRAWS", 2_000)


@pytest.mark.long
@pytest.mark.parametrize("true", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("tpr", "tnr"), [(0.95, 0.9), (0.9, 0.7), (0.75, 0.95)])
def test_interval_covers_with_fifty_control_items_of_each_side(true: float, tpr: float, tnr: float) -> None:
    assert 93 <= coverage(true, tpr, tnr, n=300, n_high=50, n_low=50) <= 97


@pytest.mark.long
@pytest.mark.parametrize("settled", [0.0, 0.4])
@pytest.mark.parametrize(
    ("true", "tpr", "tnr"), [(0.2, 0.95, 0.9), (0.5, 0.75, 0.95), (0.8, 0.9, 0.7), (0.95, 0.95, 0.9)]
)
def test_interval_covers_with_the_control_items_of_a_run(true: float, tpr: float, tnr: float, settled: float) -> None:
    """Eight references are few: where they decide, the interval is too wide rather than too narrow."""
    assert coverage(true, tpr, tnr, n=110, n_high=8, n_low=40, settled=settled) >= 93
