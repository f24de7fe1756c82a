"""The split of a data set into train, validation and test, and the rule that two prompts are equal.

Does not read or write files, and does not know about tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from assistant.dataset.examples import Example
from assistant.errors import SettingsError
from assistant.settings import SplitMethod, SplitSettings

DEFAULT_SPLIT_SEED = SplitSettings().split_seed
DEFAULT_FRACTIONS = SplitSettings().fractions
"""Shares of train, test and validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The three parts of a data set, and the settings of the split."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    method: SplitMethod
    seed: int
    fractions: tuple[float, float, float]
    """Requested shares of train, test and validation."""
    data_fingerprint: str
    """`data_fingerprint` of all examples, in their order in the files."""

    def part(self, name: str) -> tuple[Example, ...]:
        """Return the part that is called `train`, `validation` or `test`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return parts[name]


def normalise(text: str) -> str:
    """Normalise a text for comparison: Unicode NFKC, case folding, single spaces, no punctuation at the end."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(" .!?:;,")


def prompt_key(example: Example) -> tuple[str, ...]:
    """Return the key that examples with equal prompts share: the normalised instruction, input and history.

    The prompt of a plain text is its opening words.
    """
    history = [normalise(text) for exchange in example.history for text in exchange]
    return (normalise(example.instruction), normalise(example.input), *history)


def data_fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 (hex) of the texts, categories and groups. File names and row numbers do not affect it."""
    rows: list[list[object]] = []
    for example in examples:
        history = [list(exchange) for exchange in example.history]
        row: list[object] = [example.instruction, example.input, example.output, history]
        # Optional fields are added only if present, so that data without them keeps its old fingerprint.
        if example.category is not None or example.group is not None:
            row += [example.category, example.group]
        if example.rejected is not None:
            row.append({"rejected": example.rejected})
        rows.append(row)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def split_examples(
    examples: Sequence[Example],
    *,
    method: SplitMethod = "grouped",
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    seed: int = DEFAULT_SPLIT_SEED,
) -> Splits:
    """Split examples into train, test and validation. `fractions` are the shares, in this order.

    `grouped` shuffles with `seed`. Examples that share a normalised prompt, a group or a row land in the same part, so
    that no test prompt occurs in train. Each part gets every category in proportion, as far as whole groups allow.
    `book` keeps the order of the file: the first 85 %, the next 10 %, the rest (rasbt/LLMs-from-scratch, ch07). It lets
    equal prompts leak across the parts.

    Raises:
        SettingsError: the fractions are invalid, `book` gets conversations, or the method is that of labelled texts.
    """
    if method == "stratified":
        raise SettingsError("split: expected grouped or book for instructions, got stratified, which is for labels.")
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SettingsError(f"split: expected three shares that add up to 1, got {fractions}.")
    n_train, n_test = int(len(examples) * fractions[0]), int(len(examples) * fractions[1])
    if method == "book":
        if any(example.history for example in examples):
            raise SettingsError(
                "split: expected single questions for the book's split, got conversations, which it would cut apart. "
                "Use the grouped split."
            )
        train, test = examples[:n_train], examples[n_train : n_train + n_test]
        validation = examples[n_train + n_test :]
    else:
        n_validation = min(len(examples) - n_train - n_test, len(examples) - 1)  # A single row goes to train.
        categories = [example.category for example in examples]
        counts = Counter(categories)
        quotas = {"test": largest_remainders(counts, n_test), "validation": largest_remainders(counts, n_validation)}
        train, test, validation = fill_parts(examples, categories, quotas, seed)
    return Splits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        method=method,
        seed=seed,
        fractions=fractions,
        data_fingerprint=data_fingerprint(examples),
    )


def fill_parts(
    examples: Sequence[Example], kinds: Sequence[str | None], quotas: dict[str, Counter[str | None]], seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """Fill test, then validation, with whole groups in a seeded order, up to their quota of every kind of row.

    Returns train, test and validation, each in file order. `quotas` is used up.
    """
    groups = grouped_rows(examples)
    random.Random(seed).shuffle(groups)
    indices: dict[str, list[int]] = {"test": [], "validation": [], "train": []}
    for group in groups:
        group_counts = Counter(kinds[index] for index in group)
        part = next((part for part, quota in quotas.items() if group_counts <= quota), "train")
        indices[part] += group
        if part in quotas:
            quotas[part] -= group_counts
    train, test, validation = ([examples[i] for i in sorted(indices[part])] for part in ("train", "test", "validation"))
    return train, test, validation


def largest_remainders(counts: Counter[str | None], total: int) -> Counter[str | None]:
    """Divide `total` rows among the categories in proportion to `counts`, by the largest-remainder method."""
    shares = {category: total * count / counts.total() for category, count in counts.items()}
    quotas = Counter({category: int(share) for category, share in shares.items()})
    by_remainder = sorted(shares, key=lambda category: (quotas[category] - shares[category], str(category)))
    for category in by_remainder[: total - quotas.total()]:
        quotas[category] += 1
    return quotas


def grouped_rows(examples: Sequence[Example]) -> list[list[int]]:
    """Return the indices of examples that belong together: the same prompt, `group`, or row of the same file.

    A disjoint-set forest, so that chains of such pairs form one group.
    """
    parents = list(range(len(examples)))

    def find(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_with_key: dict[object, int] = {}
    for index, example in enumerate(examples):
        row_keys = [(example.source, example.row)] if example.row else []
        group_keys = [example.group] if example.group is not None else []
        for key in (prompt_key(example), *row_keys, *group_keys):
            parents[find(index)] = find(first_with_key.setdefault(key, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(examples)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())
