"""The split of a data set into train, validation and test, and the rule that two prompts are equal.

Does not read or write files, and does not know about tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from assistant.dataset.examples import Example
from assistant.errors import SettingsError
from assistant.settings import SplitMethod, SplitSettings

DEFAULT_SPLIT_SEED = SplitSettings().split_seed
DEFAULT_FRACTIONS = SplitSettings().fractions
"""Shares of train, test and validation."""
Counts = Counter[str | None]
"""Rows by their kind: a category or a label."""
Quotas = dict[str, Counts]
"""For the test and the validation part, the rows of every kind that it still may get."""


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
    """Return the SHA-256 (hex) of the texts, categories and groups. File names and row numbers do not affect it.

    With several files, their numbers of rows count as well, because the grouped split goes file by file.
    """
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
    files = by_file(examples)
    if len(files) > 1:
        rows.append([len(indices) for indices in files])
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
    Files are split one after the other, so a file that is added at the end moves no row of the files before it.
    `book` keeps the order of the file: the first 85 %, the next 10 %, the rest (rasbt/LLMs-from-scratch, ch07). It lets
    equal prompts leak across the parts.

    Raises:
        SettingsError: the fractions are invalid, `book` gets conversations, or the method is that of labelled texts.
    """
    if method == "stratified":
        raise SettingsError("split: expected grouped or book for instructions, got stratified, which is for labels.")
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SettingsError(f"split: expected three shares that add up to 1, got {fractions}.")
    if method == "book":
        n_train, n_test = int(len(examples) * fractions[0]), int(len(examples) * fractions[1])
        if any(example.history for example in examples):
            raise SettingsError(
                "split: expected single questions for the book's split, got conversations, which it would cut apart. "
                "Use the grouped split."
            )
        train, test = examples[:n_train], examples[n_train : n_train + n_test]
        validation = examples[n_train + n_test :]
    else:
        categories = [example.category for example in examples]
        train, test, validation = fill_parts(examples, categories, partial(_quotas, fractions=fractions), seed)
    return Splits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        method=method,
        seed=seed,
        fractions=fractions,
        data_fingerprint=data_fingerprint(examples),
    )


def _quotas(counts: Counts, *, fractions: tuple[float, float, float]) -> Quotas:
    """Return how many rows of every category the test and the validation part get."""
    n = counts.total()
    n_train, n_test = int(n * fractions[0]), int(n * fractions[1])
    n_validation = min(n - n_train - n_test, n - 1)  # A single row goes to train.
    return {"test": largest_remainders(counts, n_test), "validation": largest_remainders(counts, n_validation)}


def fill_parts(
    examples: Sequence[Example], kinds: Sequence[str | None], quotas_of: Callable[[Counts], Quotas], seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """Fill test, then validation, with whole groups in a seeded order, up to their quota of every kind of row.

    Returns train, test and validation, each in file order. It goes file by file: `quotas_of` gets the kinds of the rows
    so far, so many small files get the same shares as one large file. A row that belongs to rows of an earlier file
    joins their part; if they are in several parts, test comes before validation, and validation before train.
    """
    part_of: dict[int, str] = {}
    groups, kinds_so_far = _Groups(), Counter[str | None]()
    placed: Quotas = {"test": Counter(), "validation": Counter(), "train": Counter()}
    for indices in by_file(examples):
        kinds_so_far.update(kinds[index] for index in indices)
        quotas = quotas_of(kinds_so_far)
        found = groups.add(examples, indices)
        open_groups = [group for group in found if not group.parts]
        random.Random(seed).shuffle(open_groups)
        for group in (*(group for group in found if group.parts), *open_groups):
            counts = Counter(kinds[index] for index in group.indices)
            if group.parts:
                part = next(part for part in placed if part in group.parts)
            else:
                fitting = (part for part, quota in quotas.items() if _has_room(placed[part], counts, quota))
                part = next(fitting, "train")
            placed[part] += counts
            part_of.update(dict.fromkeys(group.indices, part))
            group.parts.add(part)
    train, test, validation = (
        [example for index, example in enumerate(examples) if part_of[index] == part]
        for part in ("train", "test", "validation")
    )
    return train, test, validation


def _has_room(placed: Counts, added: Counts, quota: Counts) -> bool:
    """Whether a part may get these rows."""
    return all(placed[kind] + n <= quota[kind] for kind, n in added.items())


def by_file(examples: Sequence[Example]) -> list[list[int]]:
    """Return the indices of the examples of each file, in the order of the files."""
    files: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        files.setdefault(example.source, []).append(index)
    return list(files.values())


def largest_remainders(counts: Counter[str | None], total: int) -> Counter[str | None]:
    """Divide `total` rows among the categories in proportion to `counts`, by the largest-remainder method."""
    shares = {category: total * count / counts.total() for category, count in counts.items()}
    quotas = Counter({category: int(share) for category, share in shares.items()})
    by_remainder = sorted(shares, key=lambda category: (quotas[category] - shares[category], str(category)))
    for category in by_remainder[: total - quotas.total()]:
        quotas[category] += 1
    return quotas


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of one file that belong together."""

    indices: list[int]
    parts: set[str]
    """The parts that rows of earlier files have with which these belong together. The set is shared with them."""


class _Groups:
    """Which examples belong together: the same prompt, `group`, or row of the same file.

    A disjoint-set forest, so that chains of such pairs form one group.
    """

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._parts: dict[int, set[str]] = {}
        """For every root, the parts of its rows."""
        self._first_with_key: dict[object, int] = {}

    def add(self, examples: Sequence[Example], indices: Sequence[int]) -> list[_Group]:
        """Add the examples at these indices, and return their groups, in the order of their first rows."""
        for index in indices:
            self._parents[index], self._parts[index] = index, set()
            example = examples[index]
            row_keys = [(example.source, example.row)] if example.row else []
            group_keys = [example.group] if example.group is not None else []
            for key in (prompt_key(example), *row_keys, *group_keys):
                self._join(index, self._first_with_key.setdefault(key, index))
        groups: dict[int, list[int]] = {}
        for index in indices:
            groups.setdefault(self._root(index), []).append(index)
        return [_Group(members, self._parts[root]) for root, members in groups.items()]

    def _join(self, index: int, first: int) -> None:
        root, first_root = self._root(index), self._root(first)
        if root != first_root:
            self._parents[root] = first_root
            self._parts[first_root] |= self._parts.pop(root)

    def _root(self, index: int) -> int:
        parents = self._parents
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index
