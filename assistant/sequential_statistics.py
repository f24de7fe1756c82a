"""A sign test that is looked at several times while rows arrive, with one error rate for all looks together.

The looks are at fixed numbers of rows: 20, 50, 100, 200, 500, 1000, 2000 and so on. Each look k has a share w_k of the
error rate, and all shares together are 1. At a look, let t be its ordinary p-value divided by w_k. The adjusted p-value
is

    P(some look so far has a p-value of at most w_j t)  +  t times the shares of the looks to come,

at most 1. The first term is exact: if neither side is better, each row that differs is a fair coin, and the count of
wins is a random walk whose paths are counted, whatever the numbers of rows that differ are. At the first look the sum
is p / w_1. For a fixed t the sum never grows from look to look, because the next look adds at most w_k t to the first
term and takes w_k t from the second. So for every a, the probability that the adjusted p-value is at most a at any look
is at most a. Bonferroni's value would be t itself at each look. It is larger, because looks share rows and so agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from assistant.paired_statistics import coin_probabilities, sign_test_p_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST_LOOK = 20
_FIRST_SHARES = (0.25, 0.2, 0.2, 0.15)
"""The shares of the looks at 20, 50, 100 and 200 rows. Of what is left, each later look has half."""
_ROUNDING = 1 + 1e-9
"""Equal p-values may differ by this factor."""


class Count(NamedTuple):
    """Rows that differ, by the side that was better."""

    wins: int
    losses: int


def look_sizes() -> Iterator[int]:
    """Yield the numbers of rows at which the test is looked at: 20, 50, 100, 200, 500, 1000, 2000, ..."""
    for power in count(1):
        yield from (size * 10**power for size in ((2, 5) if power == 1 else (1, 2, 5)))


def shares(n_looks: int) -> list[float]:
    """Return the shares of the first looks. All shares, without end, add up to 1."""
    rest = 1 - sum(_FIRST_SHARES)
    later = [rest / 2**place for place in range(1, n_looks - len(_FIRST_SHARES) + 1)]
    return [*_FIRST_SHARES, *later][:n_looks]


@lru_cache(maxsize=256)
def sequential_p_value(counts: tuple[Count, ...]) -> float:
    """Return the adjusted p-value of the last look. `counts` holds the rows that differ up to each look so far.

    1 without any look.
    """
    if not counts:
        return 1.0
    own_shares = shares(len(counts))
    wins, losses = counts[-1]
    stretch = float(sign_test_p_values(wins + losses)[wins]) / own_shares[-1]
    if stretch >= 1:
        return 1.0
    n_differ = [count.wins + count.losses for count in counts]
    crossing = _crossing_probability(n_differ, [share * stretch for share in own_shares])
    return min(1.0, crossing + stretch * (1 - sum(own_shares)))


def _crossing_probability(n_differ: Sequence[int], limits: Sequence[float]) -> float:
    """Return the probability that fair coins have, at some look, a sign test's p-value of at most its limit.

    `n_differ` holds the number of coins up to each look.
    """
    import numpy as np

    alive: NDArray[np.float64] = np.ones(1)  # alive[w]: probability of w heads so far and of no p-value under its limit
    crossing, before = 0.0, 0
    for n, limit in zip(n_differ, limits, strict=True):
        alive = np.convolve(alive, coin_probabilities(n - before))
        is_low = sign_test_p_values(n) <= limit * _ROUNDING
        crossing += float(alive[is_low].sum())
        alive[is_low] = 0.0
        before = n
    return crossing
