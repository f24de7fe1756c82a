"""Linear layers as training on a processor wants them: bfloat16 copies of the weights, and small gradients.

The weights stay float32, and the optimizer updates those. torch's autocast makes its copies anew in every step and
widens every gradient as soon as it is there, which costs a tenth of a step of GPT-2 124M and a quarter of a gigabyte.
On a GPU that is little, and autocast stays.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_PART = 8192
"""Rows of a weight's gradient that are computed together: the head's 50,257 at once take a quarter more time."""


class Linear(nn.Linear):
    """torch's linear layer, which can be given a bfloat16 copy of its weights to compute with."""

    copy: Tensor | None = None
    """(out, in) bfloat16."""
    copied_version = -1
    """Which state of the weights it is a copy of, as torch counts their changes. Its fused optimizers count none, so
    whoever lets one take a step has to call `renew_copy`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out): bfloat16 if there is a copy, unless autocast decides."""
        if self.copy is None or torch.is_autocast_enabled(x.device.type):
            return F.linear(x, self.weight, self.bias)
        matrix = self.newest_copy()
        out: Tensor = _CopyLinear.apply(x.to(matrix.dtype), self.weight, self.bias, matrix, None)  # type: ignore[no-untyped-call]
        return out

    def as_tied_head(self, x: Tensor, gradients: list[Tensor]) -> Tensor:
        """The same for a layer without a bias, outside autocast, whose weight is the embedding too.

        The weight's gradient is left in `gradients`, where `embed_tied` takes it from: given the same list, that must
        have made what x was computed from.
        """
        matrix = self.weight.detach() if self.copy is None else self.newest_copy()
        out: Tensor = _CopyLinear.apply(x.to(matrix.dtype), self.weight, None, matrix, gradients)  # type: ignore[no-untyped-call]
        return out

    def newest_copy(self) -> Tensor:
        """The copy, made anew where the weights have changed since."""
        assert self.copy is not None
        if self.copied_version != self.weight._version:
            self.renew_copy()
        return self.copy

    def renew_copy(self) -> None:
        """Make the copy anew, whether or not the weights have been changed."""
        assert self.copy is not None
        self.copy.copy_(self.weight.detach())
        self.copied_version = self.weight._version


class _CopyLinear(torch.autograd.Function):
    """A product with `matrix`, a copy of `weight`, to which its gradient belongs."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, matrix: Tensor, gradients: list[Tensor] | None
    ) -> Tensor:
        del weight
        ctx.save_for_backward(x, matrix)
        ctx.gradients = gradients
        return F.linear(x, matrix, None if bias is None else bias.to(matrix.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, matrix = ctx.saved_tensors
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        flat = gradient.flatten(end_dim=-2)
        for_weight = _outer(flat, x.flatten(end_dim=-2)) if of_weight else None
        if for_weight is not None and ctx.gradients is not None:
            ctx.gradients.append(for_weight)
            for_weight = None
        return (
            gradient @ matrix if of_x else None,
            for_weight,
            # Rounded as the weight's is: to make all numbers wide first takes four times as long.
            flat.sum(dim=0) if of_bias else None,
            None,
            None,
        )


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """left (N, O), right (N, I) -> (O, I), the gradient of a weight: that of a bfloat16 head in parts."""
    if left.dtype is not torch.bfloat16 or left.shape[1] <= HEAD_PART:
        return left.t() @ right
    out = left.new_empty(left.shape[1], right.shape[1])
    for part, columns in zip(torch.split(out, HEAD_PART), torch.split(left, HEAD_PART, dim=1), strict=True):
        torch.mm(columns.t(), right, out=part)
    return out


def embed_tied(weight: Tensor, ids: Tensor, gradients: list[Tensor]) -> Tensor:
    """Rows (N, C) of an embedding (V, C) by ids (N,) int64, where the same matrix is the head (`as_tied_head`).

    Its own gradient is of few rows and would be as large as the matrix; they are added to the head's instead.
    """
    out: Tensor = _TiedEmbedding.apply(weight, ids, gradients)  # type: ignore[no-untyped-call]
    return out


class _TiedEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, gradients: list[Tensor]) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.gradients = gradients
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        of_head: Tensor = ctx.gradients.pop()
        return of_head.index_add_(0, ids, gradient.to(of_head.dtype)), None, None


def add_copies(model: nn.Module, *, narrow_gradients: bool) -> None:
    """Give every linear layer its copy. They are made when needed, and anew whenever the weights have changed.

    With `narrow_gradients` the gradients of these weights are left in bfloat16, as the products give them: right where
    each is the sum over one batch alone.
    """
    for module in model.modules():
        if isinstance(module, Linear):
            module.copy, module.copied_version = torch.empty_like(module.weight, dtype=torch.bfloat16), -1
            if narrow_gradients:
                module.weight.grad_dtype = None  # whatever it comes in


def has_copies(model: nn.Module) -> bool:
    """Whether the layers of a model have bfloat16 copies of their weights."""
    return any(isinstance(module, Linear) and module.copy is not None for module in model.modules())
