"""Which rows make up which batch, and in what order. It works on lengths and indices, not on tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from assistant.dataset.encode import EncodedExample

MEGA_BATCH = 50
"""Micro-batches that are sorted by length together: enough to avoid most padding, and few enough for a random order."""


def by_length(rows: Sequence[EncodedExample], batch_size: int) -> Iterator[list[EncodedExample]]:
    """Yield all rows in batches of similar length. The batches are always the same."""
    in_order = sorted(rows, key=lambda row: row.n_tokens)
    for start in range(0, len(in_order), batch_size):
        yield in_order[start : start + batch_size]


def plan_batches(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row indices of every batch of one epoch: in random order, but with rows of similar length together.

    The order depends only on `seed` and `epoch`, so a run can resume anywhere. Rows are shuffled, then sorted by length
    within mega-batches. Then the batches are shuffled, because otherwise the loss would follow the lengths. The batch
    with the longest row comes first, so that a lack of memory shows at the first step. Every row is seen once.
    """
    generator = random.Random(f"batches {seed} {epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * MEGA_BATCH):
        mega = sorted(order[start : start + batch_size * MEGA_BATCH], key=lambda index: -lengths[index])
        batches += [mega[i : i + batch_size] for i in range(0, len(mega), batch_size)]
    generator.shuffle(batches)
    longest = max(range(len(batches)), key=lambda index: max(lengths[row] for row in batches[index]))
    batches.insert(0, batches.pop(longest))
    return batches


def book_batches(
    n_train: int,
    n_validation: int,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    evaluate_every: int,
    measures_epochs: bool = False,
) -> list[list[list[int]]]:
    """Row indices of the batches of every epoch, in the order of the book's loop.

    That order follows from torch's global generator. The book's loop evaluates every `evaluate_every` steps, and its
    loaders draw from the same generator when it does, so the order of later epochs depends on those evaluations. With
    `measures_epochs` it also measures the accuracy after each epoch. This function draws in the same way, with the same
    loaders over row numbers, and leaves the global generator as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        train: DataLoader[int] = DataLoader(
            range(n_train),  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=list,
        )
        validation: DataLoader[int] = DataLoader(range(n_validation), batch_size=batch_size)  # type: ignore[arg-type]
        epochs_of_batches: list[list[list[int]]] = []

        def evaluate() -> None:
            for loader in (train, validation):
                next(iter(loader), None)

        step = 0
        for _ in range(epochs):
            epochs_of_batches.append([])
            for batch in train:
                epochs_of_batches[-1].append(batch)
                if step % evaluate_every == 0:
                    evaluate()
                step += 1
            if measures_epochs:
                evaluate()
    return epochs_of_batches
