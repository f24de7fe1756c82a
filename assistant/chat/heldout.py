"""Held-out rows: test rows that the model was not trained on, and a deck that deals them. Reads no files."""

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
    """The held-out rows of a model."""

    rows: tuple[HeldOutRow, ...]
    origin: str
    """Where the rows are from, as a sentence."""
    train: tuple[Example, ...] = ()
    """The rows that the model was trained on. Empty if they are not known."""
    tests: tuple[Example, ...] = ()
    """All test rows of the model's own data, also those that are not asked. No export for training may have them."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories of the rows, sorted."""
        return tuple(sorted({row.example.category for row in self.rows if row.example.category is not None}))


@dataclass(frozen=True, kw_only=True, slots=True)
class NoHeldOut:
    """There are no held-out rows."""

    reason: str
    """As a sentence for the screen, with what to do next."""
    train: tuple[Example, ...] = ()
    """The rows that the model was trained on. Empty if they are not known."""
    tests: tuple[Example, ...] = ()
    """As in `HeldOut`."""


def is_match(response: str, reference: str) -> bool:
    """Return whether a response is right: it equals the reference, apart from white space at both ends."""
    return bool(response.strip()) and is_exact(response, reference)


# --- dealing ------------------------------------------------------------------------------------------------------


class Deck:
    """Deals rows in an order that the seed decides, none twice before all were dealt."""

    def __init__(self, rows: Sequence[HeldOutRow], seed: int) -> None:
        self._rows = tuple(rows)
        self._seed = seed
        self._times_dealt = [0] * len(self._rows)
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def deal(self, answered: Collection[str] = (), *, category: str | None = None) -> HeldOutRow | None:
        """Return the next row, of a category or of all, that was neither dealt nor answered.

        `answered` holds ids. If all rows were dealt or answered, they come again in another order. None if there are
        no rows.
        """
        places = [place for place, row in enumerate(self._rows) if category in (None, row.example.category)]
        if not places:
            return None
        known = set(answered)
        times = {place: self._times(place, known) for place in places}
        turn = min(times.values())
        place = next(place for place in self._order(turn) if times.get(place) == turn)
        self._times_dealt[place] = turn + 1
        return self._rows[place]

    def take(self, count: int, answered: Collection[str] = ()) -> tuple[HeldOutRow, ...]:
        """Return the next rows that were neither dealt nor answered, at most `count`. They do not come again here."""
        known = set(answered)
        places = [place for place in self._order(0) if self._times(place, known) == 0][: max(count, 0)]
        for place in places:
            self._times_dealt[place] = 1
        return tuple(self._rows[place] for place in places)

    def _times(self, place: int, answered: set[str]) -> int:
        return max(self._times_dealt[place], int(self._rows[place].id in answered))

    def _order(self, turn: int) -> list[int]:
        """Return the places of all rows in the order of a turn through the deck."""
        if turn not in self._orders:
            order = list(range(len(self._rows)))
            random.Random(f"{self._seed} {turn}").shuffle(order)
            self._orders[turn] = order
        return self._orders[turn]
