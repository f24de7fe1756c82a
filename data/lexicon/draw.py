"""Seeded random choice. Rows are dealt like cards, so that all facts come up equally often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from data.lexicon.english import Person
from data.lexicon.tables import Row, table, words

Card = TypeVar("Card")


class Draw:
    """A random generator for one corpus, with a shuffled pack of cards for every table."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._packs: dict[str, list[object]] = {}

    def card(self, name: str, cards: Sequence[Card]) -> Card:
        """Return the next card of the pack `name`. If the pack is empty, shuffle all cards first."""
        pack = self._packs.setdefault(name, [])
        if not pack:
            pack += self.rng.sample(range(len(cards)), len(cards))
        index = pack.pop()
        assert isinstance(index, int)
        return cards[index]

    def row(self, name: str) -> Row:
        """Return the next row of a table."""
        return self.card(name, table(name))

    def people(self, count: int) -> list[Person]:
        """Return `count` different people."""
        return [Person(**row) for row in self.rng.sample(table("names"), count)]

    def word(self, kind: str, table_name: str = "words") -> str:
        """Return a random word of one kind."""
        return self.rng.choice(words(kind, table_name))
