"""What makes two examples the same, and how a data set is split into parts to learn from and to be tested on."""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assistant.dataset.instructions import Example
from assistant.errors import SettingsError

SplitMethod = Literal["grouped", "book"]
DEFAULT_SPLIT_SEED = 123
DEFAULT_FRACTIONS = (0.85, 0.10, 0.05)
"""Shares of a data set that are for training, for testing, and for choosing the best weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The three parts of a data set, and how they were made."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    method: SplitMethod
    seed: int
    fractions: tuple[float, float, float]
    """Of training, test and validation, as they were asked for."""
    data_fingerprint: str
    """Of all examples in the order they were read."""

    def part(self, name: str) -> tuple[Example, ...]:
        """`train`, `validation` or `test`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return parts[name]


def normalise(text: str) -> str:
    """Text reduced to what makes two prompts the same: Unicode NFKC, lower case, single spaces, no end punctuation."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(" .!?:;,")


def prompt_key(example: Example) -> tuple[str, ...]:
    """What two examples must share to ask the same thing: the normalised instruction, input and history.

    Of a plain text that is its opening words.
    """
    history = [normalise(text) for exchange in example.history for text in exchange]
    return (normalise(example.instruction), normalise(example.input), *history)


def data_fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 (hex) of the examples' contents and of what splits go by; file names and row numbers do not count."""
    rows: list[list[object]] = []
    for e in examples:
        rows.append([e.instruction, e.input, e.output, [list(exchange) for exchange in e.history]])
        if e.category is not None or e.group is not None:
            rows[-1] += [e.category, e.group]
        if e.rejected is not None:
            rows[-1].append({"rejected": e.rejected})
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def split_examples(
    examples: Sequence[Example],
    *,
    method: SplitMethod = "grouped",
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    seed: int = DEFAULT_SPLIT_SEED,
) -> Splits:
    """Split into train, test and validation, in the shares of `fractions` (train, test, validation).

    `grouped` shuffles with `seed` and keeps together the examples that share a normalised prompt, a group or a row, so
    nothing that is tested was learnt; each category gets its share of every part as far as whole groups allow. `book`
    takes the file's order: the first 85 %, the next 10 %, the rest (rasbt/LLMs-from-scratch, ch07), twins across the
    border included.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SettingsError(f"split: expected three shares that add up to 1, got {fractions}.")
    n_train, n_test = int(len(examples) * fractions[0]), int(len(examples) * fractions[1])
    if method == "book":
        if any(example.history for example in examples):
            raise SettingsError(
                "split: expected single questions for the book's split, got conversations, which it would cut through. "
                "Use the grouped split."
            )
        train, test = examples[:n_train], examples[n_train : n_train + n_test]
        validation = examples[n_train + n_test :]
    else:
        n_validation = min(len(examples) - n_train - n_test, len(examples) - 1)  # the only row there is, is learnt
        train, test, validation = _split_groups(examples, n_test, n_validation, seed)
    return Splits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        method=method,
        seed=seed,
        fractions=fractions,
        data_fingerprint=data_fingerprint(examples),
    )


def _split_groups(
    examples: Sequence[Example], n_test: int, n_validation: int, seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """Fill test, then validation, with whole groups in a seeded order; the rest is train. File order within each."""
    groups = _groups(examples)
    random.Random(seed).shuffle(groups)
    rows = Counter(example.category for example in examples)
    room = {"test": _quotas(rows, n_test), "validation": _quotas(rows, n_validation)}
    chosen: dict[str, list[int]] = {"test": [], "validation": [], "train": []}
    for group in groups:
        wanted = Counter(examples[index].category for index in group)
        part = next((part for part, left in room.items() if wanted <= left), "train")
        chosen[part] += group
        if part in room:
            room[part] -= wanted
    train, test, validation = ([examples[i] for i in sorted(chosen[name])] for name in ("train", "test", "validation"))
    return train, test, validation


def _quotas(rows: Counter[str | None], total: int) -> Counter[str | None]:
    """How many of `total` rows each category gets: its share, rounded down, and the largest remainders one more."""
    shares = {category: total * count / rows.total() for category, count in rows.items()}
    quotas = Counter({category: int(share) for category, share in shares.items()})
    by_remainder = sorted(shares, key=lambda category: (quotas[category] - shares[category], str(category)))
    for category in by_remainder[: total - quotas.total()]:
        quotas[category] += 1
    return quotas


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of the examples that belong together: the same prompt, group, or row of the same file."""
    leader = list(range(len(examples)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    first_of: dict[object, int] = {}
    for index, example in enumerate(examples):
        same_row = [(example.source, example.row)] if example.row else []
        same_group = [example.group] if example.group is not None else []
        for key in (prompt_key(example), *same_row, *same_group):
            leader[find(index)] = find(first_of.setdefault(key, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(examples)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())
