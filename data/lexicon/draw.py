"""Chance: rows are dealt out like cards, so that every fact comes up as often as any other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from data.lexicon.english import Person
from data.lexicon.tables import Row, table, words

Card = TypeVar("Card")


class Draw:
    """Chance for one corpus: a generator, and a shuffled pack for every table."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._packs: dict[str, list[object]] = {}

    def card(self, name: str, cards: Sequence[Card]) -> Card:
        """The next card of the pack of that name; an empty pack is shuffled anew."""
        pack = self._packs.setdefault(name, [])
        if not pack:
            pack += self.rng.sample(range(len(cards)), len(cards))
        index = pack.pop()
        assert isinstance(index, int)
        return cards[index]

    def row(self, name: str) -> Row:
        """The next row of a table."""
        return self.card(name, table(name))

    def people(self, count: int) -> list[Person]:
        """Different people."""
        return [Person(**row) for row in self.rng.sample(table("names"), count)]

    def word(self, kind: str) -> str:
        """Any word of that kind."""
        return self.rng.choice(words(kind))
