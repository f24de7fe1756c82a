"""The split of labelled texts into train, validation and test, and the book's way to do it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from assistant.classifier.label_files import labels_of
from assistant.dataset.examples import Example
from assistant.dataset.splits import Counts, Quotas, Splits, data_fingerprint, fill_parts, largest_remainders
from assistant.errors import DataError
from assistant.settings import LabelSplitSettings


def split_labelled(examples: Sequence[Example], settings: LabelSplitSettings | None = None) -> Splits:
    """Split labelled texts into train, validation and test.

    `stratified` shuffles with the seed. Equal texts, and texts that share a `group`, land in the same part. Each part
    gets every label in proportion, and at least one row of it where whole groups allow; train comes before test, and
    test before validation. `book` shuffles the rows as pandas' `df.sample(frac=1, random_state=seed)` and cuts them
    (rasbt/LLMs-from-scratch, ch06). It lets equal texts leak across the parts.

    Raises:
        DataError: a label occurs in the test or validation part but not in train.
    """
    settings = settings or LabelSplitSettings()
    if settings.split == "book":
        shuffled = [examples[index] for index in _pandas_sample(len(examples), len(examples), settings.split_seed)]
        n_train = int(len(shuffled) * settings.fractions[0])
        n_validation = int(len(shuffled) * settings.validation_share)
        train, validation = shuffled[:n_train], shuffled[n_train : n_train + n_validation]
        test = shuffled[n_train + n_validation :]
    else:
        labels = [example.output for example in examples]
        train, test, validation = fill_parts(examples, labels, partial(_quotas, settings=settings), settings.split_seed)
    _check_known_labels(train, (*test, *validation))
    return Splits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        method=settings.split,
        seed=settings.split_seed,
        fractions=settings.fractions,
        data_fingerprint=data_fingerprint(examples),
    )


def balance_as_book(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return as many rows of every label as the rarest one has, drawn as the book draws them.

    The rows of larger labels come first, each drawn as pandas' `df.sample(n, random_state=seed)`; then the rarest.
    """
    rows = {label: [example for example in examples if example.output == label] for label in labels_of(examples)}
    n = min(map(len, rows.values()))
    rarest = next(label for label in reversed(list(rows)) if len(rows[label]) == n)
    drawn = [
        rows[label][index] for label in rows if label != rarest for index in _pandas_sample(len(rows[label]), n, seed)
    ]
    return drawn + rows[rarest]


def _pandas_sample(n_rows: int, n: int, seed: int) -> list[int]:
    """Return the rows that pandas' `sample` draws without replacement, in its order."""
    import numpy as np

    return [int(index) for index in np.random.RandomState(seed).choice(n_rows, size=n, replace=False)]


def _quotas(counts: Counts, *, settings: LabelSplitSettings) -> Quotas:
    """Return how many rows of every label the test and the validation part get."""
    n = counts.total()
    shares = {"test": settings.test_share, "validation": settings.validation_share}
    quotas = {part: largest_remainders(counts, int(n * share)) for part, share in shares.items()}
    for label, n_rows in counts.items():
        room = n_rows - 1  # train has at least one
        for part, share in shares.items():
            quotas[part][label] = min(max(quotas[part][label], 1 if share else 0), room)
            room -= quotas[part][label]
    return quotas


def _check_known_labels(train: Sequence[Example], others: Sequence[Example]) -> None:
    known = {example.output for example in train}
    unknown = [example for example in others if example.output not in known]
    if unknown:
        more = f" and in {len(unknown) - 1} more rows" if len(unknown) > 1 else ""
        raise DataError(
            f"{unknown[0].where}: expected a label that training rows have, got {unknown[0].output!r} in a test or "
            f"validation row{more}. Add rows with this label, or use the stratified split."
        )
