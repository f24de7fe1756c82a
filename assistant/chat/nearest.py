"""The training row that is nearest to a question and its answer: did the model learn the answer, or copy it?

Rows are compared by the words that they share, and a rare word counts for more than a common one. The similarity is the
weight of the shared words divided by the weight of all words of both. Knows no model and imports no torch.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from assistant.dataset.examples import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ROWS = 100_000
"""Rows of the index. Later rows are not looked at."""
MAX_CHARACTERS = 8_000
"""Characters of each text that are read."""
MAX_WORDS = 400
"""Different words of a row, or of a question and its answer, that count."""
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearest:
    """A training row, and what it shares with a question and its answer."""

    example: Example
    similarity: float
    """From 0 to 1. 1: the same words."""
    is_copied: bool
    """Whether the answer is the row's output, apart from white space at both ends."""


class NearestRows:
    """An index of training rows by their words. Building it for 5,000 rows takes a tenth of a second."""

    def __init__(self, examples: Sequence[Example]) -> None:
        import numpy as np

        self._examples = tuple(examples[:MAX_ROWS])
        rows_of: dict[str, list[int]] = {}
        for place, example in enumerate(self._examples):
            for word in _distinct_words(example.instruction, example.input, example.output):
                rows_of.setdefault(word, []).append(place)
        self._rows_of = {word: np.array(places, dtype=np.int32) for word, places in rows_of.items()}
        self._weights: NDArray[np.float64] = np.zeros(len(self._examples))  # of all words of each row
        for word, places in self._rows_of.items():
            self._weights[places] += self._weight(word)

    def nearest(self, instruction: str, input_: str, answer: str) -> Nearest | None:
        """Return the training row that shares most with a question and its answer. None if none shares a word.

        Of rows that are equally near, one whose output is the answer comes first, then the first one.
        """
        import numpy as np

        words = _distinct_words(instruction, input_, answer)
        shared_weights = np.zeros(len(self._examples))
        for word in words:
            places = self._rows_of.get(word)
            if places is not None:
                shared_weights[places] += self._weight(word)
        if not shared_weights.any():
            return None
        similarities = shared_weights / (self._weights + sum(map(self._weight, words)) - shared_weights)
        best = np.flatnonzero(similarities >= similarities.max() - 1e-9)
        answer = answer.strip()
        copies = (place for place in best if answer and self._examples[place].output.strip() == answer)
        place = int(next(copies, best[0]))
        example = self._examples[place]
        return Nearest(
            example=example,
            similarity=min(1.0, float(similarities[place])),
            is_copied=bool(answer) and example.output.strip() == answer,
        )

    def _weight(self, word: str) -> float:
        """Return the weight of a word: the logarithm of its rarity. A word of no row counts as one of a single row."""
        places = self._rows_of.get(word)
        return math.log(1 + len(self._examples) / (1 if places is None else len(places)))


def words_of(text: str) -> list[str]:
    """Return the words of a text in any script, in lower case. A character of an unspaced script is a word."""
    text = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold()
    if text.isascii():
        return _ASCII_WORD.findall(text)
    spaced = _UNSPACED.sub(r" \g<0> ", text)
    # `\w` would cut words at vowel signs, which are marks and not letters.
    kept = {character: unicodedata.category(character)[0] in "LMN" for character in set(spaced)}
    return "".join(character if kept[character] else " " for character in spaced).split()


def _distinct_words(*texts: str) -> tuple[str, ...]:
    words = (word for text in texts for word in words_of(text))
    return tuple(islice(dict.fromkeys(islice(words, 4 * MAX_WORDS)), MAX_WORDS))
