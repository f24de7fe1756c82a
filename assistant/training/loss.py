"""The loss: summed cross-entropy of a batch, and the log-probability of each row.

Shapes: B rows, K target positions, V vocab_size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.model.gpt import GPT
from assistant.model.linear import has_copies
from assistant.model.packing import IGNORE_INDEX
from assistant.training.collate import Batch, PaddedBatch

UPCAST_ROWS = 8
"""Rows of logits that a processor upcasts at a time."""


def summed_loss(model: GPT, batch: Batch, precision: torch.dtype = torch.float32) -> Tensor:
    """Summed cross-entropy (float32 scalar, nats) over the targets that count.

    The head runs only at those positions. For the mean, divide by the number of targets of the whole optimizer step,
    not of this batch. A padded batch is computed in the plain way, position by position, as a reference.
    """
    losses, target_mask = _target_losses(model, batch, precision)
    return losses @ target_mask.sum(dim=0)


def log_probabilities(model: GPT, batch: Batch, precision: torch.dtype = torch.float32) -> Tensor:
    """Summed log-probability (nats) of each row's targets: (B,) float32. Computed as in `summed_loss`."""
    losses, target_mask = _target_losses(model, batch, precision)
    return -(target_mask @ losses)  # not `index_add`, whose order of additions varies on a GPU


def _target_losses(model: GPT, batch: Batch, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cross-entropy (K,) of the targets, and a mask (B, K): 1 where a target counts in a row. Both float32."""
    is_reference = isinstance(batch, PaddedBatch)
    needs_autocast = precision is torch.bfloat16 and (is_reference or not has_copies(model))
    with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=needs_autocast):
        if isinstance(batch, PaddedBatch):
            counted = batch.targets != IGNORE_INDEX
            targets, target_mask = batch.targets[counted], _one_hot_rows(counted.nonzero()[:, 0], len(counted))
            logits = model.head(model(batch.input_ids)[counted])
        else:
            logits, targets, target_mask = model.target_logits(batch), batch.targets, batch.target_mask
    if is_reference or logits.device.type != "cpu":
        return F.cross_entropy(logits.float(), targets, reduction="none"), target_mask
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses, target_mask


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy that upcasts a few rows of logits at a time, so that float32 logits never exist all at once.

    Backward overwrites the logits with their gradient, so it can run only once.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (K, V), targets (K,) int64 -> (K,) float32 nats."""
        ctx.save_for_backward(logits, targets)
        parts = zip(torch.split(logits, UPCAST_ROWS), torch.split(targets, UPCAST_ROWS), strict=True)
        return torch.cat([F.cross_entropy(part.float(), ids, reduction="none") for part, ids in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The logits are the largest tensor of a step, and nothing else needs them.
        logits, targets = ctx.saved_tensors
        parts = (torch.split(tensor, UPCAST_ROWS) for tensor in (logits, targets, gradient))
        for part, ids, factors in zip(*parts, strict=True):
            probabilities = part.float().softmax(dim=1)
            probabilities[torch.arange(len(probabilities)), ids] -= 1
            part.copy_(probabilities.mul_(factors[:, None]))
        return logits, None


def _one_hot_rows(rows: Tensor, n_rows: int) -> Tensor:
    """(B, K) float32, 1 where the k-th entry of `rows` (K,) is that row."""
    return (rows == torch.arange(n_rows, device=rows.device)[:, None]).float()
