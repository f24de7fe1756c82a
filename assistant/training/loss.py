"""The loss: summed cross-entropy of a batch, the log-probability of each row, and the loss of each row's label.

Shapes: B rows, N tokens, K target positions, V vocab_size or labels, C n_embd.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.model.gpt import GPT
from assistant.model.linear import has_copies
from assistant.model.packing import IGNORE_INDEX, PackedBatch
from assistant.training.collate import Batch, PaddedBatch

UPCAST_ROWS, UPCAST_LOGITS = 8, 2**18
"""Rows of logits that a processor upcasts at a time; more if the vocabulary is so small that they hold fewer logits."""


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


def label_losses(
    model: GPT, batch: Batch, precision: torch.dtype = torch.float32, before_last: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy (nats) of each row's label, and 1 where the likeliest label is right: both (B,) float32.

    `before_last` (N, C) is what the last block reads at every token of a packed batch, where it is known already.
    """
    with _autocast(model, batch, precision):
        if isinstance(batch, PaddedBatch) or before_last is None:
            logits, targets, target_mask = _target_logits(model, batch)
        else:
            logits = model.target_logits(batch, before_last)
            targets, target_mask = batch.targets, batch.target_mask
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    hits = (logits.argmax(dim=1) == targets).float()
    return target_mask @ losses, target_mask @ hits


def before_last_block(model: GPT, batch: PackedBatch, precision: torch.dtype = torch.float32) -> Tensor:
    """What the last block reads at every token of a packed batch: (N, C) float32, computed as in the loss."""
    with _autocast(model, batch, precision):
        return model.before_last_block(batch).float()


def _target_losses(model: GPT, batch: Batch, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cross-entropy (K,) of the targets, and a mask (B, K): 1 where a target counts in a row. Both float32."""
    with _autocast(model, batch, precision):
        logits, targets, target_mask = _target_logits(model, batch)
    if isinstance(batch, PaddedBatch) or logits.device.type != "cpu":
        return F.cross_entropy(logits.float(), targets, reduction="none"), target_mask
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses, target_mask


def _autocast(model: GPT, batch: Batch, precision: torch.dtype) -> torch.autocast:
    """torch's autocast, on if the products are bfloat16 and the layers have no copies of their weights for that."""
    is_needed = precision is torch.bfloat16 and (isinstance(batch, PaddedBatch) or not has_copies(model))
    return torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=is_needed)


def _target_logits(model: GPT, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (K, V) and targets (K,), and a mask (B, K) float32: 1 where a target counts in a row."""
    if isinstance(batch, PackedBatch):
        return model.target_logits(batch), batch.targets, batch.target_mask
    counted = batch.targets != IGNORE_INDEX
    target_mask = _one_hot_rows(counted.nonzero()[:, 0], len(counted))
    return model.head(model(batch.input_ids)[counted]), batch.targets[counted], target_mask


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy that upcasts a few rows of logits at a time, so that float32 logits never exist all at once.

    Backward overwrites the logits with their gradient, so it can run only once.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (K, V), targets (K,) int64 -> (K,) float32 nats."""
        ctx.save_for_backward(logits, targets)
        losses, n_rows = torch.empty(len(logits)), _upcast_rows(logits)
        upcast, scores = torch.empty(2, n_rows, logits.shape[1])
        parts = (torch.split(tensor, n_rows) for tensor in (logits, targets, losses))
        for part, ids, out in zip(*parts, strict=True):
            # Into the same memory: glibc finds another place for each new tensor of this size, 40 MB in all.
            torch.log_softmax(upcast[: len(part)].copy_(part), dim=1, out=scores[: len(part)])
            out.copy_(F.nll_loss(scores[: len(part)], ids, reduction="none"))
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The logits are the largest tensor of a step, and nothing else needs them.
        logits, targets = ctx.saved_tensors
        parts = (torch.split(tensor, _upcast_rows(logits)) for tensor in (logits, targets, gradient))
        for part, ids, factors in zip(*parts, strict=True):
            probabilities = part.float().softmax(dim=1)
            probabilities[torch.arange(len(probabilities)), ids] -= 1
            part.copy_(probabilities.mul_(factors[:, None]))
        return logits, None


def _upcast_rows(logits: Tensor) -> int:
    """How many rows of logits (K, V) to upcast at a time."""
    return max(UPCAST_ROWS, UPCAST_LOGITS // logits.shape[1])


def _one_hot_rows(rows: Tensor, n_rows: int) -> Tensor:
    """(B, K) float32, 1 where the k-th entry of `rows` (K,) is that row."""
    return (rows == torch.arange(n_rows, device=rows.device)[:, None]).float()
