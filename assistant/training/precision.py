"""The dtype of the matrix products: what `auto` picks on this machine."""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F

from assistant.settings import Precision

PROBED_WIDTH, PROBED_ROWS, PROBES = 256, 256, 7
WORTH_BFLOAT16 = 1.4
"""How many times as fast bfloat16 must be on a processor: it costs some accuracy, and nobody asked for it."""


def pick_precision(name: Precision, device: torch.device, width: int) -> torch.dtype:
    """The dtype of the matrix products of a model of this `width` (n_embd); weights stay float32.

    `auto` is bfloat16 on a GPU that computes in it, and on a processor that is found to: having the instructions does
    not make it faster everywhere (benchmarks/RESULTS.md). Small models always have float32 on a processor.
    """
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = device.type == "cpu" and width >= PROBED_WIDTH and _is_much_faster_in_bfloat16(width)
    return torch.bfloat16 if has_units else torch.float32


def _is_much_faster_in_bfloat16(width: int) -> bool:
    """Whether a product of a block's largest shape is, and is right. Takes some 30 ms at a width of 768."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, width, generator=generator) for n in (PROBED_ROWS, 4 * width))
    factors = {torch.float32: (rows, weight), torch.bfloat16: (rows.bfloat16(), weight.bfloat16())}
    seconds = dict.fromkeys(factors, math.inf)
    for _ in range(PROBES):
        for dtype, (left, right) in factors.items():
            started = time.perf_counter()
            product = F.linear(left, right)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    is_right = torch.allclose(product.float(), F.linear(rows, weight), atol=0.05 * math.sqrt(width))
    return is_right and seconds[torch.float32] > WORTH_BFLOAT16 * seconds[torch.bfloat16]
