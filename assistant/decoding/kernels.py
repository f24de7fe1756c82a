"""Weight matrices in the storage that decoding uses, and torch's ways to multiply with them.

On a processor `assistant.decoding.step` multiplies in C. These are for a GPU, for machines where nothing was compiled,
and for many tokens at once where the processor has no matrix units.

This module knows nothing about models, caches or tokens. Shapes: M rows, I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.settings import Storage

Matmul = Callable[[Tensor], Tensor]
"""(M, I) of any dtype -> (M, O) with the bias added, in float32 or in the 16-bit dtype it was computed in."""

FEW_ROWS = 16
"""With at most so many rows, reading the weights takes the time; with more, the arithmetic does."""
INT8_MAX = 127
QUANTIZED_ROWS = 256
"""Rows that are rounded at a time."""


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight (O, I) in some storage, and its bias (O,) in float32 if there is one."""

    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None = None
    """(O,) float32, one scale per output feature; only for int8."""

    def dequantize(self) -> Tensor:
        """Return the weight (O, I) in float32, with the rounding of its storage."""
        weight = self.weight.float()
        return weight if self.scales is None else weight * self.scales[:, None]


def store_weight(weight: Tensor, bias: Tensor | None, storage: Storage) -> StoredWeight:
    """Convert a weight (O, I) float32 to a storage. float32 shares the tensors; every other storage copies them."""
    weight = weight.detach()
    if storage == "float32":
        return StoredWeight(weight, None if bias is None else bias.detach())
    # Clone the bias: a small view of a memory-mapped file keeps the whole file in memory.
    bias = None if bias is None else bias.detach().clone()
    if storage == "int8":
        lowest, highest = torch.aminmax(weight, dim=1)
        scales = (torch.maximum(highest, -lowest) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
        # torch's int8 kernel multiplies with bfloat16 scales, so divide the weights by the same rounded scales.
        scales = scales.bfloat16().float()
        quantized = torch.empty_like(weight, dtype=torch.int8)
        for start in range(0, len(weight), QUANTIZED_ROWS):  # a part that stays in the processor's caches
            rows = slice(start, start + QUANTIZED_ROWS)
            quantized[rows] = (weight[rows] / scales[rows, None]).round_().clamp_(-INT8_MAX, INT8_MAX)
        return StoredWeight(quantized, bias, scales)
    return StoredWeight(weight.to(getattr(torch, storage)), bias)


# --- kernels ------------------------------------------------------------------------------------------------------


def float32_linear(stored: StoredWeight) -> Matmul:
    """Multiply in float32, for any storage. Weights in other storages are dequantized again in every call."""
    if stored.weight.dtype is torch.float32:
        return lambda x: F.linear(x.float(), stored.weight, stored.bias)
    return lambda x: F.linear(x.float(), stored.dequantize(), stored.bias)


def half_linear(stored: StoredWeight) -> Matmul:
    """Multiply in the weight's 16-bit dtype; this rounds inputs and outputs to 16 bits too."""
    dtype = stored.weight.dtype
    bias = None if stored.bias is None else stored.bias.to(dtype)
    return lambda x: F.linear(x.to(dtype), stored.weight, bias)


def int8_weight_only(stored: StoredWeight) -> Matmul:
    """Multiply int8 weights with inputs rounded to bfloat16. torch may rename this private operator in any version."""
    assert stored.scales is not None
    weight, scales, bias = stored.weight, stored.scales.bfloat16(), stored.bias
    int8_matmul = torch._weight_int8pack_mm
    if bias is None:
        return lambda x: int8_matmul(x.bfloat16(), weight, scales)
    return lambda x: int8_matmul(x.bfloat16(), weight, scales) + bias


def int8_as_bfloat16(stored: StoredWeight) -> Matmul:
    """Upcast int8 weights to bfloat16, which is exact, in every call; inputs are rounded to bfloat16."""
    assert stored.scales is not None
    weight, scales, bias = stored.weight, stored.scales, stored.bias
    if bias is None:
        return lambda x: F.linear(x.bfloat16(), weight.bfloat16()) * scales
    return lambda x: (F.linear(x.bfloat16(), weight.bfloat16()) * scales).add_(bias)


Kernel = Callable[[StoredWeight], Matmul]


def pick_kernels(stored: StoredWeight) -> tuple[Kernel, Kernel, Kernel]:
    """The kernels of a weight for one row, for at most `FEW_ROWS`, and for more."""
    dtype = stored.weight.dtype
    if stored.weight.device.type != "cpu" or dtype is torch.float32:
        return (float32_linear,) * 3
    if dtype is torch.int8:
        many = int8_as_bfloat16 if _has_matrix_units() else float32_linear
        # For a row that does not fill whole vectors, torch 2.13 reads after its end, and crashes.
        has_kernel = hasattr(torch, "_weight_int8pack_mm") and stored.weight.shape[1] % 64 == 0
        return int8_weight_only if has_kernel else many, many, many
    many = half_linear if dtype is torch.bfloat16 and _has_matrix_units() else float32_linear
    return half_linear, many if dtype is torch.bfloat16 else half_linear, many


@cache
def _has_matrix_units() -> bool:
    """Whether bfloat16 products are faster than float32. AVX512_BF16 alone is slower (benchmarks/RESULTS.md)."""
    return bool(torch.cpu._is_amx_tile_supported())


class DecodeLinear:
    """A stored weight as a linear layer."""

    def __init__(self, stored: StoredWeight, *, plain: bool) -> None:
        """A plain layer computes in float32; others in the way that is fast for the number of rows."""
        kernels = (float32_linear,) * 3 if plain else pick_kernels(stored)
        matmuls = {kernel: kernel(stored) for kernel in set(kernels)}
        self._one_row, self._few_rows, self._many_rows = (matmuls[kernel] for kernel in kernels)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (M, I) of any dtype to (M, O), in float32 or in the kernel's 16-bit dtype."""
        n_rows = x.shape[0]
        matmul = self._one_row if n_rows == 1 else self._few_rows if n_rows <= FEW_ROWS else self._many_rows
        return matmul(x)
