"""Held-out rows: test rows that the model was not trained on, and which of them come next. Reads no files."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from assistant.dataset.examples import Example
from assistant.exact_match import is_exact


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutRow:
    """A row that the model was not trained on. It has a reference."""

    id: str
    """The id that `evaluation respond` gives the row."""
    example: Example


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """The held-out rows of a model, or why there are none."""

    rows: tuple[HeldOutRow, ...] = ()
    problem: str = ""
    """Why there are no rows, as a sentence for the screen, with what to do next. Empty if there are rows."""
    train: tuple[Example, ...] = ()
    """The rows that the model was trained on. Empty if they are not known."""
    tests: tuple[Example, ...] = ()
    """All test rows of the model's own data, also those that are not asked. No export for training may have them."""


def is_match(response: str, reference: str) -> bool:
    """Return whether a response is right: it equals the reference, apart from white space at both ends."""
    return bool(response.strip()) and is_exact(response, reference)


def next_rows(
    rows: Sequence[HeldOutRow], count: int, *, seed: int, answered: Collection[str] = ()
) -> tuple[HeldOutRow, ...]:
    """Return the first `count` rows that are not answered, in an order that the seed decides. `answered` holds ids."""
    shuffled = list(rows)
    random.Random(f"{seed} 0").shuffle(shuffled)
    return tuple(row for row in shuffled if row.id not in answered)[:count]
