"""Which rows make up which batch, and in what order. No tensors yet."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from assistant.dataset.encode import EncodedExample

BOOK_LOOKS_EVERY = 5
"""Steps between two looks of the book's loop at its losses (`eval_freq`)."""
MEGA_BATCH = 50
"""Micro-batches that are sorted by length together: enough to save the padding, few enough to keep the order random."""


def by_length(rows: Sequence[EncodedExample], batch_size: int) -> Iterator[list[EncodedExample]]:
    """Rows of like length in batches, to look at them all: always the same ones."""
    in_order = sorted(rows, key=lambda row: row.n_tokens)
    for start in range(0, len(in_order), batch_size):
        yield in_order[start : start + batch_size]


def plan_batches(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row indices of every batch of one epoch: random, but with rows of like length together.

    The order depends on `seed` and `epoch` alone, so a run can be taken up anywhere. Rows are shuffled, sorted by
    length within mega-batches, and the batches shuffled again, or the loss would follow the lengths. The batch with
    the longest row comes first, so that a lack of memory shows at the first step. Every row is seen once.
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


def book_batches(n_train: int, n_validation: int, *, batch_size: int, seed: int, epochs: int) -> list[list[list[int]]]:
    """The batches of every epoch in the order of the book's loop, which follows from torch's global generator.

    The book's loop looks at its losses every five steps, and its loaders draw from that same generator when it does,
    so the order of a later epoch depends on those looks. They are taken here too, with the same loaders over row
    numbers. The global generator is left as it was.
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
        found: list[list[list[int]]] = []
        step = 0
        for _ in range(epochs):
            found.append([])
            for batch in train:
                found[-1].append(batch)
                if step % BOOK_LOOKS_EVERY == 0:
                    for loader in (train, validation):
                        next(iter(loader), None)
                step += 1
    return found
