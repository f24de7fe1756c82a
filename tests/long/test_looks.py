"""The tally's verdict in thousands of simulated runs: false alarms over all looks, and power against Bonferroni's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from assistant.chat.tally import ALPHA
from tests.support.looks import counts_of_runs, simulate

pytestmark = pytest.mark.long
RUNS, N_LOOKS = 4000, 7
"""To 2,000 rows."""


@pytest.mark.parametrize("differ", [0.02, 0.1, 0.3, 0.6, 1.0])
def test_false_alarms_over_all_looks_are_at_most_5_percent(differ: float) -> None:
    found = simulate(differ=differ, better=0.5, n_looks=N_LOOKS, runs=RUNS, seed=31)
    alarms = np.mean(found.any(axis=1))
    print(f"differ {differ}: false alarms over all looks {alarms:.4f}, by look {found.mean(axis=0).round(4).tolist()}")
    assert alarms <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)
    if differ >= 0.3:
        assert alarms >= 0.02  # the test does not waste most of its error rate


@pytest.mark.parametrize(("differ", "better"), [(0.2, 0.75), (0.3, 0.7), (0.5, 0.65), (0.6, 0.9)])
def test_power_is_at_least_that_of_plain_bonferroni_over_seven_looks(differ: float, better: float) -> None:
    runs = 1000
    found = simulate(differ=differ, better=better, n_looks=N_LOOKS, runs=runs, seed=32)
    wins, losses = counts_of_runs(differ=differ, better=better, n_looks=N_LOOKS, runs=runs, seed=32)
    plain = np.array(
        [
            [
                won + lost > 0 and binomtest(int(won), int(won + lost)).pvalue <= ALPHA / N_LOOKS
                for won, lost in zip(*run, strict=True)
            ]
            for run in zip(wins, losses, strict=True)
        ]
    )
    power, of_plain = found.mean(axis=0), plain.mean(axis=0)
    print(f"differ {differ}, better {better}: {power.round(3).tolist()}, Bonferroni {of_plain.round(3).tolist()}")
    assert (power[:4] >= of_plain[:4]).all()
    assert (power[4:] >= of_plain[4:] - 0.01).all()
