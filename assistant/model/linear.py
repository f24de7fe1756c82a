"""Linear layers for training on a processor: bfloat16 copies of the weights, and gradients that stay in bfloat16.

The weights stay float32, and the optimizer updates those. torch's autocast copies the weights again at every step and
upcasts every gradient at once, which costs a tenth of a step of GPT-2 124M and a quarter of a gigabyte. On a GPU that
cost is small, and autocast is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_PART = 8192
"""Rows of a weight's gradient per product. The head's 50,257 rows in one product take a quarter more time."""


class NoInitialWeights(nn.Module):
    """A layer that draws no initial weights on the device `meta`: torch would load 150 MB of modules for that."""

    weight: Tensor

    def reset_parameters(self) -> None:
        """Draw torch's initial weights, except for a layer without memory."""
        if not self.weight.is_meta:
            super().reset_parameters()  # type: ignore[misc]


class Linear(NoInitialWeights, nn.Linear):
    """torch's linear layer, with an optional bfloat16 copy of its weights to compute with."""

    copy: Tensor | None = None
    """(out, in) bfloat16."""
    copied_version = -1
    """Version counter of the weights when the copy was made. torch's fused optimizers change the weights without
    increasing it, so call `renew_copy` after each of their steps."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out): in bfloat16 if there is a copy, unless autocast is on."""
        if self.copy is None or torch.is_autocast_enabled(x.device.type):
            return F.linear(x, self.weight, self.bias)
        out: Tensor = _CopyLinear.apply(x.to(self.copy.dtype), self.weight, self.bias, self, None)  # type: ignore[no-untyped-call]
        return out

    def as_tied_head(self, x: Tensor, gradients: list[Tensor]) -> Tensor:
        """`forward` for a head whose weight is also the embedding. It has no bias, and autocast must be off.

        Backward puts the weight's gradient into `gradients`. Give the same list to `embed_tied` at the start of the
        forward pass: its backward takes the gradient from there.
        """
        dtype = self.weight.dtype if self.copy is None else self.copy.dtype
        out: Tensor = _CopyLinear.apply(x.to(dtype), self.weight, None, self, gradients)  # type: ignore[no-untyped-call]
        return out

    def current_copy(self) -> Tensor:
        """The copy, renewed if the weights have changed since."""
        assert self.copy is not None
        if self.copied_version != self.weight._version:
            self.renew_copy()
        return self.copy

    def lent_copy(self) -> Tensor | None:
        """The copy's memory for a gradient in bfloat16, until the step or the next use renews it. None for others."""
        if self.copy is None or self.weight.grad_dtype is not None:
            return None
        self.copied_version = -1
        return self.copy.detach()

    def renew_copy(self) -> None:
        """Copy the weights again."""
        assert self.copy is not None
        self.copy.copy_(self.weight.detach())
        self.copied_version = self.weight._version


class _CopyLinear(torch.autograd.Function):
    """A product with the layer's copy of `weight`, if it has one; the gradient goes to `weight`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Linear, gradients: list[Tensor] | None
    ) -> Tensor:
        matrix = weight.detach() if layer.copy is None else layer.current_copy()
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, matrix)
        ctx.layer, ctx.gradients = layer, gradients
        return F.linear(x, matrix, None if bias is None else bias.to(matrix.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, matrix = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        flat = gradient.flatten(end_dim=-2)
        x_gradient = gradient @ matrix if needs_x else None  # before the weight's gradient may replace the matrix
        weight_gradient = _outer(flat, x.flatten(end_dim=-2), ctx.layer.lent_copy()) if needs_weight else None
        if weight_gradient is not None and ctx.gradients is not None:
            ctx.gradients.append(weight_gradient)
            weight_gradient = None
        return (
            x_gradient,
            weight_gradient,
            # In bfloat16, like the weight's gradient. To upcast first takes four times as long.
            flat.sum(dim=0) if needs_bias else None,
            None,
            None,
        )


def _outer(left: Tensor, right: Tensor, out: Tensor | None) -> Tensor:
    """A weight's gradient: left (N, O), right (N, I) -> (O, I), in `out` if given. A large one is computed in parts."""
    out = left.new_empty(left.shape[1], right.shape[1]) if out is None else out
    if left.dtype is not torch.bfloat16 or left.shape[1] <= HEAD_PART:
        return torch.mm(left.t(), right, out=out)
    for part, columns in zip(torch.split(out, HEAD_PART), torch.split(left, HEAD_PART, dim=1), strict=True):
        torch.mm(columns.t(), right, out=part)
    return out


def embed_tied(weight: Tensor, ids: Tensor, gradients: list[Tensor]) -> Tensor:
    """Embedding lookup, weight (V, C) and ids (N,) int64 -> (N, C), for a matrix that is also the head's.

    The lookup's gradient is zero except in a few rows, but a tensor of its own would be as large as the matrix. So
    backward adds those rows to the head's gradient, which `Linear.as_tied_head` put into `gradients`.
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
        head_gradient: Tensor = ctx.gradients.pop()
        return head_gradient.index_add_(0, ids, gradient.to(head_gradient.dtype)), None, None


def add_copies(model: nn.Module, *, narrow_gradients: bool) -> None:
    """Give every linear layer a bfloat16 copy. It is made at first use and renewed when the weights have changed.

    With `narrow_gradients` the weights' gradients stay in bfloat16, as the products return them, in the memory of the
    copies. Use it only if a gradient is the sum over a single batch, and run each layer once in it.
    """
    for module in model.modules():
        if isinstance(module, Linear) and module.weight.dtype is torch.bfloat16:  # frozen, and its own copy
            module.copy, module.copied_version = module.weight.detach(), module.weight._version
        elif isinstance(module, Linear):
            module.copy, module.copied_version = torch.empty_like(module.weight, dtype=torch.bfloat16), -1
            if narrow_gradients:
                module.weight.grad_dtype = None  # keep the dtype that it is computed in
        elif hasattr(module, "is_narrow"):  # a norm, whose result goes to such a layer
            module.is_narrow = True  # type: ignore[assignment]


def has_copies(model: nn.Module) -> bool:
    """Whether the layers of a model have bfloat16 copies of their weights."""
    return any(isinstance(module, Linear) and module.copy is not None for module in model.modules())
