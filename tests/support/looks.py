"""Simulated comparisons of two models, looked at several times."""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from assistant.chat.tally import ALPHA
from assistant.sequential_statistics import Count, look_sizes, sequential_p_value


def counts_of_runs(
    *, differ: float, better: float, n_looks: int, runs: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return wins and losses up to each look, (runs, n_looks) each.

    A row differs with probability `differ`, and then the first model is right with probability `better`.
    """
    sizes = list(islice(look_sizes(), n_looks))
    rng = np.random.default_rng(seed)
    differs = rng.random((runs, sizes[-1])) < differ
    wins = differs & (rng.random((runs, sizes[-1])) < better)
    places = [size - 1 for size in sizes]
    n_wins = np.cumsum(wins, axis=1, dtype=np.int64)[:, places]
    return n_wins, np.cumsum(differs, axis=1, dtype=np.int64)[:, places] - n_wins


def simulate(*, differ: float, better: float, n_looks: int, runs: int, seed: int) -> NDArray[np.bool_]:
    """Return whether each look of each run finds a difference, (runs, n_looks)."""
    wins, losses = counts_of_runs(differ=differ, better=better, n_looks=n_looks, runs=runs, seed=seed)
    found = np.zeros(wins.shape, dtype=bool)
    for run in range(runs):
        counts = tuple(Count(int(won), int(lost)) for won, lost in zip(wins[run], losses[run], strict=True))
        for look in range(n_looks):
            found[run, look] = sequential_p_value(counts[: look + 1]) <= ALPHA
    return found
