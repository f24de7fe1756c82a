"""The loss: summed cross-entropy of a batch, and the log-probability of each row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.model.gpt import GPT
from assistant.model.linear import has_copies
from assistant.model.packing import IGNORE_INDEX
from assistant.training.collate import Batch

WIDE_ROWS = 8
"""Rows of logits that a processor makes float32 together."""


def summed_loss(model: GPT, batch: Batch, precision: torch.dtype = torch.float32, *, is_plain: bool = False) -> Tensor:
    """Summed cross-entropy (a float32 scalar, nats) of a batch over the targets that count.

    The head runs on those positions alone; the rest have no say in the loss. Divide by the targets of everything
    that makes one update, not of this batch. What all rows open with is computed once, unless `is_plain`: then every
    position of every row is computed, to compare with.
    """
    losses, counts = _target_losses(model, batch, precision, is_plain)
    return losses @ counts.sum(dim=0)


def log_probabilities(
    model: GPT, batch: Batch, precision: torch.dtype = torch.float32, *, is_plain: bool = False
) -> Tensor:
    """Log-probability (nats) of all targets of each row together: (B,) float32. Computed as `summed_loss` is."""
    losses, counts = _target_losses(model, batch, precision, is_plain)
    return -(counts @ losses)  # not `index_add`, whose order of adding is left to chance on a GPU


def _target_losses(model: GPT, batch: Batch, precision: torch.dtype, is_plain: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy (K,) of the targets, and in which rows each counts: (B, K) of zeros and ones. Both float32."""
    by_autocast = precision is torch.bfloat16 and (is_plain or not has_copies(model))
    with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=by_autocast):
        if is_plain:
            counted = batch.targets != IGNORE_INDEX
            targets, counts = batch.targets[counted], _one_hot_rows(counted.nonzero()[:, 0], len(counted))
            logits = model.head(model(batch.input_ids)[counted])
        else:
            logits, targets, counts = model.logits_at(batch.layout), batch.layout.targets, batch.layout.counts
    if is_plain or logits.device.type != "cpu":
        return F.cross_entropy(logits.float(), targets, reduction="none"), counts
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses, counts


class _CrossEntropy(torch.autograd.Function):
    """Of a few rows at a time: they are made wide where the processor works on them, and never all at once.

    There is one way back alone: it leaves the gradient where the logits were.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (K, V), targets (K,) int64 -> (K,) float32 nats."""
        ctx.save_for_backward(logits, targets)
        parts = zip(torch.split(logits, WIDE_ROWS), torch.split(targets, WIDE_ROWS), strict=True)
        return torch.cat([F.cross_entropy(some.float(), wanted, reduction="none") for some, wanted in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Written over the logits, which nothing else needs: they are the largest of all that a step holds.
        logits, targets = ctx.saved_tensors
        parts = (torch.split(tensor, WIDE_ROWS) for tensor in (logits, targets, gradient))
        for some, wanted, factors in zip(*parts, strict=True):
            wide = some.float().softmax(dim=1)
            wide[torch.arange(len(wide)), wanted] -= 1
            some.copy_(wide.mul_(factors[:, None]))
        return logits, None


def _one_hot_rows(rows: Tensor, n_rows: int) -> Tensor:
    """(B, K) float32 with a one where the k-th of `rows` (K,) is that row."""
    return (rows == torch.arange(n_rows, device=rows.device)[:, None]).float()
