"""Encoded rows, and plain computations over them that the project's own are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assistant.dataset.encode import EncodedExample
from assistant.dataset.instructions import Example
from assistant.model.gpt import GPT
from assistant.training.collate import Batch
from assistant.training.loss import summed_loss

BYTE_EOS = 256
"""The id of EOS, and so of padding, in the byte tokenizer."""


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    """Return random ids of the byte tokenizer, int64 of that shape."""
    return torch.randint(0, 257, shape, generator=torch.Generator().manual_seed(seed))


def make_row(prompt: Sequence[int], response: Sequence[int]) -> EncodedExample:
    """Return an encoded row with these ids. Its texts are never read."""
    example = Example(instruction="x", output="y")
    return EncodedExample(input_ids=(*prompt, *response), prompt_length=len(prompt), example=example)


def ragged_rows() -> list[EncodedExample]:
    """Return four rows of different lengths that start with the same nine ids."""
    shared = random_ids(9).tolist()
    rows = []
    for length in (12, 30, 7, 18):
        ids = random_ids(length, seed=length).tolist()
        rows.append(make_row([*shared, *ids[: length // 2]], ids[length // 2 :]))
    return rows


def loss_gradients(model: GPT, batch: Batch, *, precision: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the float32 gradient of every weight from one backward pass of the summed loss."""
    model.zero_grad()
    summed_loss(model, batch, precision).backward()
    return [parameter.grad.float() for parameter in model.parameters() if parameter.grad is not None]


def plain_log_probability(model: GPT, row: EncodedExample) -> Tensor:
    """Return the log-probability (nats) of a row's response, without a batch, a mask or a shift."""
    ids = torch.tensor(row.input_ids)
    log_probabilities = model.head(model(ids[None]))[0].log_softmax(dim=-1)
    positions = range(row.prompt_length, len(ids))
    return torch.stack([log_probabilities[position - 1, ids[position]] for position in positions]).sum()


def reference_log_probability(reference: torch.nn.Module, row: EncodedExample) -> torch.Tensor:
    """Return the log-probability of a row's response by a model of transformers."""
    ids = torch.tensor(row.input_ids)
    log_probabilities = reference(ids[None]).logits[0].log_softmax(dim=-1)
    positions = torch.arange(row.prompt_length, len(ids))
    picked: torch.Tensor = log_probabilities[positions - 1, ids[positions]]
    return picked.sum()
