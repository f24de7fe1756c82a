"""The dtype of the matrix products in training: what `auto` means on this machine."""

from __future__ import annotations

import math
import time
from typing import Literal

import torch
import torch.nn.functional as F

from assistant.settings import Precision

Picked = Literal["float32", "bfloat16"]
PROBED_WIDTH, PROBED_ROWS, PROBES = 256, 256, 7
"""Smallest n_embd that is probed, rows of the probed product, and how often it is timed."""
MIN_SPEEDUP = 1.4
"""bfloat16 must be this many times as fast on a processor, because it costs some accuracy."""


def pick_precision(name: Precision, device: torch.device, width: int) -> torch.dtype:
    """The dtype of the products of a model with this `width` (n_embd). The weights stay float32.

    `auto` is bfloat16 on a GPU that supports it, and on a processor where a probe finds it much faster: some processors
    have bfloat16 instructions but are not faster with them (benchmarks/RESULTS.md). Small models always use float32 on
    a processor.
    """
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        is_supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_supported = device.type == "cpu" and width >= PROBED_WIDTH and _is_much_faster_in_bfloat16(width)
    return torch.bfloat16 if is_supported else torch.float32


def _is_much_faster_in_bfloat16(width: int) -> bool:
    """Whether a bfloat16 product of a block's largest shape is right and much faster. About 30 ms at a width of 768."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, width, generator=generator) for n in (PROBED_ROWS, 4 * width))
    factors = {torch.float32: (rows, weight), torch.bfloat16: (rows.bfloat16(), weight.bfloat16())}
    seconds = dict.fromkeys(factors, math.inf)
    for _ in range(PROBES):
        for dtype, (left, right) in factors.items():
            started = time.perf_counter()
            product = F.linear(left, right)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    is_correct = torch.allclose(product.float(), F.linear(rows, weight), atol=0.05 * math.sqrt(width))
    return is_correct and seconds[torch.float32] > MIN_SPEEDUP * seconds[torch.bfloat16]
