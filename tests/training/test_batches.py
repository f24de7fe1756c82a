"""The order of the rows: every row once per epoch, similar lengths together, always the same for the same seed."""

from __future__ import annotations

import math
import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.training.batches import book_batches, plan_batches


@given(st.lists(st.integers(2, 60), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 3))
def test_every_row_is_in_one_batch_per_epoch(lengths: list[int], batch_size: int, epoch: int) -> None:
    batches = plan_batches(lengths, batch_size=batch_size, seed=5, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert max(lengths) in [lengths[index] for index in batches[0]]
    assert plan_batches(lengths, batch_size=batch_size, seed=5, epoch=epoch) == batches


def test_batches_have_similar_lengths_in_random_order() -> None:
    generator = random.Random(1)
    lengths = [generator.randint(30, 90) + index % 37 for index in range(935)]
    batches = plan_batches(lengths, batch_size=8, seed=1, epoch=0)

    def padding_share(groups: list[list[int]]) -> float:
        n_padded = sum(len(group) * max(lengths[index] for index in group) for group in groups)
        return 1 - sum(lengths) / n_padded

    in_file_order = [list(range(start, min(start + 8, 935))) for start in range(0, 935, 8)]
    assert padding_share(batches) < padding_share(in_file_order) / 3
    longest = [max(lengths[index] for index in batch) for batch in batches[1:]]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)
    assert plan_batches(lengths, batch_size=8, seed=1, epoch=1) != batches


def test_batches_do_not_depend_on_torchs_global_generator() -> None:
    lengths = [n % 40 + 5 for n in range(200)]
    torch.manual_seed(1)
    first = plan_batches(lengths, batch_size=8, seed=3, epoch=2)
    torch.manual_seed(2)
    assert plan_batches(lengths, batch_size=8, seed=3, epoch=2) == first
    assert len(first) == math.ceil(200 / 8)


def test_book_batches_leave_torchs_global_generator_unchanged() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    two_epochs = book_batches(50, 5, batch_size=8, seed=1, epochs=2, evaluate_every=5)
    assert torch.equal(torch.rand(3), expected)
    assert two_epochs == book_batches(50, 5, batch_size=8, seed=1, epochs=3, evaluate_every=5)[:2]
    assert [len(epoch) for epoch in two_epochs] == [6, 6]
    assert all(len({row for batch in epoch for row in batch}) == 48 for epoch in two_epochs)
