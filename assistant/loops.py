"""Whether a text loops: the same few tokens again and again. Training, and evaluation of any answer, ask this."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

LONGEST_PERIOD, REPEATS = 12, 4
"""A loop is the same 1 to 12 tokens four times in a row, and at least 8 tokens in all."""
SHORTEST_LOOP = 8


def loops(tokens: Sequence[Hashable]) -> bool:
    """Whether the same few tokens repeat somewhere. Where there are no token ids, words will do."""
    for period in range(1, LONGEST_PERIOD + 1):
        min_run, run = max(period * (REPEATS - 1), SHORTEST_LOOP - period), 0
        for index in range(period, len(tokens)):
            run = run + 1 if tokens[index] == tokens[index - period] else 0
            if run >= min_run:
                return True
    return False
